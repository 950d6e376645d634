use std::io;
use std::path::PathBuf;

use edgewarden_ca::CaError;
use edgewarden_names::{Reason, Refusal};

/// Error of a store. The variants follow what a caller or an operator does next.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// Retry later; the keys are where they were.
    #[error("{store} does not answer: {detail}; check that it is there and that this user may open it")]
    Unreachable { store: String, detail: String },
    /// Retry later.
    #[error(
        "the keystore did not answer within {seconds} seconds; try again, and look for what keeps it busy"
    )]
    Timeout { seconds: u64 },
    /// Retry later.
    #[error("the keystore has {waiting} requests waiting already; try again later")]
    Busy { waiting: usize },
    /// Retry after that time.
    #[error(
        "the TPM is in dictionary-attack lockout, caused by another program's keys; one try is given back in {retry_after_seconds} seconds"
    )]
    Lockout { retry_after_seconds: u32 },
    /// Retrying cannot succeed: another TPM, or the same one after TPM2_Clear.
    #[error("this is not the TPM that made `{}`, or it was cleared; to start anew, remove that file and join again", path.display())]
    OtherTpm { path: PathBuf },
    #[error("the TPM refused {command}: {detail}")]
    Tpm { command: &'static str, detail: String },
    #[error(
        "the TPM has no endorsement key certificate for RSA-2048, P-256 or P-384 in its NV memory; ask its vendor for one"
    )]
    NoEndorsementCertificate,
    #[error("the endorsement key certificate in the TPM's NV memory is not for this TPM's endorsement key")]
    EndorsementCertificate,
    /// Retrying cannot help before the firmware's setup has changed.
    #[error(
        "the TPM's SHA-256 PCR bank is off, so that it quotes nothing of the boot; turn it on in the firmware's setup"
    )]
    Sha256BankOff,
    #[error("`{}` has {found}; restore it from a backup, or remove it and join again", path.display())]
    Corrupted { path: PathBuf, found: &'static str },
    #[error("`{}` does not open with this passphrase, or has been changed", path.display())]
    Passphrase { path: PathBuf },
    #[error("the {kind} file `{}` {problem}", path.display())]
    SecretFile { kind: &'static str, path: PathBuf, problem: &'static str },
    #[error("the PKCS#11 library `{}` cannot be used: {detail}", path.display())]
    Module { path: PathBuf, detail: String },
    #[error("the token `{token}` of `{}` is not found: {problem}", module.display())]
    TokenMissing { token: String, module: PathBuf, problem: String },
    #[error(
        "the token `{token}` cannot do {mechanism} ({used_for}), and there is no other way; take a token that can"
    )]
    Mechanism { token: String, mechanism: &'static str, used_for: &'static str },
    /// Retrying may lock the token.
    #[error(
        "the token refused the PIN in `{}`; it is not tried again until that file changes, so that the token does not lock",
        path.display()
    )]
    PinRefused { path: PathBuf },
    #[error("the token `{token}` {problem}")]
    PinState { token: String, problem: &'static str },
    #[error(
        "the key `{key}` is not in the token `{token}` any more; restore the token, or remove this gateway's identity state and join again"
    )]
    KeyMissing { token: String, key: String },
    #[error("the key `{key}` in the token `{token}` {problem}; it is not used")]
    KeyAttribute { token: String, key: String, problem: &'static str },
    #[error(
        "the key `{key}` in the token `{token}` is another one than `{}` says; restore the token, or remove that file and join again",
        path.display()
    )]
    OtherKey { token: String, key: String, path: PathBuf },
    #[error("the token refused {call}: {detail}")]
    Token { call: String, detail: String },
    #[error("cannot use `{}`", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("nothing is sealed under `{0}`")]
    NotSealed(String),
    #[error("there is no key `{0}`")]
    NoKey(String),
    #[error("the key `{0}` is there already")]
    KeyExists(String),
    #[error("the store has {max} resident keys, which is all that it takes; delete one that is not needed")]
    TooManyKeys { max: usize },
    /// Retrying cannot help: a PCR cannot be taken back.
    #[error("PCR {0} is not where it should be: another program extended it, or the TPM was reset meanwhile")]
    PcrMoved(u8),
    #[error("{0} keystore cannot {1}")]
    Unsupported(&'static str, &'static str),
    #[error("the keystore was asked for something impossible: {0}")]
    Request(&'static str),
    /// An answer of the store fails its check. Something between here and the keys changes what passes.
    #[error("the keystore's answer is wrong: {0}; suspect the store or the path to it")]
    Answer(&'static str),
    #[error("cannot make the certificate request")]
    Csr(#[source] Box<CaError>),
}

impl KeystoreError {
    /// True when the same request may succeed later without anyone doing something.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Busy { .. } | Self::Lockout { .. }
        )
    }

    /// The refusal that an operator is told: why, in the store's words.
    pub fn explained(&self, subject: &str) -> Refusal {
        let hidden = self.refusal(subject);
        match hidden.reason {
            Reason::Busy => Refusal { rule: self.to_string(), ..hidden },
            Reason::Internal => Refusal::new(Reason::KeystoreFailed, subject, self),
            _ => hidden,
        }
    }

    /// The refusal that a peer is told: that the keystore could not, and when to come again, but not why.
    pub fn refusal(&self, subject: &str) -> Refusal {
        match self {
            Self::Request(problem) => Refusal::new(Reason::RequestInvalid, subject, problem),
            Self::NoKey(_) => Refusal::new(Reason::RequestInvalid, subject, "there is no key of that name"),
            Self::KeyExists(_) => Refusal::new(Reason::RequestInvalid, subject, "the name is taken"),
            Self::TooManyKeys { max } => {
                Refusal::new(Reason::RequestInvalid, subject, format!("there are {max} keys, which is all"))
            }
            // Facts of the machine, for whoever enrols it.
            error @ Self::NoEndorsementCertificate => Refusal::new(Reason::AttestEkMissing, subject, error),
            error @ Self::EndorsementCertificate => Refusal::new(Reason::AttestEkInvalid, subject, error),
            error @ Self::Sha256BankOff => Refusal::new(Reason::AttestPcrSelection, subject, error),
            error if error.is_transient() => {
                Refusal::new(Reason::Busy, subject, "the keystore does not answer in time")
            }
            _ => Refusal::new(Reason::Internal, subject, "the keystore could not do it"),
        }
    }
}
