//! A store's answer to a fleet's challenge, judged as the fleet judges it, and what the gateway then issues.

use crate::common;

use std::time::Duration;

use common::{Fixture, Swtpm, domain, gateway};
use edgewarden_appraisal::{Appraised, Failure, Pending, ReferenceValues, VendorRoots, appraise, challenge};
use edgewarden_ca::{IssuingCa, RootCa};
use edgewarden_keystore::{CaKey, Keystore, open};
use edgewarden_names::{ModuleName, Reason, SpiffeId, UnixTime};
use edgewarden_protocol::config;
use edgewarden_protocol::enrol::{Challenge, Proof, VerdictState};
use edgewarden_simulator_tpm::{Scenario, SimulatedTpm};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86400);

struct Measured {
    tpm: SimulatedTpm,
    folder: TempDir,
}

impl Measured {
    fn boot() -> Self {
        let folder = TempDir::new().unwrap();
        Self { tpm: SimulatedTpm::start(&folder.path().join("tpm"), Scenario::Normal).unwrap(), folder }
    }

    fn store(&self) -> std::sync::Arc<dyn Keystore> {
        let address = ([127, 0, 0, 1], self.tpm.port()).into();
        open(&config::Keystore::DangerousSimulatedTpm { address }, self.folder.path()).unwrap()
    }

    fn log(&self) -> Vec<u8> {
        std::fs::read(self.tpm.event_log()).unwrap()
    }

    fn vendors(&self) -> VendorRoots {
        VendorRoots::from_pem(&std::fs::read(self.tpm.vendor_ca()).unwrap()).unwrap()
    }

    fn references(&self) -> Vec<ReferenceValues> {
        vec![ReferenceValues::learn("normal", &self.log()).unwrap()]
    }
}

/// Challenge that the fleet sends, and the state that it keeps until the answer comes.
fn challenged(store: &dyn Keystore, vendors: &VendorRoots) -> (Challenge, Pending) {
    let (parts, pending) = challenge(&store.device_keys().unwrap(), vendors, UnixTime::now()).unwrap();
    let challenge =
        Challenge { session: "1".into(), nonce: parts.nonce, pcrs: parts.pcrs, credential: parts.credential };
    (challenge, pending)
}

fn judged(
    pending: &Pending,
    proof: &Proof,
    references: &[ReferenceValues],
) -> Result<Appraised, Box<Failure>> {
    appraise(pending, proof, references, UnixTime::now())
}

/// The gateway CA is certified, and what it signs verifies from the fleet's root down.
fn issues(store: &dyn Keystore, appraised: &Appraised) {
    assert_eq!(appraised.ca_public_point(), store.ca_public().unwrap());
    let now = UnixTime::now();
    let root = RootCa::create(&domain(), DAY * 365, now).unwrap();
    let certified = root
        .certify_gateway_ca(appraised.ca_public_point(), &gateway(), DAY * 30, now)
        .unwrap()
        .chain_der
        .remove(0);
    let issuing = IssuingCa::create(&CaKey(store), &certified, &domain(), &gateway(), DAY, now).unwrap();
    let id = SpiffeId::module(&domain(), &gateway(), &ModuleName::parse("analytics").unwrap());
    let svid = issuing.issue_svid(&id, &[], Duration::from_secs(3600), now).unwrap();
    let dir = TempDir::new().unwrap();
    let write = |name: &str, certificates: &[Vec<u8>]| {
        std::fs::write(dir.path().join(name), edgewarden_names::pem::chain(certificates)).unwrap();
    };
    write("root.pem", &[root.certificate_der().to_vec()]);
    write("leaf.pem", &svid.chain_der[..1]);
    write("above.pem", &svid.chain_der[1..]);
    common::run(std::process::Command::new("openssl").current_dir(dir.path()).args([
        "verify",
        "-x509_strict",
        "-CAfile",
        "root.pem",
        "-untrusted",
        "above.pem",
        "leaf.pem",
    ]));
}

#[test]
fn a_measured_gateway_is_accepted() {
    let gateway_tpm = Measured::boot();
    let store = gateway_tpm.store();
    let (challenge, pending) = challenged(&*store, &gateway_tpm.vendors());
    let proof = store.prove(&challenge, &gateway(), &domain(), gateway_tpm.log()).unwrap();
    let appraised = judged(&pending, &proof, &gateway_tpm.references()).unwrap();
    assert_eq!(appraised.verdict().state, VerdictState::Fresh);
    issues(&*store, &appraised);
}

fn accepted_without_hardware(fixture: &Fixture) {
    let store = fixture.open();
    let (challenge, pending) = challenged(&*store, &VendorRoots::none());
    let proof = store.prove(&challenge, &gateway(), &domain(), Vec::new()).unwrap();
    let appraised = judged(&pending, &proof, &[]).unwrap();
    assert_eq!(appraised.verdict().hardware, "none");
    issues(&*store, &appraised);
    // Another gateway's answer to the same challenge.
    let other = Fixture::software().open().prove(&challenge, &gateway(), &domain(), Vec::new()).unwrap();
    assert!(judged(&pending, &other, &[]).is_err());
}

#[test]
fn a_software_gateway_is_accepted_as_such() {
    accepted_without_hardware(&Fixture::software());
}

#[test]
fn a_gateway_with_a_token_is_accepted_as_one_that_proves_nothing() {
    common::softhsm::alone(|| accepted_without_hardware(&Fixture::pkcs11()));
}

#[test]
fn a_gateway_answers_the_same_after_a_power_cut() {
    let mut gateway_tpm = Measured::boot();
    let store = gateway_tpm.store();
    let references = gateway_tpm.references();
    let (challenge, pending) = challenged(&*store, &gateway_tpm.vendors());
    // The power goes after the challenge came and before it is answered.
    gateway_tpm.tpm.reboot(Scenario::Normal).unwrap();
    let proof = store.prove(&challenge, &gateway(), &domain(), gateway_tpm.log()).unwrap();
    judged(&pending, &proof, &references).unwrap();
}

#[test]
fn another_boot_another_challenge_and_another_tpm_are_refused() {
    let mut one = Measured::boot();
    let other = Measured::boot();
    let (store, other_store) = (one.store(), other.store());
    let references = one.references();
    let reason = |result: Result<Appraised, Box<Failure>>| result.unwrap_err().refusal.reason;

    // The answer to an earlier challenge.
    let (old, _) = challenged(&*store, &one.vendors());
    let (new, pending) = challenged(&*store, &one.vendors());
    let replayed = store.prove(&old, &gateway(), &domain(), one.log()).unwrap();
    assert_eq!(reason(judged(&pending, &replayed, &references)), Reason::AttestActivation);

    // A challenge for this TPM, answered by another: it cannot read the credential.
    assert!(other_store.prove(&new, &gateway(), &domain(), one.log()).is_err());

    // A log of another boot.
    let proof = store.prove(&new, &gateway(), &domain(), Vec::new()).unwrap();
    assert!(judged(&pending, &proof, &references).is_err());

    one.tpm.reboot(Scenario::ChangedKernel).unwrap();
    let (challenge, pending) = challenged(&*store, &one.vendors());
    let changed = store.prove(&challenge, &gateway(), &domain(), one.log()).unwrap();
    assert_eq!(reason(judged(&pending, &changed, &references)), Reason::AttestReference);
}

#[test]
fn a_p384_endorsement_key_is_activated() {
    let tpm = Swtpm::with_p384();
    let vendors = VendorRoots::from_pem(&tpm.vendor_ca_pem()).unwrap();
    let config = config::Keystore::DangerousSimulatedTpm { address: tpm.address() };
    let fixture = Fixture { tpm: Some(tpm), state: TempDir::new().unwrap(), config };
    let store = fixture.open();
    let (challenge, pending) = challenged(&*store, &vendors);
    let proof = store.prove(&challenge, &gateway(), &domain(), Vec::new()).unwrap();
    // This TPM measured nothing, which is found out after the credential was.
    let failure = judged(&pending, &proof, &[]).unwrap_err();
    let passed: Vec<&str> =
        failure.verdict.checks.iter().filter(|check| check.passed).map(|check| check.name.as_str()).collect();
    assert!(passed.iter().any(|name| name.contains("activation")), "{passed:?}: {failure}");
}
