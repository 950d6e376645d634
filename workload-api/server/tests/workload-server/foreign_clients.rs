//! A stock client of other makers against our socket: the crate `spiffe` and its JWT profile. Those in other languages are
//! the examples of `examples/clients`, which `identity-service/identityd/tests/identityd/clients.rs` runs.

use crate::common;

use common::{ID, Served};
use spiffe::{JwtSource, TrustDomain, WorkloadApiClient};

#[tokio::test]
async fn the_spiffe_crate_is_served_its_jwt_profile() {
    let served = Served::new();
    let endpoint = format!("unix://{}", served.socket.display());
    let stock = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
    let svid = stock.fetch_jwt_svid(["db", "queue"], None).await.unwrap();
    assert_eq!(svid.spiffe_id().to_string(), ID);
    let judged = stock.validate_jwt_token("queue", svid.token()).await.unwrap();
    assert_eq!(judged.spiffe_id().to_string(), ID);
    assert!(stock.validate_jwt_token("other", svid.token()).await.is_err());
    let own = TrustDomain::new("plant.example").unwrap();
    let bundles = stock.fetch_jwt_bundles().await.unwrap();
    assert_eq!(bundles.get(&own).unwrap().jwt_authorities().count(), 1);

    // A source of keys that follows the stream.
    let source = JwtSource::builder().endpoint(&endpoint).build().await.unwrap();
    let mut updates = source.updated();
    let next = edgewarden_svid::jwt::SigningKey::generate().unwrap();
    let both = common::bundles_with(&[&served.source.jwt, &next], 2);
    served.source.bundles.send_replace(std::sync::Arc::new(both));
    while source.try_bundle_for_trust_domain(&own).unwrap().jwt_authorities().count() < 2 {
        updates.changed().await.unwrap();
    }
}
