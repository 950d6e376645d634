//! A gateway with a (simulated) TPM: which boots are accepted, and what a changed one closes.

use crate::common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Fleet, domain, name};
use edgewarden_keystore::{Keystore, open};
use edgewarden_names::Reason;
use edgewarden_protocol::config;
use edgewarden_protocol::enrol::{Begin, Challenge, Enrolled, Finish, Proof};
use edgewarden_protocol::uplink::Sync;
use edgewarden_simulator_tpm::{Scenario, SimulatedTpm};
use tempfile::TempDir;

struct Measured {
    folder: TempDir,
    tpm: SimulatedTpm,
}

impl Measured {
    fn boot() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { tpm: SimulatedTpm::start(&folder.path().join("tpm"), Scenario::Normal).unwrap(), folder }
    }

    fn store(&self) -> Arc<dyn Keystore> {
        let address = ([127, 0, 0, 1], self.tpm.port()).into();
        open(&config::Keystore::DangerousSimulatedTpm { address }, self.folder.path()).unwrap()
    }

    fn begin(&self, token: Option<&str>) -> Begin {
        Begin {
            gateway: name("gw-1"),
            trust_domain: domain(),
            token: token.map(Into::into),
            labels: BTreeMap::new(),
            keys: self.store().device_keys().unwrap(),
        }
    }

    fn answer(&self, challenge: &Challenge) -> Finish {
        let log = std::fs::read(self.tpm.event_log()).unwrap();
        let proof = self.store().prove(challenge, &name("gw-1"), &domain(), log).unwrap();
        Finish { session: challenge.session.clone(), proof }
    }

    async fn enrol(&self, fleet: &Fleet, token: Option<&str>) -> Result<Enrolled, Reason> {
        let challenge = fleet.begin(&self.begin(token)).await?;
        fleet.finish(&self.answer(&challenge)).await
    }
}

fn verdict(fleet: &Fleet) -> String {
    fleet.json(&["device", "list"])[0]["verdict"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_boot_fails_the_gateway_until_it_is_accepted_or_undone() {
    let fleet = Fleet::start(&["--web", "127.0.0.1:0"]);
    let mut measured = Measured::boot();
    let token = fleet.token_with("gw-1", &[]);
    assert_eq!(measured.enrol(&fleet, Some(&token)).await.unwrap_err(), Reason::AttestEkUntrusted);
    let vendor = measured.tpm.vendor_ca();
    fleet.cli(&["vendor", "add", vendor.to_str().unwrap()]).ok();
    assert!(!fleet.json(&["vendor", "list"]).as_array().unwrap().is_empty());

    // Nothing is accepted before an operator says what is good. The token is not spent by that.
    assert_eq!(measured.enrol(&fleet, Some(&token)).await.unwrap_err(), Reason::AttestReference);
    assert_eq!(fleet.json(&["device", "list"]), serde_json::json!([]));
    let reference = fleet.cli(&["reference", "accept", "--gateway", "gw-1", "--name", "first"]).ok();
    assert_eq!(reference.trim(), "first");
    fleet
        .cli(&["reference", "accept", "--gateway", "gw-1", "--name", "first"])
        .refused(Reason::RequestInvalid);
    let log = measured.tpm.event_log();
    fleet.cli(&["reference", "add", "--name", "again", "--event-log", log.to_str().unwrap()]).ok();
    let enrolled = measured.enrol(&fleet, Some(&token)).await.unwrap();
    assert!(enrolled.verdict.hardware.contains("tpm"), "{}", enrolled.verdict.hardware);
    assert!(enrolled.verdict.checks.len() > 5 && enrolled.verdict.checks.iter().all(|check| check.passed));
    assert_eq!(verdict(&fleet), "fresh");

    // A stranger who knows the gateway's public keys cannot make it fail.
    let challenge = fleet.begin(&measured.begin(None)).await.unwrap();
    let other = Measured::boot();
    let again = fleet.begin(&measured.begin(None)).await.unwrap();
    let mut forged = measured.answer(&again);
    forged.session = challenge.session;
    assert_ne!(fleet.finish(&forged).await.unwrap_err(), Reason::AttestReference, "another session's answer");
    fleet.cli(&["vendor", "add", other.tpm.vendor_ca().to_str().unwrap()]).ok();
    assert_eq!(other.enrol(&fleet, None).await.unwrap_err(), Reason::EnrolToken, "another genuine TPM");
    let again = fleet.token_with("gw-1", &[]);
    assert_eq!(other.enrol(&fleet, Some(&again)).await.unwrap_err(), Reason::AttestEkMismatch, "and a token");
    assert_eq!(verdict(&fleet), "fresh");

    // Nor does a key in a file take the place of the TPM, token or not.
    let file = common::Device::new("gw-1");
    let tpm_only = fleet.token_with("gw-1", &["--label", "site=clinic"]);
    for (token, reason) in [
        (None, Reason::EnrolToken),
        (Some(tpm_only), Reason::EnrolHardware),
        (Some(fleet.token("gw-1")), Reason::AttestEkMismatch),
    ] {
        assert_eq!(file.enrol(&fleet, token.as_deref()).await.unwrap_err(), reason);
    }
    assert_eq!(verdict(&fleet), "fresh");

    // Another kernel: the gateway itself proves that it is not what it was, and everything closes.
    measured.tpm.reboot(Scenario::ChangedKernel).unwrap();
    assert_eq!(measured.enrol(&fleet, None).await.unwrap_err(), Reason::AttestReference);
    let shown = fleet.json(&["device", "show", "gw-1"]);
    assert_eq!(
        (&shown["device"]["verdict"], &shown["device"]["refusal"]["reason"]),
        (&"failed".into(), &"attest.reference".into())
    );
    assert!(shown["checks"].to_string().contains("PCR"), "{shown}");
    let text = fleet.cli(&["device", "show", "gw-1"]).ok();
    assert!(text.contains('✗') && text.contains("edgewarden-fleet reference accept"), "{text}");

    // Its certificates are still valid, and answered with the reason.
    let client = runtimed(&fleet, &measured, &enrolled);
    let sync = Sync { have: None, wait_seconds: 0, report: common::report(), secrets: None };
    let refused = common::post::<_, serde_json::Value>(&client, "/v1/gateway/sync", &sync).await;
    assert_eq!(refused.unwrap_err(), Reason::AttestFailed);

    // It tries to have a boot accepted that never took place: its own PCRs, under another boot's log.
    let challenge = fleet.begin(&measured.begin(None)).await.unwrap();
    let mut lied = measured.answer(&challenge);
    let Proof::Tpm(proof) = &mut lied.proof else { panic!("a TPM answers") };
    proof.event_log = std::fs::read(other.tpm.event_log()).unwrap().into();
    assert_eq!(fleet.finish(&lied).await.unwrap_err(), Reason::AttestEventLog);
    fleet.cli(&["reference", "accept", "--gateway", "gw-1", "--name", "lie"]).refused(Reason::RequestInvalid);

    // Undone: the next renewal heals it. Or meant: then an operator accepts it.
    measured.tpm.reboot(Scenario::Normal).unwrap();
    measured.enrol(&fleet, None).await.unwrap();
    assert_eq!(verdict(&fleet), "fresh");
    let client = runtimed(&fleet, &measured, &enrolled);
    common::post::<_, serde_json::Value>(&client, "/v1/gateway/sync", &sync).await.unwrap();
    measured.tpm.reboot(Scenario::ChangedKernel).unwrap();
    assert_eq!(measured.enrol(&fleet, None).await.unwrap_err(), Reason::AttestReference);
    fleet.cli(&["reference", "accept", "--gateway", "gw-1"]).ok();
    measured.enrol(&fleet, None).await.unwrap();
    assert_eq!(verdict(&fleet), "fresh");
    assert_eq!(fleet.json(&["reference", "list"]).as_array().unwrap().len(), 3);
}

/// A client of the gateway's `runtimed`. Its issuing CA is signed by the key in the TPM, as in `identityd`.
fn runtimed(fleet: &Fleet, measured: &Measured, enrolled: &Enrolled) -> edgewarden_transport::http::Client {
    let store = measured.store();
    let ca = common::issuing_ca(&edgewarden_keystore::CaKey(&*store), &name("gw-1"), enrolled);
    common::client(fleet, &ca, &"spiffe://plant.example/gateway/gw-1/module/runtimed".parse().unwrap())
}
