//! The audit log: what `identityd` decided, in order, on disk before the decision takes effect.
//!
//! Lines of JSON, each with the hash of the one before (`chain`); at intervals the head of the chain is signed by the
//! gateway CA's key and the signature put into the log (`head`). Who may write the files can cut off their end, or forge
//! what follows the last signature; what a signature covers can be changed by nobody without the key, and a log that was
//! cut off shows by any later head that is known elsewhere.
//!
//! * `log`: the writer, with rotation · [`Verifier`]: judges files without a clock, a disk or a daemon
//! * [`folder`]: reads the files of a log · [`Query`]: picks entries
//!
//! JWT-SVIDs are many and short: written is each audience that an instance asks for, the first time and up to a bound,
//! and how many tokens there were when the instance ends (`crate::jwt`).
//!
//! What is written: each certificate (`svid.issued`, `leaf.enrolled`, `issuing_ca.born`), each refusal within
//! [`crate::refusals`]' rate, each deployment with its policy epoch, each verdict, each start and stop, and each use of a
//! key of the keystore by its class ([`KeyUse`]), at the end of the detail.

mod chain;
pub mod folder;
mod head;
mod log;
#[cfg(test)]
mod properties;
mod query;
mod verify;

use std::fmt;

pub(crate) use self::chain::clip;
pub use self::chain::{GENESIS, LINE_BYTES_MAX};
pub use self::head::{HEAD_EVENT, Head, HeadProblem, Keys};
pub(crate) use self::head::{fingerprint, statement};
pub(crate) use self::log::Audit;
pub use self::log::AuditError;
pub use self::query::Query;
pub use self::verify::{Broken, Report, Verifier};

/// Most entries that one request may see.
pub const ENTRIES_MAX: usize = 1000;

/// What a key of the keystore was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// The gateway CA's key certified the issuing CA.
    GatewayCa,
    /// The endorsement and attestation keys answered the fleet's challenge.
    Enrolment,
    /// The attestation key quoted.
    Attestation,
    /// The storage key sealed or released a secret.
    Storage,
    /// The agreement key opened a secret.
    Agreement,
    /// The issuing CA's key, in memory, certified a module or leaf.
    IssuingCa,
    /// A key of JWT-SVIDs, in memory, signed tokens.
    Jwt,
    /// A module's key in the keystore.
    Resident,
}

impl fmt::Display for KeyUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GatewayCa => "gateway-ca",
            Self::Enrolment => "enrolment",
            Self::Attestation => "attestation",
            Self::Storage => "storage",
            Self::Agreement => "agreement",
            Self::IssuingCa => "issuing-ca",
            Self::Jwt => "jwt",
            Self::Resident => "resident",
        })
    }
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Such as `svid.issued`: `area.what`, from the program's text, never from a peer.
    pub kind: &'static str,
    pub subject: String,
    pub detail: String,
}

impl Event {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers give names and texts alike, which reads better"
    )]
    pub fn new(kind: &'static str, subject: impl ToString, detail: impl ToString) -> Self {
        Self { kind, subject: subject.to_string(), detail: detail.to_string() }
    }

    /// The same event, with the class of the key that it took.
    pub fn with_key(mut self, key: KeyUse) -> Self {
        if !self.detail.is_empty() {
            self.detail.push_str("; ");
        }
        self.detail.push_str("key ");
        self.detail.push_str(&key.to_string());
        self
    }
}
