use edgewarden_names::{Reason, Refusal};

/// Fault of a certificate or of a path, in words of the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// Kinds differ in what a person does next. Ordered: where several paths fail, the kind that stands later says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Nobody that is trusted vouches for it.
    Untrusted,
    /// It needs what this program cannot check.
    Unsupported,
    /// It breaks a rule.
    Invalid,
    /// Its time has not come or is over.
    Expired,
}

impl Fault {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, text)
    }

    pub(crate) fn refusal(self, subject: &str) -> Refusal {
        let reason = match self.kind {
            Kind::Untrusted => Reason::AttestEkUntrusted,
            Kind::Unsupported => Reason::AttestEkUnsupported,
            Kind::Invalid => Reason::AttestEkInvalid,
            Kind::Expired => Reason::AttestEkExpired,
        };
        Refusal::new(reason, subject, self.text)
    }
}
