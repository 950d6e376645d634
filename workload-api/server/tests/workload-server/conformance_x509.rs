//! The rules of the X.509 profile (SPIFFE Workload API section 5), each with a test of its name (docs/workload-api.md),
//! against a real socket.

use crate::common;

use std::collections::BTreeSet;

use common::{ID, Served, request};
use edgewarden_svid::der;
use edgewarden_workload_wire::workloadapi::{X509BundlesRequest, X509svidRequest, X509svidResponse};
use tonic::{Code, Streaming};

async fn svids(served: &Served) -> Streaming<X509svidResponse> {
    served.client().await.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner()
}

/// Section 5.2: a stream that opens anew begins with what is in use, and not with something new.
#[tokio::test]
async fn must_give_the_same_svid_on_consecutive_streams() {
    let served = Served::new();
    let first = svids(&served).await.message().await.unwrap().unwrap();
    for _ in 0..5 {
        assert_eq!(svids(&served).await.message().await.unwrap().unwrap(), first);
    }
    served.source.rotate();
    let second = svids(&served).await.message().await.unwrap().unwrap();
    assert_ne!(second, first);
    assert_eq!(svids(&served).await.message().await.unwrap().unwrap(), second);
}

/// Section 5.2: all fields but the hint are mandatory, and there is at least one identity.
#[tokio::test]
async fn must_fill_every_mandatory_field() {
    let served = Served::new();
    let message = svids(&served).await.message().await.unwrap().unwrap();
    assert_eq!(message.svids[0].spiffe_id, ID, "the default identity is the first");
    for svid in &message.svids {
        assert!(!svid.x509_svid.is_empty() && !svid.x509_svid_key.is_empty() && !svid.bundle.is_empty());
        assert!(!der::split(&svid.x509_svid).unwrap().is_empty());
        assert!(!der::split(&svid.bundle).unwrap().is_empty());
    }
}

/// Section 5.2: PKCS#8, DER, unencrypted; the leaf is the first certificate.
#[tokio::test]
async fn must_give_a_chain_whose_key_is_the_one_beside_it() {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
    let served = Served::new();
    let message = svids(&served).await.message().await.unwrap().unwrap();
    let svid = &message.svids[0];
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &svid.x509_svid_key).unwrap();
    let leaf = &der::split(&svid.x509_svid).unwrap()[0];
    let point = pair.public_key().as_ref();
    assert!(leaf.windows(point.len()).any(|window| window == point));
}

/// Section 5.2.
#[tokio::test]
async fn must_not_repeat_a_hint() {
    let served = Served::new();
    let message = svids(&served).await.message().await.unwrap().unwrap();
    let hints: Vec<_> = message.svids.iter().map(|svid| &svid.hint).filter(|hint| !hint.is_empty()).collect();
    let unique: BTreeSet<_> = hints.iter().collect();
    assert!(unique.len() == hints.len() && hints.iter().all(|hint| hint.len() <= 1024));
}

/// Section 5.3.
#[tokio::test]
async fn must_give_a_bundle_of_its_own_trust_domain() {
    let served = Served::new();
    let stream = served.client().await.fetch_x509_bundles(request(X509BundlesRequest {})).await.unwrap();
    let message = stream.into_inner().message().await.unwrap().unwrap();
    let own: Vec<_> = message.bundles.iter().collect();
    assert_eq!(own, [(&"spiffe://plant.example".to_owned(), &served.source.authority.der.clone().into())]);
}

/// Section 4.1: what is withdrawn is not left with who holds a stream.
#[tokio::test]
async fn must_end_a_stream_when_the_identity_is_withdrawn() {
    let served = Served::new();
    let mut stream = svids(&served).await;
    stream.message().await.unwrap().unwrap();
    served.source.give(None);
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
}
