//! The second half: the answer is judged.
//!
//! Order matters to the caller: whether the evidence is genuine is judged before whether the boot is a good one, so
//! [`Failure::is_genuine`] can tell a changed device from a stranger.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use edgewarden_evidence::event_log::EventLog;
use edgewarden_evidence::tpm::Public;
use edgewarden_evidence::{HashAlg, PcrValues};
use edgewarden_names::{Digest, Reason, Refusal, UnixTime, sha256};
use edgewarden_protocol::enrol::{Proof, TpmProof, Verdict, VerdictState, binding};

use crate::challenge::PendingKeys;
use crate::checks::Checks;
use crate::crypto::{p256_point, verify_p256};
use crate::quote::list;
use crate::{Pending, ReferenceValues, certify, csr, quote};

/// Time in which a challenge may be answered.
pub const CHALLENGE_LIFETIME: Duration = Duration::from_secs(60);
/// Time for which a verdict counts as fresh.
pub const VERDICT_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Proof that a device answered its challenge and is what it should be. Only [`appraise()`] makes one.
#[derive(Debug, Clone)]
pub struct Appraised {
    verdict: Verdict,
    ca_public_point: Vec<u8>,
    device: Digest,
}

impl Appraised {
    /// The verdict, with each check.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The proven gateway CA key: P-256, uncompressed point, 65 bytes. The request carries the same key.
    pub fn ca_public_point(&self) -> &[u8] {
        &self.ca_public_point
    }

    /// The same value as [`Pending::device`].
    pub fn device(&self) -> &Digest {
        &self.device
    }
}

/// Refusal of a device, with the verdict to keep about it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{refusal}")]
pub struct Failure {
    pub refusal: Refusal,
    pub verdict: Verdict,
}

impl Failure {
    /// True when the device's own TPM signed the quote for this challenge and what it tells is not accepted: a fact
    /// about the device, to be kept as its verdict. Otherwise the answer proves nothing, and may come from a stranger
    /// who knows the device's name.
    pub fn is_genuine(&self) -> bool {
        use Reason::{AttestEventLog, AttestPcrSelection, AttestReference, AttestUnmeasured};
        let reason = self.refusal.reason;
        matches!(reason, AttestPcrSelection | AttestEventLog | AttestUnmeasured | AttestReference)
    }

    /// True when moreover the event log led to the quoted PCRs, so that it tells of a boot that took place. Only such
    /// a log may become a reference.
    pub fn has_proven_log(&self) -> bool {
        matches!(self.refusal.reason, Reason::AttestUnmeasured | Reason::AttestReference)
    }
}

/// Judges the answer to a challenge. The caller spends `pending` whatever the result.
pub fn appraise(
    pending: &Pending,
    proof: &Proof,
    references: &[ReferenceValues],
    now: UnixTime,
) -> Result<Appraised, Box<Failure>> {
    let mut checks = Checks::after(&pending.checks);
    let judged = run_checks(&mut checks, pending, proof, references, now);
    let verdict = |state, reference| Verdict {
        state,
        hardware: pending.hardware.clone(),
        reference,
        checks: checks.into_list(),
        at: now,
        expires: now.plus(VERDICT_LIFETIME),
    };
    match judged {
        Ok((ca_public_point, reference)) => Ok(Appraised {
            verdict: verdict(VerdictState::Fresh, reference),
            ca_public_point,
            device: pending.device.clone(),
        }),
        Err(refusal) => Err(Box::new(Failure { refusal, verdict: verdict(VerdictState::Failed, None) })),
    }
}

/// The gateway CA key's point and the name of the reference that fitted.
type Judged = (Vec<u8>, Option<String>);

fn run_checks(
    checks: &mut Checks,
    pending: &Pending,
    proof: &Proof,
    references: &[ReferenceValues],
    now: UnixTime,
) -> Result<Judged, Refusal> {
    let in_time = pending.issued <= now && now <= pending.issued.plus(CHALLENGE_LIFETIME);
    let lifetime = CHALLENGE_LIFETIME.as_secs();
    checks.require(
        in_time,
        "deadline",
        &format!("answered within {lifetime} seconds"),
        Reason::AttestNonce,
        &format!("the challenge was not answered within {lifetime} seconds"),
    )?;
    match (&pending.keys, proof) {
        (PendingKeys::Tpm { ak_public, secret_hash }, Proof::Tpm(proof)) => {
            run_tpm_checks(checks, pending, ak_public.as_slice(), secret_hash, proof, references)
        }
        (PendingKeys::None { device_public }, Proof::None { csr, signature }) => {
            let point = check_csr(checks, csr.as_slice())?;
            let bound = binding(pending.nonce.as_slice(), csr.as_slice());
            checks.require(
                verify_p256(device_public.as_slice(), &bound, signature.as_slice()),
                "device key",
                "signed this challenge's nonce and the request",
                Reason::AttestNonce,
                "the device key did not sign this challenge and this request",
            )?;
            Ok((point, None))
        }
        _ => {
            let detail = "the answer is of another kind of device than the challenge";
            Err(checks.failed("credential activation", Reason::AttestActivation, detail))
        }
    }
}

fn run_tpm_checks(
    checks: &mut Checks,
    pending: &Pending,
    ak_public: &[u8],
    secret_hash: &Digest,
    proof: &TpmProof,
    references: &[ReferenceValues],
) -> Result<Judged, Refusal> {
    // The digests are compared, so the comparison's time tells nothing about the secret; it is constant all the same.
    let offered = Digest::from_sha256(&sha256(proof.secret.as_slice()));
    let same = verify_slices_are_equal(offered.as_str().as_bytes(), secret_hash.as_str().as_bytes()).is_ok();
    checks.require(
        same,
        "credential activation",
        "EK and AK are in one TPM",
        Reason::AttestActivation,
        "the TPM did not give back the secret that was made for this EK and AK",
    )?;
    // `challenge` has checked the AK; `pending` may have been through a database since.
    let ak = Public::parse(ak_public).ok();
    let Some((ak, ak_point)) = ak.and_then(|ak| ak_point(&ak).map(|point| (ak, point))) else {
        return Err(checks.failed("AK", Reason::Internal, "the remembered AK cannot be read"));
    };
    let bound = binding(pending.nonce.as_slice(), proof.csr.as_slice());
    let quoted = quote::check_quote(checks, &ak, &ak_point, proof, &bound, &pending.pcrs)?;
    let ca_point = certify::check(checks, &ak_point, proof, &bound)?;
    let csr_point = check_csr(checks, proof.csr.as_slice())?;
    checks.require(
        csr_point == ca_point,
        "request key",
        "is the certified gateway CA key",
        Reason::AttestCsr,
        "the request is for another key than the certified one",
    )?;
    let log = proof.event_log.as_slice();
    let (log, values) = quote::check_log(checks, log, &quoted, &pending.pcrs, references)?;
    let reference = check_reference(checks, &log, &values, &pending.pcrs, references)?;
    Ok((ca_point, Some(reference)))
}

fn ak_point(ak: &Public) -> Option<Vec<u8>> {
    p256_point(ak, &[edgewarden_evidence::tpm::Scheme::Ecdsa(HashAlg::Sha256)])
}

fn check_csr(checks: &mut Checks, csr: &[u8]) -> Result<Vec<u8>, Refusal> {
    const NAME: &str = "certification request";
    let point = csr::verified_point(csr).map_err(|why| checks.failed(NAME, Reason::AttestCsr, why))?;
    checks.passed(NAME, "signed by its own key");
    Ok(point)
}

/// Finds the boot that accepts every quoted PCR; else explains the difference to the nearest.
fn check_reference(
    checks: &mut Checks,
    log: &EventLog,
    values: &PcrValues,
    pcrs: &[u8],
    references: &[ReferenceValues],
) -> Result<String, Refusal> {
    const NAME: &str = "reference values";
    let judged = references.iter().map(|reference| (reference, reference.mismatches(values, pcrs)));
    match judged.min_by_key(|(_, mismatches)| mismatches.len()) {
        None => Err(checks.failed(
            NAME,
            Reason::AttestReference,
            "the fleet has no reference values to compare with",
        )),
        Some((reference, mismatches)) if mismatches.is_empty() => {
            checks.passed(NAME, format!("PCRs {} are those of `{}`", list(pcrs), reference.name));
            Ok(reference.name.clone())
        }
        Some((nearest, mismatches)) => {
            Err(checks.failed(NAME, Reason::AttestReference, nearest.explain(log, &mismatches)))
        }
    }
}
