use edgewarden_names::pem::PemError;
use edgewarden_names::{Reason, Refusal, SpiffeId, UnixTime};

/// Error of a key that lives elsewhere and did not sign.
#[derive(Debug, thiserror::Error)]
#[error("the key did not sign")]
pub struct SignError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl SignError {
    /// Wraps the error of the key's home.
    pub fn new(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Box::new(source))
    }
}

/// Error of issuing or reading certificates. The variants follow what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Make a new issuing CA, or renew the gateway CA's certificate.
    #[error("the issuing certificate expired at {not_after}, it is {now}")]
    IssuerExpired { not_after: UnixTime, now: UnixTime },
    /// The clock of this machine is wrong, or that of the issuer was.
    #[error("the issuing certificate is valid from {not_before}, it is {now}; set the clock")]
    IssuerNotYetValid { not_before: UnixTime, now: UnixTime },
    #[error("`{0}` is not a module or leaf of this gateway")]
    ForeignId(SpiffeId),
    #[error("`{}` is not a DNS name that a certificate may carry", .0.escape_debug())]
    DnsName(String),
    #[error("the request is not valid: {0}")]
    Request(&'static str),
    #[error("the certificate is not valid: {0}")]
    Certificate(&'static str),
    #[error("the key is not valid: {0}")]
    Key(&'static str),
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("a lifetime is at least one second")]
    Lifetime,
    #[error("the key of the CA cannot be used")]
    Signer(#[source] SignError),
    #[error("cannot build the certificate: {0}")]
    Build(rcgen::Error),
    #[error("the random number generator failed")]
    Random,
}

impl CaError {
    /// The refusal that the applicant is told.
    pub fn refusal(&self, subject: &str) -> Refusal {
        match self {
            Self::IssuerExpired { .. } | Self::IssuerNotYetValid { .. } => Refusal::new(
                Reason::IdentityUnavailable,
                subject,
                "the gateway has no valid issuing certificate",
            ),
            Self::ForeignId(_) | Self::DnsName(_) | Self::Request(_) | Self::Pem(_) | Self::Lifetime => {
                Refusal::new(Reason::RequestInvalid, subject, self)
            }
            Self::Certificate(_) | Self::Key(_) | Self::Signer(_) | Self::Build(_) | Self::Random => {
                Refusal::new(Reason::Internal, subject, "the certificate could not be made")
            }
        }
    }
}
