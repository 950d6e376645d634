//! Entries of the audit log before they are written: whoever decides makes them, `edgewarden-audit` writes them.

use std::fmt;

/// Most characters of one text of an entry.
pub const TEXT_CHARS_MAX: usize = 512;

/// Text that may come from a peer: bounded, and without what could fool a terminal.
pub fn clip(text: &str) -> String {
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(TEXT_CHARS_MAX).map(printable).collect()
}

/// The purpose of a use of a keystore's key.
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

/// One entry of the audit log before it is written: no number, time or hash yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Such as `svid.issued`: `area.what`, from the program's text, never from a peer.
    pub kind: &'static str,
    pub subject: String,
    pub detail: String,
}

impl Event {
    /// An entry about `subject`; `detail` is for people.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers give names and texts alike, which reads better"
    )]
    pub fn new(kind: &'static str, subject: impl ToString, detail: impl ToString) -> Self {
        Self { kind, subject: subject.to_string(), detail: detail.to_string() }
    }

    /// The same event, with the class of the key that it took.
    #[must_use]
    pub fn with_key(mut self, key: KeyUse) -> Self {
        if !self.detail.is_empty() {
            self.detail.push_str("; ");
        }
        self.detail.push_str("key ");
        self.detail.push_str(&key.to_string());
        self
    }
}
