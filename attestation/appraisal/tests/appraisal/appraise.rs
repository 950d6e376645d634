//! The second half: one lie at a time, each with the reason that names it.

use crate::common;

use common::{Answer, Forge, NOW, SigningKey, endorsement_primary, good_boot, log, quote_of, references};
use edgewarden_appraisal::{
    AK_ATTRIBUTES, Appraised, BOOT_PCRS, Failure, Pending, ReferenceValues, VendorRoots, appraise, challenge,
};
use edgewarden_evidence::event_log::EventLog;
use edgewarden_evidence::tpm::{AttestKind, Attributes, PcrSelection, PcrSelections, Scheme};
use edgewarden_evidence::{HashAlg, PcrValues};
use edgewarden_names::{Reason, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::enrol::{DeviceKeys, Proof, TpmProof, VerdictState, binding};

struct Bench {
    forge: Forge,
    pending: Pending,
    answer: Answer,
}

fn bench() -> Bench {
    let forge = Forge::new();
    let (parts, pending) = challenge(&forge.keys(), &forge.roots(), NOW).unwrap();
    let answer = forge.answer(&parts, &good_boot());
    Bench { forge, pending, answer }
}

impl Bench {
    fn proof(self) -> (Pending, TpmProof) {
        (self.pending, self.answer.signed_by(&self.forge.ak))
    }
}

fn judge(
    pending: &Pending,
    proof: TpmProof,
    references: &[ReferenceValues],
) -> Result<Appraised, Box<Failure>> {
    appraise(pending, &Proof::Tpm(Box::new(proof)), references, NOW)
}

fn assert_refused(what: &str, judged: Result<Appraised, Box<Failure>>, reason: Reason) -> Box<Failure> {
    let failure = judged.err().unwrap_or_else(|| panic!("{what}: accepted"));
    assert_eq!(failure.refusal.reason, reason, "{what}: {failure}");
    assert_eq!(failure.verdict.state, VerdictState::Failed, "{what}");
    let failed: Vec<_> = failure.verdict.checks.iter().filter(|check| !check.passed).collect();
    assert_eq!(failed.len(), 1, "{what}: {failed:?}");
    assert_eq!(failed[0].detail, failure.refusal.rule, "{what}");
    assert_eq!(
        failure.verdict.checks.last(),
        Some(failed[0]),
        "{what}: nothing is judged after a failed check"
    );
    failure
}

#[test]
fn an_honest_answer_is_accepted() {
    let bench = bench();
    let (point, device) = (bench.forge.ca.point(), bench.pending.device().clone());
    let (pending, proof) = bench.proof();
    let appraised = judge(&pending, proof, &references()).unwrap();
    assert_eq!(appraised.ca_public_point(), point);
    assert_eq!(appraised.device(), &device);
    let verdict = appraised.verdict();
    assert_eq!(verdict.state, VerdictState::Fresh);
    assert_eq!(verdict.hardware, "tpm EWT forge");
    assert_eq!(verdict.reference.as_deref(), Some("normal"));
    assert_eq!(verdict.at, NOW);
    assert!(verdict.expires > NOW);
    let names: Vec<&str> = verdict.checks.iter().map(|check| check.name.as_str()).collect();
    let expected = [
        "EK certificate",
        "EK",
        "AK attributes",
        "deadline",
        "credential activation",
        "quote",
        "quote freshness",
        "quote selection",
        "gateway CA key",
        "certification request",
        "request key",
        "event log",
        "measured boot",
        "reference values",
    ];
    assert_eq!(names, expected);
    assert!(verdict.checks.iter().all(|check| check.passed && !check.detail.is_empty()));
}

/// Lies that are told before the AK signs: what a TPM would never sign, or signed for another purpose.
#[test]
fn signed_lies() {
    type Lie = fn(&mut Bench);
    let cases: Vec<(&str, Reason, Lie)> = vec![
        ("another secret", Reason::AttestActivation, |b| b.answer.secret[0] ^= 1),
        ("no secret", Reason::AttestActivation, |b| b.answer.secret.clear()),
        ("a longer secret", Reason::AttestActivation, |b| b.answer.secret.push(0)),
        ("a certification as quote", Reason::AttestQuote, |b| b.answer.quote = b.answer.certify.clone()),
        ("another signer", Reason::AttestQuote, |b| b.answer.quote.qualified_signer[5] ^= 1),
        ("an AK of the owner hierarchy", Reason::AttestQuote, |b| {
            let name = HashAlg::Sha256.digest(&[&[0x40, 0, 0, 1], &b.forge.ak_public.name()]);
            b.answer.quote.qualified_signer = [vec![0, 11], name].concat();
        }),
        ("another nonce", Reason::AttestNonce, |b| b.answer.quote.extra_data[0] ^= 1),
        ("no nonce", Reason::AttestNonce, |b| b.answer.quote.extra_data.clear()),
        ("the nonce without the request", Reason::AttestNonce, |b| b.answer.quote.extra_data.truncate(31)),
        ("an empty selection", Reason::AttestPcrSelection, |b| {
            select(b, vec![PcrSelection::of(HashAlg::Sha256, &[])]);
        }),
        ("no selection", Reason::AttestPcrSelection, |b| select(b, vec![])),
        ("one PCR less", Reason::AttestPcrSelection, |b| {
            select(b, vec![PcrSelection::of(HashAlg::Sha256, &BOOT_PCRS[1..])]);
        }),
        ("one PCR more", Reason::AttestPcrSelection, |b| {
            select(b, vec![PcrSelection::of(HashAlg::Sha256, &[&BOOT_PCRS[..], &[16]].concat())]);
        }),
        ("the SHA-1 bank", Reason::AttestPcrSelection, |b| {
            select(b, vec![PcrSelection::of(HashAlg::Sha1, &BOOT_PCRS)]);
        }),
        ("two banks", Reason::AttestPcrSelection, |b| {
            let both = [HashAlg::Sha256, HashAlg::Sha1].map(|bank| PcrSelection::of(bank, &BOOT_PCRS));
            select(b, both.to_vec());
        }),
        ("other PCR values", Reason::AttestEventLog, |b| {
            if let AttestKind::Quote { digest, .. } = &mut b.answer.quote.kind {
                digest[0] ^= 1;
            }
        }),
        ("a short digest", Reason::AttestEventLog, |b| {
            if let AttestKind::Quote { digest, .. } = &mut b.answer.quote.kind {
                digest.clear();
            }
        }),
        ("a quote as certification", Reason::AttestCertify, |b| b.answer.certify = b.answer.quote.clone()),
        ("a certification of another time", Reason::AttestCertify, |b| b.answer.certify.extra_data[31] ^= 1),
        ("a certification of another key", Reason::AttestCertify, |b| certify(b, |name| name[3] ^= 1)),
        ("a certification of nothing", Reason::AttestCertify, |b| certify(b, Vec::clear)),
    ];
    for (what, reason, lie) in cases {
        let mut bench = bench();
        lie(&mut bench);
        let (pending, proof) = bench.proof();
        let failure = assert_refused(what, judge(&pending, proof, &references()), reason);
        let about_the_boot = matches!(reason, Reason::AttestPcrSelection | Reason::AttestEventLog);
        assert_eq!(failure.is_genuine(), about_the_boot, "{what}");
    }
}

fn select(bench: &mut Bench, selected: Vec<PcrSelection>) {
    if let AttestKind::Quote { selections, .. } = &mut bench.answer.quote.kind {
        *selections = PcrSelections(selected);
    }
}

fn certify(bench: &mut Bench, change: fn(&mut Vec<u8>)) {
    if let AttestKind::Certify { name, .. } = &mut bench.answer.certify.kind {
        change(name);
    }
}

/// Lies that are told after the AK has signed.
#[test]
fn unsigned_lies() {
    type Lie = fn(&mut TpmProof);
    let cases: Vec<(&str, Reason, Lie)> = vec![
        ("a changed quote", Reason::AttestQuote, |p| flip(&mut p.quote, 50)),
        ("another magic", Reason::AttestQuote, |p| flip(&mut p.quote, 0)),
        ("no quote", Reason::AttestQuote, |p| p.quote.0.clear()),
        ("bytes after the quote", Reason::AttestQuote, |p| p.quote.0.push(0)),
        ("a changed signature", Reason::AttestQuote, |p| flip(&mut p.quote_signature, 20)),
        ("no signature", Reason::AttestQuote, |p| p.quote_signature.0.clear()),
        ("the signature of the certification", Reason::AttestQuote, |p| {
            p.quote_signature = p.certify_signature.clone();
        }),
        ("a signature that says SHA-384", Reason::AttestQuote, |p| p.quote_signature.0[3] = 0x0c),
        ("a signature of zeros", Reason::AttestQuote, |p| {
            p.quote_signature.0 = [&[0, 0x18, 0, 11][..], &[0, 32], &[0; 32], &[0, 32], &[0; 32]].concat();
        }),
        ("a changed certification", Reason::AttestCertify, |p| flip(&mut p.certify, 50)),
        ("a changed signature of the certification", Reason::AttestCertify, |p| {
            flip(&mut p.certify_signature, 20);
        }),
        ("no public area", Reason::AttestCertify, |p| p.ca_public.0.clear()),
        ("a changed public area", Reason::AttestCertify, |p| flip(&mut p.ca_public, 7)),
        ("another request", Reason::AttestNonce, |p| p.csr = Bytes(SigningKey::generate().csr())),
        ("a changed request", Reason::AttestNonce, |p| flip(&mut p.csr, 60)),
        ("no log", Reason::AttestEventLog, |p| p.event_log.0.clear()),
        ("a cut log", Reason::AttestEventLog, |p| p.event_log.0.truncate(200)),
        ("a changed log", Reason::AttestEventLog, |p| flip(&mut p.event_log, 90)),
        ("a log with one event more", Reason::AttestEventLog, |p| {
            p.event_log = Bytes(log(&[(0, 8, b"firmware"), (4, 13, b"grub"), (4, 13, b"more")]));
        }),
        ("a legacy log", Reason::AttestEventLog, |p| {
            p.event_log.0 = [&[4, 0, 0, 0, 4, 0, 0, 0][..], &[0; 24]].concat();
        }),
        ("a log that begins at locality 3", Reason::AttestEventLog, |p| {
            let locality = [
                &[0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 11, 0][..],
                &[0; 32],
                &[17, 0, 0, 0],
                b"StartupLocality\0\x03",
            ];
            let header = 32 + 33;
            p.event_log.0 = [&p.event_log.0[..header], &locality.concat(), &p.event_log.0[header..]].concat();
        }),
    ];
    for (what, reason, lie) in cases {
        let (pending, mut proof) = bench().proof();
        lie(&mut proof);
        let failure = assert_refused(what, judge(&pending, proof, &references()), reason);
        let about_the_boot = matches!(reason, Reason::AttestPcrSelection | Reason::AttestEventLog);
        assert_eq!(failure.is_genuine(), about_the_boot, "{what}");
    }
}

fn flip(bytes: &mut Bytes, at: usize) {
    bytes.0[at] ^= 1;
}

/// Every bit of every signed thing matters.
#[test]
fn no_single_bit_may_change() {
    let (pending, proof) = bench().proof();
    for which in 0..5 {
        let length = part(&mut proof.clone(), which).len();
        for bit in 0..length * 8 {
            let mut forged = proof.clone();
            part(&mut forged, which)[bit / 8] ^= 1 << (bit % 8);
            assert!(judge(&pending, forged, &references()).is_err(), "part {which}, bit {bit}");
        }
    }
}

fn part(proof: &mut TpmProof, which: usize) -> &mut Vec<u8> {
    match which {
        0 => &mut proof.quote.0,
        1 => &mut proof.certify.0,
        2 => &mut proof.ca_public.0,
        3 => &mut proof.secret.0,
        _ => &mut proof.csr.0,
    }
}

/// Anyone can name a key and sign a request; only the certified key with these attributes may be the CA's.
#[test]
fn ca_keys_that_are_not_good_enough() {
    let schemes =
        |b: &mut Bench, scheme| b.answer.ca_public = b.forge.ca.public(common::CA_ATTRIBUTES, scheme);
    for (what, change) in [
        ("not fixedTPM", Attributes::FIXED_TPM),
        ("not fixedParent", Attributes::FIXED_PARENT),
        ("not of the TPM's own making", Attributes::SENSITIVE_DATA_ORIGIN),
        ("not sign", Attributes::SIGN),
        ("restricted", Attributes::RESTRICTED),
        ("decrypt", Attributes::DECRYPT),
    ] {
        let mut bench = bench();
        bench.answer.ca_public.attributes.0 ^= change;
        let name = bench.answer.ca_public.name();
        bench.answer.certify.kind = AttestKind::Certify { name, qualified_name: vec![] };
        let (pending, proof) = bench.proof();
        assert_refused(what, judge(&pending, proof, &references()), Reason::AttestCertify);
    }
    for (scheme, accepted) in [
        (Scheme::Null, true),
        (Scheme::Ecdsa(HashAlg::Sha256), true),
        (Scheme::Ecdsa(HashAlg::Sha384), false),
        (Scheme::Ecdsa(HashAlg::Sha1), false),
    ] {
        let mut bench = bench();
        schemes(&mut bench, scheme);
        let name = bench.answer.ca_public.name();
        bench.answer.certify.kind = AttestKind::Certify { name, qualified_name: vec![] };
        let (pending, proof) = bench.proof();
        assert_eq!(judge(&pending, proof, &references()).is_ok(), accepted, "{scheme:?}");
    }
    // A module's resident key: all else about it is as it must be.
    let mut resident = bench();
    resident.answer.ca_public.auth_policy = vec![7; 32];
    let name = resident.answer.ca_public.name();
    resident.answer.certify.kind = AttestKind::Certify { name, qualified_name: vec![] };
    let (pending, proof) = resident.proof();
    assert_refused("a key with a policy", judge(&pending, proof, &references()), Reason::AttestCertify);
    // A Name by another hash, and one by SHA-1, of which collisions are known.
    for name_alg in [HashAlg::Sha1, HashAlg::Sha384] {
        let mut bench = bench();
        bench.answer.ca_public.name_alg = name_alg;
        let name = bench.answer.ca_public.name();
        bench.answer.certify.kind = AttestKind::Certify { name, qualified_name: vec![] };
        let (pending, proof) = bench.proof();
        assert_refused("named otherwise", judge(&pending, proof, &references()), Reason::AttestCertify);
    }
    // A key outside the TPM, with a certification of the key inside.
    let mut bench = bench();
    let outside = SigningKey::generate();
    bench.answer.csr = outside.csr();
    rebind(&mut bench);
    let (pending, proof) = bench.proof();
    assert_refused("a request for another key", judge(&pending, proof, &references()), Reason::AttestCsr);
}

/// Makes quote and certification carry the (changed) request.
fn rebind(bench: &mut Bench) {
    let stored = serde_json::to_value(&bench.pending).unwrap();
    let nonce: Bytes = serde_json::from_value(stored["nonce"].clone()).unwrap();
    let bound = binding(nonce.as_slice(), &bench.answer.csr).to_vec();
    bench.answer.quote.extra_data.clone_from(&bound);
    bench.answer.certify.extra_data = bound;
}

#[test]
fn requests_that_prove_no_key() {
    type Change = fn(&mut Vec<u8>);
    let cases: Vec<(&str, Change)> = vec![
        ("nothing", Vec::clear),
        ("bytes after it", |csr| csr.push(0)),
        ("a broken signature", |csr| *csr.last_mut().unwrap() ^= 1),
        ("too large", |csr| csr.resize(20_000, 0)),
        ("cut", |csr| csr.truncate(100)),
    ];
    for (what, change) in cases {
        let mut bench = bench();
        change(&mut bench.answer.csr);
        rebind(&mut bench);
        let (pending, proof) = bench.proof();
        assert_refused(what, judge(&pending, proof, &references()), Reason::AttestCsr);
    }
}

#[test]
fn answers_to_other_challenges() {
    let forge = Forge::new();
    let (parts, pending) = challenge(&forge.keys(), &forge.roots(), NOW).unwrap();
    let (_, other) = challenge(&forge.keys(), &forge.roots(), NOW).unwrap();
    let proof = forge.answer(&parts, &good_boot()).signed_by(&forge.ak);
    assert!(judge(&pending, proof.clone(), &references()).is_ok());
    assert_refused("another session", judge(&other, proof.clone(), &references()), Reason::AttestActivation);
    let proof = Proof::Tpm(Box::new(proof));
    for (what, now, accepted) in [
        ("in the last second", UnixTime(NOW.0 + 60), true),
        ("late", UnixTime(NOW.0 + 61), false),
        ("before it was made", UnixTime(NOW.0 - 1), false),
    ] {
        let judged = appraise(&pending, &proof, &references(), now);
        if accepted {
            assert!(judged.is_ok(), "{what}");
        } else {
            assert_refused(what, judged, Reason::AttestNonce);
        }
    }
}

fn booted(events: &[(u32, u32, &[u8])]) -> (Pending, TpmProof) {
    let forge = Forge::new();
    let (parts, pending) = challenge(&forge.keys(), &forge.roots(), NOW).unwrap();
    let proof = forge.answer(&parts, &log(events)).signed_by(&forge.ak);
    (pending, proof)
}

#[test]
fn boots_that_are_not_accepted() {
    let (pending, proof) = booted(&[
        (0, 8, b"firmware"),
        (4, 0x8000_0003, b"grub"),
        (4, 4, &[0; 4]),
        (9, 13, b"kernel with a backdoor"),
        (14, 13, b"keys"),
    ]);
    let failure =
        assert_refused("kernel", judge(&pending, proof.clone(), &references()), Reason::AttestReference);
    assert!(failure.is_genuine());
    let digest = hex::encode(HashAlg::Sha256.digest(&[b"kernel with a backdoor"]));
    let expected =
        format!("PCR 9 differs from reference `normal`; event 4 EV_IPL sha256:{digest} is not in it");
    assert_eq!(failure.refusal.rule, expected);
    let none = assert_refused("no references", judge(&pending, proof.clone(), &[]), Reason::AttestReference);
    assert!(none.is_genuine());

    // The same boot once an operator accepted it; and the nearest reference explains, not the first.
    let changed = ReferenceValues::learn("changed", proof.event_log.as_slice()).unwrap();
    let appraised = judge(&pending, proof, &[references(), vec![changed.clone()]].concat()).unwrap();
    assert_eq!(appraised.verdict().reference.as_deref(), Some("changed"));
    let (pending, proof) = booted(&[
        (0, 8, b"firmware"),
        (4, 0x8000_0003, b"grub"),
        (9, 13, b"kernel with a backdoor"),
        (14, 13, b"keys"),
    ]);
    let both = [references(), vec![changed]].concat();
    let failure = assert_refused("no separator", judge(&pending, proof, &both), Reason::AttestReference);
    assert!(failure.refusal.rule.starts_with("PCR 4 differs from reference `changed`; its events are known"));

    let (pending, proof) = booted(&[
        (0, 8, b"firmware"),
        (4, 4, &[0; 4]),
        (4, 0x8000_0003, b"grub"),
        (9, 13, b"kernel"),
        (14, 13, b"keys"),
    ]);
    assert_refused("another order", judge(&pending, proof, &references()), Reason::AttestReference);
    let many: Vec<Vec<u8>> = (0..20_u8).map(|n| vec![n]).collect();
    let mut events: Vec<(u32, u32, &[u8])> = vec![(0, 8, b"firmware"), (4, 13, b"grub")];
    events.extend(many.iter().map(|content| (9, 13, content.as_slice())));
    let (pending, proof) = booted(&events);
    let failure = assert_refused("many", judge(&pending, proof, &references()), Reason::AttestReference);
    assert!(failure.refusal.rule.contains("16 more events are not in it"), "{failure}");
}

/// A reference that does not list a quoted PCR accepts no value of it.
#[test]
fn references_are_complete_or_match_nothing() {
    let (pending, proof) = bench().proof();
    for pcr in BOOT_PCRS {
        let mut references = references();
        references[0].pcrs.remove(&pcr);
        assert_refused(
            "a PCR is missing",
            judge(&pending, proof.clone(), &references),
            Reason::AttestReference,
        );
    }
    let mut references = references();
    references[0].events.clear();
    assert!(judge(&pending, proof, &references).is_ok(), "events decide nothing");
    let stored = serde_json::to_string(&references).unwrap();
    assert_eq!(serde_json::from_str::<Vec<ReferenceValues>>(&stored).unwrap(), references);
    assert!(
        serde_json::from_str::<ReferenceValues>(r#"{"name":"x","pcrs":{},"events":{},"more":1}"#).is_err()
    );
}

#[test]
fn a_tpm_that_measured_nothing_vouches_for_nothing() {
    for (what, events) in [
        ("nothing at all", vec![]),
        ("no firmware", vec![(4, 13, b"grub".as_slice())]),
        ("no boot loader", vec![(0, 8, b"firmware".as_slice()), (9, 13, b"kernel")]),
        (
            "only marks in the boot loader's PCR",
            vec![
                (0, 8, b"firmware".as_slice()),
                (4, 0x8000_0007, b"Calling EFI Application from Boot Option"),
                (4, 4, &[0; 4]),
                (9, 13, b"kernel"),
            ],
        ),
        ("a separator under another name", vec![(0, 8, b"firmware".as_slice()), (4, 0x8000_0003, &[0; 4])]),
        ("firmware that only separates", vec![(0, 8, [0xff; 4].as_slice()), (4, 13, b"grub")]),
    ] {
        let (pending, proof) = booted(&events);
        let failure =
            assert_refused(what, judge(&pending, proof.clone(), &references()), Reason::AttestUnmeasured);
        assert!(failure.is_genuine() && failure.has_proven_log(), "{what}");
        assert!(ReferenceValues::learn("x", proof.event_log.as_slice()).is_err(), "{what}");
    }
    assert!(ReferenceValues::learn("x", &[]).is_err());
}

/// The quoted digest is that of a known boot, so it can be said where the log lies.
#[test]
fn a_log_that_hides_something_is_named() {
    let mut bench = bench();
    bench.answer.event_log =
        log(&[(0, 8, b"firmware"), (4, 4, &[0; 4]), (9, 13, b"kernel"), (14, 13, b"keys")]);
    let (pending, proof) = bench.proof();
    let failure = assert_refused("hidden", judge(&pending, proof, &references()), Reason::AttestEventLog);
    assert!(failure.refusal.rule.ends_with("it is wrong about PCR 4"), "{failure}");
    // The TPM vouched for its PCRs, not for this log: it must not become a reference.
    assert!(failure.is_genuine() && !failure.has_proven_log());
}

/// The type of a log's event is not proven; only digests are compared.
#[test]
fn event_types_are_not_trusted() {
    let (pending, proof) = booted(&[
        (0, 1, b"firmware"),
        (4, 13, b"grub"),
        (4, 5, &[0; 4]),
        (9, 8, b"kernel"),
        (14, 1, b"keys"),
    ]);
    assert!(judge(&pending, proof, &references()).is_ok());
}

#[test]
fn software_devices() {
    let (device, ca) = (SigningKey::generate(), SigningKey::generate());
    let keys = DeviceKeys::None { device_public: Bytes(device.point()) };
    let (parts, pending) = challenge(&keys, &VendorRoots::none(), NOW).unwrap();
    let csr = ca.csr();
    let bound = binding(parts.nonce.as_slice(), &csr);
    let proof = |csr: &[u8], signature: Vec<u8>| Proof::None { csr: csr.into(), signature: Bytes(signature) };
    let appraised = appraise(&pending, &proof(&csr, device.sign_der(&bound)), &[], NOW).unwrap();
    assert_eq!(appraised.ca_public_point(), ca.point());
    assert_eq!(appraised.verdict().hardware, "none");
    assert_eq!(appraised.verdict().reference, None);
    let mut broken = csr.clone();
    *broken.last_mut().unwrap() ^= 1;
    let rebound = binding(parts.nonce.as_slice(), &broken);
    for (what, proof, reason) in [
        ("another device", proof(&csr, ca.sign_der(&bound)), Reason::AttestNonce),
        ("another nonce", proof(&csr, device.sign_der(&binding(&[0; 32], &csr))), Reason::AttestNonce),
        (
            "another request",
            proof(&SigningKey::generate().csr(), device.sign_der(&bound)),
            Reason::AttestNonce,
        ),
        ("no signature", proof(&csr, vec![]), Reason::AttestNonce),
        ("the nonce alone", proof(&csr, device.sign_der(parts.nonce.as_slice())), Reason::AttestNonce),
        ("a broken request", proof(&broken, device.sign_der(&rebound)), Reason::AttestCsr),
    ] {
        assert_refused(what, appraise(&pending, &proof, &references(), NOW), reason);
    }
    // One kind of device does not answer for the other.
    let bench = bench();
    let answer = proof(&csr, device.sign_der(&bound));
    assert_refused(
        "software for TPM",
        appraise(&bench.pending, &answer, &references(), NOW),
        Reason::AttestActivation,
    );
    let (_, tpm) = bench.proof();
    assert_refused("TPM for software", judge(&pending, tpm, &references()), Reason::AttestActivation);
}

/// The quote is over PCR values of a real replay, so a helper that computed nothing would be noticed.
#[test]
fn the_forge_is_honest() {
    let bench = bench();
    assert_eq!(bench.forge.ak_public.attributes, AK_ATTRIBUTES);
    assert_eq!(bench.answer.quote.qualified_signer, endorsement_primary(&bench.forge.ak_public));
    let replayed = EventLog::parse(&good_boot()).unwrap().replay();
    assert_eq!(bench.answer.quote.kind, quote_of(&replayed, &BOOT_PCRS));
    assert_ne!(replayed, PcrValues::at_startup(&[HashAlg::Sha256], 0));
}
