//! Resident keys in each kind of keystore: the same calls through the same socket.

use crate::common;

use std::time::Duration;

use common::Gateway;
use common::modules::{Site, name, refused, sign_and_certify, subject, verifies};
use common::softhsm;
use edgewarden_ca::spki;
use edgewarden_evidence::tpm::{Attest, AttestKind, Public, Signature};
use edgewarden_identityd::RunError;
use edgewarden_protocol::config::Keystore;
use edgewarden_protocol::control::{Reply, Request};
use edgewarden_simulator_tpm::{Scenario, SimulatedTpm};
use edgewarden_workload_client::keys::Client;
use edgewarden_workload_wire::keys::{Purpose, Wanted};

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
    if !softhsm::is_inside("key_stores::in_a_token") {
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

async fn record_key(gateway: &Gateway) -> Vec<u8> {
    match gateway.ask(Request::RecordKey).await.unwrap() {
        Reply::StorageKey(key) => key.expose().to_vec(),
        other => panic!("{other:?}"),
    }
}

/// The daemons are started again one by one, and the TPM may be away for each of them.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_tpm_is_away_records_are_believed_and_no_state_is_made_anew() {
    let mut gateway = Gateway::new();
    let mut tpm = SimulatedTpm::start(&gateway.folder.path().join("tpm"), Scenario::Normal).unwrap();
    gateway.config.keystore =
        Keystore::DangerousSimulatedTpm { address: ([127, 0, 0, 1], tpm.port()).into() };
    gateway.config.attestation.event_log = tpm.event_log();
    gateway.start().await.unwrap();
    gateway.join_by_point().await;
    gateway.deploy(&common::document(1)).await;
    tpm.power_cut().unwrap();
    let key = record_key(&gateway).await;

    gateway.stop().await;
    let state = gateway.layout().identity_state();
    let kept = std::fs::read(state.join("deployment.json")).unwrap();
    for _ in 0..3 {
        let error = loop {
            match gateway.start().await.unwrap_err() {
                RunError::InUse(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                error => break error,
            }
        };
        assert!(matches!(error, RunError::Keystore(_) | RunError::State(_)), "{error}");
        assert!(!error.to_string().contains("state.untrusted"), "it passes: {error}");
        assert_eq!(std::fs::read(state.join("deployment.json")).unwrap(), kept);
    }
    tpm.reboot(Scenario::Normal).unwrap();
    gateway.start_again().await;
    assert!(gateway.status().await.deployment.is_some());
    assert_eq!(record_key(&gateway).await, key, "after a restart too");

    // The TPM is there, and what it sealed is gone.
    gateway.stop().await;
    let sealed = state.join("sealed/identityd-state.tpm");
    let kept = std::fs::read(&sealed).unwrap();
    std::fs::remove_file(&sealed).unwrap();
    let error = loop {
        match gateway.start().await.unwrap_err() {
            RunError::InUse(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            error => break error.to_string(),
        }
    };
    assert!(error.contains("state.untrusted") && error.contains("no key"), "{error}");
    std::fs::write(&sealed, kept).unwrap();
    gateway.start_again().await;
    assert!(gateway.status().await.deployment.is_some());
}
