//! The verifier against a TPM that it did not write: swtpm, driven by tpm2-tools.

use crate::common;

use std::fs;

use common::Gateway;
use edgewarden_appraisal::{ReferenceValues, VendorRoots, appraise, challenge};
use edgewarden_evidence::HashAlg;
use edgewarden_evidence::event_log::EventLog;
use edgewarden_evidence::tpm::{Attest, AttestKind, PcrSelections};
use edgewarden_names::{Reason, UnixTime};
use edgewarden_protocol::enrol::{DeviceKeys, Proof, VerdictState};
use edgewarden_simulator_tpm::{Boot, EkAlgorithm, Scenario, Start};

fn roots(gateway: &Gateway) -> VendorRoots {
    VendorRoots::from_pem(&fs::read(gateway.tpm.vendor_ca()).unwrap()).unwrap()
}

fn learn(gateway: &Gateway, name: &str) -> ReferenceValues {
    ReferenceValues::learn(name, &fs::read(gateway.tpm.event_log()).unwrap()).unwrap()
}

fn whole_story(ek: EkAlgorithm) {
    let mut gateway = Gateway::new(ek);
    let now = UnixTime::now();
    let roots = roots(&gateway);
    let normal = learn(&gateway, "normal");
    let (parts, pending) = challenge(&gateway.keys(), &roots, now).unwrap();
    assert_eq!(pending.hardware(), "tpm id:00001014 swtpm");
    let proof = Proof::Tpm(Box::new(gateway.answer(&parts)));
    let appraised = appraise(&pending, &proof, std::slice::from_ref(&normal), now).unwrap();
    assert_eq!(appraised.verdict().state, VerdictState::Fresh);
    assert_eq!(appraised.verdict().reference.as_deref(), Some("normal"));

    // The next power cycle brings another kernel. The same keys answer, genuinely, and are refused.
    gateway.tpm.reboot(Scenario::ChangedKernel).unwrap();
    let (parts, again) = challenge(&gateway.keys(), &roots, now).unwrap();
    assert_eq!(again.device(), pending.device());
    let proof = Proof::Tpm(Box::new(gateway.answer(&parts)));
    let failure = appraise(&again, &proof, std::slice::from_ref(&normal), now).unwrap_err();
    assert_eq!(failure.refusal.reason, Reason::AttestReference);
    assert!(failure.is_genuine());
    let rule = &failure.refusal.rule;
    assert!(rule.contains("PCR 4 differs from reference `normal`; event "), "{rule}");
    assert!(rule.contains("PCR 9 differs from reference `normal`; event "), "{rule}");
    let changed = learn(&gateway, "changed");
    assert!(appraise(&again, &proof, &[normal, changed], now).is_ok(), "an operator accepts it");
}

#[test]
fn a_gateway_with_an_rsa_ek_is_attested() {
    whole_story(EkAlgorithm::Rsa2048);
}

#[test]
fn a_gateway_with_a_p384_ek_is_attested() {
    whole_story(EkAlgorithm::P384);
}

/// An impostor has the EK certificate of another TPM, and its own AK.
#[test]
fn a_credential_opens_in_its_own_tpm_only() {
    let (own, other) = (Gateway::new(EkAlgorithm::Rsa2048), Gateway::new(EkAlgorithm::Rsa2048));
    let (parts, _) = challenge(&own.keys(), &roots(&own), UnixTime::now()).unwrap();
    let credential = parts.credential.unwrap();
    assert_eq!(other.activate(&credential), None);
    assert!(own.activate(&credential).is_some());
    // The right certificate with another TPM's key, or with another key of the same TPM.
    let p384 = Gateway::new(EkAlgorithm::P384);
    for stranger in [&other, &p384] {
        let (DeviceKeys::Tpm { ek_certificates, ak_public, .. }, DeviceKeys::Tpm { ek_public, .. }) =
            (own.keys(), stranger.keys())
        else {
            panic!("no TPM")
        };
        let keys = DeviceKeys::Tpm { ek_certificates, ek_public, ak_public };
        let refusal = challenge(&keys, &roots(&own), UnixTime::now()).unwrap_err();
        assert_eq!(refusal.reason, Reason::AttestEkInvalid);
    }
    // Each simulated vendor is its own.
    let refusal = challenge(&own.keys(), &roots(&other), UnixTime::now()).unwrap_err();
    assert_eq!(refusal.reason, Reason::AttestEkUntrusted);
}

/// A TPM that has no SHA-1 bank quotes nothing and does not say so.
#[test]
fn a_quote_over_a_bank_that_is_off_is_empty() {
    let gateway = Gateway::new(EkAlgorithm::Rsa2048);
    let output = gateway.tool("tpm2_pcrread", &["sha256:0"]);
    assert!(output.contains("0x"));
    let log = EventLog::parse(&fs::read(gateway.tpm.event_log()).unwrap()).unwrap();
    let values = log.replay();
    for pcrs in [vec![0], vec![4, 9], (0..24).collect::<Vec<u8>>()] {
        let (quote, _) = gateway.quote(&pcrs, &[1; 32]);
        let attest = Attest::parse(&quote.0).unwrap();
        assert_eq!(attest.to_bytes(), quote.0);
        assert_eq!(attest.extra_data, [1; 32]);
        let AttestKind::Quote { selections, digest } = attest.kind else { panic!("no quote") };
        assert!(selections.is_exactly(HashAlg::Sha256, &pcrs));
        assert_eq!(Some(digest), values.quote_digest(HashAlg::Sha256, HashAlg::Sha256, &pcrs));
    }
    gateway.tool(
        "tpm2_quote",
        &["-c", "0x81018000", "-l", "sha1:0", "-q", "00", "-m", "empty", "-s", "empty.sig"],
    );
    let AttestKind::Quote { selections, .. } = Attest::parse(&gateway.read("empty")).unwrap().kind else {
        panic!("no quote")
    };
    assert_ne!(selections, PcrSelections::default());
    assert!(selections.0.iter().all(|selection| selection.pcrs().is_empty()));
}

/// Without noDA the TPM locks its keys after three power cuts; see the attributes that the verifier requires.
#[test]
fn power_cuts_do_not_lock_the_attestation_key() {
    let mut gateway = Gateway::new(EkAlgorithm::Rsa2048);
    let mut last = 0;
    for _ in 0..6 {
        let (quote, _) = gateway.quote(&[0], &[2; 32]);
        let clock = Attest::parse(&quote.0).unwrap().clock;
        assert!(clock.reset_count > last, "an endorsement primary reports the true reset count");
        last = clock.reset_count;
        gateway.tpm.reboot(Scenario::Normal).unwrap();
    }
}

#[test]
fn an_unmeasured_boot_is_refused() {
    let mut gateway = Gateway::new(EkAlgorithm::Rsa2048);
    gateway.tpm.reboot_with(&Boot::empty()).unwrap();
    let now = UnixTime::now();
    let (parts, pending) = challenge(&gateway.keys(), &roots(&gateway), now).unwrap();
    let proof = Proof::Tpm(Box::new(gateway.answer(&parts)));
    let failure = appraise(&pending, &proof, &[], now).unwrap_err();
    assert_eq!(failure.refusal.reason, Reason::AttestUnmeasured);
}

/// PCR 0 begins where the TPM was started, and the log says so: each such boot is attested, and told from the others.
#[test]
fn boots_of_every_start_are_attested() {
    let mut gateway = Gateway::new(EkAlgorithm::Rsa2048);
    let now = UnixTime::now();
    let roots = roots(&gateway);
    let mut seen = Vec::new();
    for (start, first) in
        [(Start::Plain, 0), (Start::Locality3, 3), (Start::HCrtm, 4), (Start::HCrtmLocality3, 4)]
    {
        gateway.tpm.reboot_with(&Boot::started(Scenario::Normal, start)).unwrap();
        let bytes = fs::read(gateway.tpm.event_log()).unwrap();
        let log = EventLog::parse(&bytes).unwrap();
        assert_eq!(log.pcr_0_start(), first, "{start:?}");
        let expected = hex::encode(log.replay().get(HashAlg::Sha256, 0).unwrap());
        let read = gateway.tool("tpm2_pcrread", &["sha256:0"]).to_lowercase();
        assert!(read.contains(&expected), "{start:?}: {read}");
        let reference = learn(&gateway, &format!("{start:?}"));
        let (parts, pending) = challenge(&gateway.keys(), &roots, now).unwrap();
        let proof = Proof::Tpm(Box::new(gateway.answer(&parts)));
        appraise(&pending, &proof, std::slice::from_ref(&reference), now)
            .unwrap_or_else(|failure| panic!("{start:?}: {failure}"));
        if let Some(other) = seen.iter().find(|other: &&ReferenceValues| other.pcrs != reference.pcrs) {
            let failure = appraise(&pending, &proof, std::slice::from_ref(other), now).unwrap_err();
            assert_eq!(failure.refusal.reason, Reason::AttestReference, "{start:?}");
        }
        seen.push(reference);
    }
    let values: Vec<_> = seen.iter().map(|reference| reference.pcrs.get(&0)).collect();
    assert_ne!(values[0], values[1]);
    assert_ne!(values[1], values[2]);
    assert_eq!(values[2], values[3], "the locality of TPM2_Startup does not count after an H-CRTM sequence");
}

/// A log that is silent about how the TPM was started does not lead to what the TPM quotes.
#[test]
fn a_log_that_hides_its_start_is_refused() {
    let mut gateway = Gateway::new(EkAlgorithm::Rsa2048);
    let now = UnixTime::now();
    for start in [Start::Locality3, Start::HCrtm] {
        gateway.tpm.reboot_with(&Boot::started(Scenario::Normal, start)).unwrap();
        let (parts, pending) = challenge(&gateway.keys(), &roots(&gateway), now).unwrap();
        let mut answer = gateway.answer(&parts);
        answer.event_log = Boot::of(Scenario::Normal).log().into();
        let failure = appraise(&pending, &Proof::Tpm(Box::new(answer)), &[], now).unwrap_err();
        assert_eq!(failure.refusal.reason, Reason::AttestEventLog, "{start:?}");
    }
}

/// tpm2-tools reads the log as we do.
#[test]
fn a_foreign_reader_replays_the_same_log() {
    let gateway = Gateway::new(EkAlgorithm::Rsa2048);
    let log = gateway.tpm.event_log();
    let output = std::process::Command::new("tpm2_eventlog").arg(&log).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let values = EventLog::parse(&fs::read(&log).unwrap()).unwrap().replay();
    for pcr in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14] {
        let value = hex::encode(values.get(HashAlg::Sha256, pcr).unwrap());
        assert!(text.contains(&format!("{pcr:<3}: 0x{value}")), "PCR {pcr}: {text}");
    }
}
