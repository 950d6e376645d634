//! Certificates of our CAs before our verifiers: accepted, and none reaches further than it should.

use crate::common;

use std::sync::Arc;
use std::time::Duration;

use common::{Met, domain, meet};
use edgewarden_ca::{IssuingCa, RootCa, Svid};
use edgewarden_names::{GatewayName, SpiffeId, UnixTime};
use edgewarden_svid::X509Context;
use edgewarden_testkit::Key;
use edgewarden_transport::{Identity, tls};
use tokio::sync::watch;

const HOUR: Duration = Duration::from_secs(3600);

fn identity(root: &RootCa, svid: &Svid) -> Identity {
    Identity::new(
        watch::channel(Some(Arc::new(X509Context {
            id: svid.id.clone(),
            chain_der: svid.chain_der.clone(),
            key_pkcs8: svid.key_pkcs8.clone(),
            bundle_der: vec![root.certificate_der().to_vec()],
            trust_domain: domain(),
        })))
        .1,
    )
}

async fn both(server: &Identity, client: &Identity) -> Met {
    let server = tls::server_config(server, tls::anyone()).unwrap();
    meet(server, tls::client_config(client, tls::anyone()).unwrap()).await
}

#[tokio::test]
async fn members_with_certificates_of_our_cas_meet() {
    let now = UnixTime::now();
    let root = RootCa::create(&domain(), HOUR * 48, now).unwrap();
    let issuing = |name: &str| {
        let (key, name) = (Key::generate(), GatewayName::parse(name).unwrap());
        let point = key.point();
        let certified = root.certify_gateway_ca(&point, &name, HOUR * 24, now).unwrap();
        IssuingCa::create(&key, &certified.chain_der[0], &domain(), &name, HOUR * 12, now).unwrap()
    };
    let member = |ca: &IssuingCa, path: &str| {
        let id = SpiffeId::parse(&format!("spiffe://plant.example/gateway/{path}")).unwrap();
        identity(&root, &ca.issue_svid(&id, &["analytics".into()], HOUR, now).unwrap())
    };
    let (one, two) = (issuing("gw-1"), issuing("gw-2"));
    let fleet = root.server_certificate(&["fleet.example".into()], &[], HOUR, now).unwrap();
    let members = [
        identity(&root, &fleet),
        member(&one, "gw-1/module/analytics"),
        member(&one, "gw-1/leaf/sensor-1"),
        member(&two, "gw-2/module/alerts"),
    ];
    for server in &members {
        for client in &members {
            let met = both(server, client).await;
            assert_eq!(met.by_client.unwrap(), server.id());
            assert_eq!(met.by_server.unwrap(), client.id());
        }
    }

    // Another fleet's members of the same names.
    let stranger = RootCa::create(&domain(), HOUR * 48, now).unwrap();
    let svid = stranger.server_certificate(&[], &[], HOUR, now).unwrap();
    let stranger = identity(&stranger, &svid);
    for member in &members {
        assert!(both(member, &stranger).await.by_server.is_err());
        assert!(both(&stranger, member).await.by_client.is_err());
    }
}

/// A chain that is judged by hand is judged by the same signatures as in a handshake.
#[test]
fn certificates_are_believed_by_the_algorithms_of_a_handshake() {
    let handshake = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let ids = |all: &[&dyn rustls::pki_types::SignatureVerificationAlgorithm]| -> Vec<(Vec<u8>, Vec<u8>)> {
        let id = |one: &&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
            (one.public_key_alg_id().as_ref().to_vec(), one.signature_alg_id().as_ref().to_vec())
        };
        let mut ids: Vec<_> = all.iter().map(id).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(edgewarden_svid::ALGORITHMS), ids(handshake.all));
}
