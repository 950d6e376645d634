//! The quote and the boot log under it (TPM 2.0 Library Part 3, TPM2_Quote; freshness: RFC 9334 section 10).

use edgewarden_evidence::event_log::EventLog;
use edgewarden_evidence::tpm::{Attest, AttestKind, PcrSelections, Public, Signature};
use edgewarden_evidence::{HashAlg, PcrValues};
use edgewarden_names::{Digest, Reason, Refusal};
use edgewarden_protocol::enrol::TpmProof;

use crate::ReferenceValues;
use crate::checks::Checks;
use crate::crypto::verify_tpm;
use crate::reference::{sha256_value, unmeasured};

/// TPM_RH_ENDORSEMENT (Part 2, section 7.4).
const ENDORSEMENT: [u8; 4] = 0x4000_000b_u32.to_be_bytes();

/// An attestation that the AK signed, with its signature checked.
pub(crate) fn signed_by_ak(ak_point: &[u8], attest: &[u8], signature: &[u8]) -> Result<Attest, String> {
    let parsed = Attest::parse(attest).map_err(|error| error.to_string())?;
    let signature = Signature::parse(signature).map_err(|error| error.to_string())?;
    if !verify_tpm(ak_point, attest, &signature) {
        return Err("the attestation is not signed by the AK".to_owned());
    }
    Ok(parsed)
}

/// The qualified name of a primary key in the endorsement hierarchy (Part 1, section 16): only such a key reports
/// the TPM's true reset counters.
fn endorsement_primary(ak: &Public) -> Vec<u8> {
    let mut name = ak.name_alg.id().to_be_bytes().to_vec();
    name.extend(ak.name_alg.digest(&[&ENDORSEMENT, &ak.name()]));
    name
}

/// Checks the quote and gives the digest of the PCRs that it signs.
pub(crate) fn check_quote(
    checks: &mut Checks,
    ak: &Public,
    ak_point: &[u8],
    proof: &TpmProof,
    binding: &[u8],
    pcrs: &[u8],
) -> Result<Vec<u8>, Refusal> {
    const NAME: &str = "quote";
    let attest = signed_by_ak(ak_point, proof.quote.as_slice(), proof.quote_signature.as_slice())
        .map_err(|why| checks.failed(NAME, Reason::AttestQuote, why))?;
    let AttestKind::Quote { selections, digest } = attest.kind else {
        return Err(checks.failed(NAME, Reason::AttestQuote, "the attestation is no quote"));
    };
    checks.require(
        attest.qualified_signer == endorsement_primary(ak),
        NAME,
        "signed by the AK, a primary key of the endorsement hierarchy",
        Reason::AttestQuote,
        "the signer is no primary key of the endorsement hierarchy",
    )?;
    checks.require(
        attest.extra_data == binding,
        "quote freshness",
        "it carries this challenge's nonce and the request",
        Reason::AttestNonce,
        "the quote was made for another challenge or another request",
    )?;
    checks.require(
        selections.is_exactly(HashAlg::Sha256, pcrs),
        "quote selection",
        &format!("SHA-256 bank, PCRs {}", list(pcrs)),
        Reason::AttestPcrSelection,
        &format!("the quote is over {}, not over sha256 {}", shown(&selections), list(pcrs)),
    )?;
    Ok(digest)
}

/// Parses the boot log and checks that it leads to the quoted PCRs.
pub(crate) fn check_log(
    checks: &mut Checks,
    bytes: &[u8],
    quoted: &[u8],
    pcrs: &[u8],
    references: &[ReferenceValues],
) -> Result<(EventLog, PcrValues), Refusal> {
    const NAME: &str = "event log";
    const REASON: Reason = Reason::AttestEventLog;
    let log = EventLog::parse(bytes).map_err(|error| checks.failed(NAME, REASON, error.to_string()))?;
    let values = log.replay();
    let Some(replayed) = values.quote_digest(HashAlg::Sha256, HashAlg::Sha256, pcrs) else {
        return Err(checks.failed(NAME, REASON, "the event log has no SHA-256 bank"));
    };
    checks.require(
        replayed == quoted,
        NAME,
        &format!("{} events lead to the quoted PCRs", log.events().len()),
        REASON,
        &differing(&values, quoted, pcrs, references),
    )?;
    if let Some(pcr) = unmeasured(&log) {
        let detail = format!("nothing was measured into PCR {pcr}; the PCR would vouch for anything");
        return Err(checks.failed("measured boot", Reason::AttestUnmeasured, detail));
    }
    checks.passed("measured boot", "firmware and boot loader were measured");
    Ok((log, values))
}

/// A quote signs one digest over all PCRs. Which of them differs can be said when the quoted digest is that of a
/// known boot.
fn differing(values: &PcrValues, quoted: &[u8], pcrs: &[u8], references: &[ReferenceValues]) -> String {
    const UNKNOWN: &str = "the event log does not lead to the quoted PCRs";
    for reference in references {
        let expected: Option<Vec<&Digest>> = pcrs.iter().map(|&pcr| reference.only_value(pcr)).collect();
        let Some(expected) = expected else { continue };
        let bytes: Vec<Vec<u8>> =
            expected.iter().filter_map(|digest| hex::decode(digest.hex()).ok()).collect();
        let parts: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        if HashAlg::Sha256.digest(&parts) == quoted {
            let wrong =
                |(pcr, expected): &(&u8, &Digest)| sha256_value(values, **pcr).as_ref() != Some(*expected);
            let wrong: Vec<u8> = pcrs.iter().zip(expected).filter(wrong).map(|(pcr, _)| *pcr).collect();
            return format!("{UNKNOWN}: it is wrong about PCR {}", list(&wrong));
        }
    }
    UNKNOWN.to_owned()
}

fn shown(selections: &PcrSelections) -> String {
    let banks = selections.0.iter().map(|one| format!("{} {}", one.bank, list(&one.pcrs())));
    let text = banks.collect::<Vec<_>>().join(" and ");
    if text.is_empty() { "no PCR at all".to_owned() } else { text }
}

pub(crate) fn list(pcrs: &[u8]) -> String {
    if pcrs.is_empty() {
        return "none".to_owned();
    }
    pcrs.iter().map(u8::to_string).collect::<Vec<_>>().join(",")
}
