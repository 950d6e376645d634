//! Judges an exported quote without a TPM or a gateway: the signature, the nonce, the PCRs, and what the runtime log says
//! by them.
//!
//! Trusts nothing in the folder but the attestation key, which whoever asks compares with the one that the fleet knows.

use std::path::Path;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use edgewarden_ca::spki;
use edgewarden_evidence::runtime_log::{LOG_BYTES_MAX, Replayed, RuntimeLog};
use edgewarden_evidence::tpm::{Attest, AttestKind, Signature};
use edgewarden_evidence::{HashAlg, ParseError};
use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::durable;
use edgewarden_protocol::Bytes;

use super::exported_quote::{
    AK, DIGESTS_BYTES, DIGESTS_MAX, MESSAGE, PCRS, RUNTIME_LOG, SELECTION_BYTES, SIGNATURE,
};
use crate::exit::Problem;

const FILE_BYTES_MAX: usize = 16 * 1024;

/// The proof that an exported folder gives: values of PCRs, and the runtime log that leads to one of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified {
    pub pcrs: Vec<(u8, [u8; 32])>,
    /// `None` when the folder has no runtime log: the gateway keeps none, or it is not shown.
    pub runtime_log: Option<(u8, Replayed)>,
}

fn refuse(reason: Reason, rule: impl std::fmt::Display) -> Problem {
    Refusal::new(reason, "exported quote", rule).into()
}

/// Judges the exported quote in `folder` against the nonce that it must carry. Refuses with the reason code of the part
/// that does not fit.
pub fn verify(folder: &Path, nonce: &[u8]) -> Result<Verified, Problem> {
    let read = |name: &str, bytes_max| {
        let path = folder.join(name);
        durable::read(&path, bytes_max)
            .map_err(|error| Problem::text(format!("cannot read `{}`: {error}", path.display())))
    };
    let needed = |name: &str| {
        let missing = || Problem::text(format!("there is no `{name}` in `{}`", folder.display()));
        read(name, FILE_BYTES_MAX)?.ok_or_else(missing)
    };
    let ak = String::from_utf8(needed(AK)?).map_err(|_| refuse(Reason::AttestQuote, "its key is no PEM"))?;
    let runtime_log = read(RUNTIME_LOG, LOG_BYTES_MAX)?.filter(|log| !log.is_empty());
    judge(&needed(MESSAGE)?, &needed(SIGNATURE)?, &ak, &needed(PCRS)?, runtime_log.as_deref(), nonce)
}

fn judge(
    message: &[u8],
    signature: &[u8],
    ak: &str,
    pcrs: &[u8],
    runtime_log: Option<&[u8]>,
    nonce: &[u8],
) -> Result<Verified, Problem> {
    let malformed = |error: ParseError| refuse(Reason::AttestQuote, error);
    let attest = Attest::parse(message).map_err(malformed)?;
    let signature = Signature::parse(signature).map_err(malformed)?.to_der();
    let signed = spki::point_of_pem(ak).ok().zip(signature).is_some_and(|(point, signature)| {
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .is_ok_and(|key| key.verify_sig(message, &signature).is_ok())
    });
    if !signed {
        return Err(refuse(Reason::AttestQuote, "it is not signed by the key in the folder"));
    }
    if attest.extra_data != nonce {
        return Err(refuse(Reason::AttestNonce, "it was made for another nonce"));
    }
    let AttestKind::Quote { selections, digest } = &attest.kind else {
        return Err(refuse(Reason::AttestQuote, "it is another attestation than a quote"));
    };
    let pcrs = values(pcrs).ok_or_else(|| refuse(Reason::AttestQuote, "the file of PCRs is malformed"))?;
    let indices: Vec<u8> = pcrs.iter().map(|(index, _)| *index).collect();
    let all: Vec<&[u8]> = pcrs.iter().map(|(_, value)| value.as_slice()).collect();
    if !selections.is_exactly(HashAlg::Sha256, &indices) || HashAlg::Sha256.digest(&all) != *digest {
        return Err(refuse(Reason::AttestQuote, "the PCRs in the folder are not those that were quoted"));
    }
    let Some(bytes) = runtime_log else { return Ok(Verified { pcrs, runtime_log: None }) };
    let wrong = |rule: &dyn std::fmt::Display| refuse(Reason::AttestRuntimeLog, rule);
    let log = RuntimeLog::parse(bytes).map_err(|error| wrong(&error))?;
    let pcr = log.newest_start().map(|start| start.pcr).ok_or_else(|| wrong(&"it has no section"))?;
    let quoted = pcrs.iter().find(|(index, _)| *index == pcr);
    let (_, value) = quoted.ok_or_else(|| wrong(&format!("the quote is not over its PCR {pcr}")))?;
    let replayed = log.replay(pcr, value).map_err(|error| wrong(&error))?;
    Ok(Verified { pcrs, runtime_log: Some((pcr, replayed)) })
}

/// Reads what `attest export` wrote in the `serialized` form of tpm2-tools.
fn values(bytes: &[u8]) -> Option<Vec<(u8, [u8; 32])>> {
    let (selection, rest) = bytes.split_at_checked(SELECTION_BYTES)?;
    let mask: [u8; 3] = selection.get(7..10)?.try_into().ok()?;
    let [low, middle, high] = mask;
    let mask = u32::from_le_bytes([low, middle, high, 0]);
    let indices: Vec<u8> = (0..24).filter(|index| mask >> index & 1 == 1).collect();
    let (_, lists) = rest.split_at_checked(4)?;
    let mut found = Vec::new();
    for list in lists.chunks(DIGESTS_BYTES) {
        for digest in list.get(4..)?.chunks_exact(DIGESTS_BYTES / DIGESTS_MAX) {
            if let Some(index) = indices.get(found.len()) {
                found.push((*index, digest.get(2..34)?.try_into().ok()?));
            }
        }
    }
    // Written exactly so: sizes and what is between the values too.
    let again: Vec<(u8, Bytes)> =
        found.iter().map(|(index, value): &(u8, [u8; 32])| (*index, value.to_vec().into())).collect();
    let again = super::exported_quote::serialized(&again);
    (found.len() == indices.len() && again.ok()? == bytes).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use edgewarden_evidence::runtime_log::{Entry, Record, Start, Why, extend};
    use edgewarden_evidence::tpm::{ClockInfo, PcrSelection, PcrSelections};

    const NONCE: [u8; 32] = [7; 32];

    struct Folder {
        message: Vec<u8>,
        signature: Vec<u8>,
        ak: String,
        pcrs: Vec<u8>,
        log: Option<Vec<u8>>,
    }

    impl Folder {
        fn good() -> Self {
            let start =
                Start { why: Why::Boot, pcr: 15, value: [0; 32], previous: [0; 32], resets: 1, restarts: 0 };
            let entry = Entry::new(1, Record::Start(start)).unwrap();
            let mut pcrs: Vec<(u8, [u8; 32])> = (0..10).map(|index| (index, [index; 32])).collect();
            pcrs.push((15, extend(&[0; 32], &entry.digest)));
            let all: Vec<&[u8]> = pcrs.iter().map(|(_, value)| value.as_slice()).collect();
            let attest = Attest {
                qualified_signer: Vec::new(),
                extra_data: NONCE.to_vec(),
                clock: ClockInfo { clock: 1, reset_count: 1, restart_count: 0, safe: true },
                firmware_version: 1,
                kind: AttestKind::Quote {
                    selections: PcrSelections(vec![PcrSelection::of(
                        HashAlg::Sha256,
                        &pcrs.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
                    )]),
                    digest: HashAlg::Sha256.digest(&all),
                },
            };
            let message = attest.to_bytes();
            let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            let signed = key.sign(&SystemRandom::new(), &message).unwrap();
            let (r, s) = signed.as_ref().split_at(32);
            let signature = Signature::Ecdsa { hash: HashAlg::Sha256, r: r.into(), s: s.into() }.to_bytes();
            let pcrs: Vec<_> = pcrs.iter().map(|(index, value)| (*index, value.to_vec().into())).collect();
            Self {
                message,
                signature,
                ak: spki::to_pem(key.public_key().as_ref()).unwrap(),
                pcrs: super::super::exported_quote::serialized(&pcrs).unwrap(),
                log: Some(entry.line().into()),
            }
        }

        fn judge(&self) -> Result<Verified, Reason> {
            let Self { message, signature, ak, pcrs, log } = self;
            judge(message, signature, ak, pcrs, log.as_deref(), &NONCE).map_err(|problem| match problem {
                Problem::Refused(refusal) => refusal.reason,
                other => panic!("{other}"),
            })
        }
    }

    #[test]
    fn a_quote_and_its_runtime_log_are_judged() {
        let good = Folder::good();
        let verified = good.judge().unwrap();
        assert_eq!(verified.pcrs.len(), 11);
        let (pcr, replayed) = verified.runtime_log.unwrap();
        assert_eq!((pcr, replayed.entries, replayed.boots), (15, 1, 1));
        assert_eq!(Folder { log: None, ..Folder::good() }.judge().unwrap().runtime_log, None);
    }

    #[test]
    fn whatever_was_changed_is_refused() {
        type Change = fn(&mut Folder);
        let changes: [(&str, Change, Reason); 9] = [
            ("another key", |folder| folder.ak = Folder::good().ak, Reason::AttestQuote),
            ("no key", |folder| folder.ak.clear(), Reason::AttestQuote),
            ("another signature", |folder| folder.signature = Folder::good().signature, Reason::AttestQuote),
            ("message", |folder| *folder.message.last_mut().unwrap() ^= 1, Reason::AttestQuote),
            ("a PCR", |folder| folder.pcrs[SELECTION_BYTES + 4 + 4 + 2] ^= 1, Reason::AttestQuote),
            ("which PCRs", |folder| folder.pcrs[9] ^= 1, Reason::AttestQuote),
            ("cut PCRs", |folder| folder.pcrs.truncate(700), Reason::AttestQuote),
            ("log", |folder| folder.log.as_mut().unwrap()[60] ^= 1, Reason::AttestRuntimeLog),
            (
                "another log",
                |folder| {
                    let text = String::from_utf8(folder.log.take().unwrap()).unwrap();
                    folder.log = Some(text.replace("resets=1", "resets=2").into());
                },
                Reason::AttestRuntimeLog,
            ),
        ];
        for (what, change, reason) in changes {
            let mut folder = Folder::good();
            change(&mut folder);
            assert_eq!(folder.judge(), Err(reason), "{what}");
        }
        let Folder { message, signature, ak, pcrs, .. } = Folder::good();
        assert!(judge(&message, &signature, &ak, &pcrs, None, &[8; 32]).is_err(), "another nonce");
    }
}
