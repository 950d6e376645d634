//! Errors of a request: a refusal that the peer is told, or trouble here that only the log is told.

use edgewarden_names::{ErrorChain, Reason, Refusal};

use crate::store::StoreError;

/// Error of a request, for the peer or for the log alone, see [`Problem::into_refusal`].
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    #[error("an internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Problem {
    /// Trouble of the fleet's own. The peer hears no more than `Internal`.
    pub fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Internal(Box::new(error))
    }

    /// The refusal for the peer. Trouble of the fleet's own becomes `Storage` or `Internal`, and is logged here, once.
    pub fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Store(error) if error.is_the_disk() => {
                tracing::error!(error = %ErrorChain(&error), "the disk refused; nothing was kept");
                Refusal::new(Reason::Storage, "fleet", "the fleet's disk is full, failing or read-only")
            }
            trouble => {
                tracing::error!(error = %ErrorChain(&trouble), "a request failed");
                Refusal::new(Reason::Internal, "fleet", "the fleet failed; see its log")
            }
        }
    }
}
