//! Resident keys in each kind of keystore: the same calls through the same socket.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::Gateway;
use common::modules::{Site, name, refused, sign_and_certify, subject, verifies};
use common::softhsm;
use edgewarden_ca::spki;
use edgewarden_evidence::tpm::{Attest, AttestKind, Public, Signature};
use edgewarden_protocol::config::Keystore;
use edgewarden_simulator_tpm::{Scenario, SimulatedTpm};
use edgewarden_workload_api::keys::{Client, Purpose, Wanted};

#[tokio::test]
async fn job() {
    common::container::do_job().await;
}

/// The main path, with a restart of the daemon in it.
async fn main_path(mut site: Site) {
    site.deploy(&["alerts"], |document| document["modules"][0]["svid_key"] = "resident".into()).await;
    let mut alerts = site.start("alerts", 2).await;
    let client = alerts.client().await;
    let certified = sign_and_certify(&client).await;
    let (point, _) = subject(&certified.chain_der[0]);
    let (_, right, _) = client.create_key(&name("data"), Purpose::Encrypt, Wanted::default()).await.unwrap();
    let sealed = client.encrypt(&name("data"), &right, b"data", b"context").await.unwrap();
    client.seal(&name("secret"), &[7; 1000], None, Wanted::default()).await.unwrap();

    site.gateway.restart().await;
    let client = alerts.client().await;
    let (_, right) = client.grant(&name("svid"), Wanted::default()).await.unwrap();
    let signature = client.sign(&name("svid"), &right, b"again").await.unwrap();
    assert!(verifies(&spki::der(&point).unwrap(), b"again", &signature));
    check_proof(&client, &site, &point).await;
    let (_, data) = client.grant(&name("data"), Wanted::default()).await.unwrap();
    assert_eq!(client.decrypt(&name("data"), &data, &sealed, b"context").await.unwrap().as_slice(), b"data");
    let (_, secret) = client.grant(&name("secret"), Wanted::default()).await.unwrap();
    assert_eq!(client.unseal(&name("secret"), &secret).await.unwrap().as_slice(), [7; 1000]);

    for (key, right) in [("svid", right), ("data", data), ("secret", secret)] {
        client.delete_key(&name(key), &right).await.unwrap();
        assert_eq!(refused(client.grant(&name(key), Wanted::default()).await), "key.unknown", "{key}");
    }
    // Where the store keeps its files, nothing of them is left.
    let state = site.gateway.layout().identity_state();
    let left = common::modules::files(&state);
    let left: Vec<_> = left.iter().filter(|file| file.to_string_lossy().contains("/k-")).collect();
    assert!(left.is_empty(), "{left:?}");
    client.create_key(&name("svid"), Purpose::Sign, Wanted::default()).await.unwrap();
    assert_ne!(client.public_key(&name("svid")).await.unwrap(), spki::der(&point).unwrap(), "another key");
}

/// TPM2_Certify of the very key in the certificate, over our nonce, by a key of the TPM; or the store says that it cannot.
async fn check_proof(client: &Client, site: &Site, point: &[u8]) {
    let (_, right) = client.grant(&name("svid"), Wanted::default()).await.unwrap();
    let nonce = [9; 32];
    let certified = client.certify(&name("svid"), &right, &nonce).await;
    if !matches!(site.gateway.config.keystore, Keystore::DangerousSimulatedTpm { .. }) {
        assert_eq!(refused(certified), "request.invalid");
        return;
    }
    let certified = certified.unwrap();
    let proof = certified.attestation.unwrap();
    assert_eq!(subject(&certified.chain_der[0]).0, point);
    let attest = Attest::parse(&proof.message).unwrap();
    let key = Public::parse(&proof.key_public).unwrap();
    assert_eq!((attest.extra_data.as_slice(), key.point().unwrap()), (nonce.as_slice(), point.to_vec()));
    assert!(matches!(&attest.kind, AttestKind::Certify { name, .. } if *name == key.name()));
    let ak = spki::der(&Public::parse(&proof.ak_public).unwrap().point().unwrap()).unwrap();
    let signature = Signature::parse(&proof.signature).unwrap().to_der().unwrap();
    assert!(verifies(&ak, &proof.message, &signature));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_tpm() {
    let mut gateway = Gateway::new();
    let tpm = SimulatedTpm::start(&gateway.folder.path().join("tpm"), Scenario::Normal).unwrap();
    gateway.config.keystore =
        Keystore::DangerousSimulatedTpm { address: ([127, 0, 0, 1], tpm.port()).into() };
    gateway.config.attestation.event_log = tpm.event_log();
    gateway.start().await.unwrap();
    main_path(Site::of(gateway).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_token() {
    if !softhsm::is_inside("in_a_token") {
        return;
    }
    let mut gateway = Gateway::new();
    gateway.config.keystore = softhsm::keystore(gateway.folder.path());
    gateway.start().await.unwrap();
    main_path(Site::of(gateway).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_software() {
    main_path(Site::of(Gateway::started().await).await).await;
}
