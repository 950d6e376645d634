use std::fmt::Display;

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::reserve::is_behind;
use nix::errno::Errno;

/// An error of work on an image: a refusal of what came from outside, or a fault of this machine.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("cannot {what}")]
    Io { what: String, source: std::io::Error },
}

impl OciError {
    pub(crate) fn io(what: impl Display) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.to_string(), source }
    }

    /// The refusal to show; trouble with this machine becomes [`Reason::Internal`].
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Io { what, source } if is_behind(&source) => Refusal::new(Reason::Storage, what, source),
            Self::Io { what, source } => Refusal::new(Reason::Internal, what, source),
        }
    }
}

pub(crate) fn refused<T>(reason: Reason, subject: impl Display, rule: impl Display) -> Result<T, OciError> {
    Err(OciError::Refused(Refusal::new(reason, subject, rule)))
}

/// `true` for the errors of files that are this machine's fault, whatever an image is like.
pub(crate) fn is_ours(number: i32) -> bool {
    const OURS: [Errno; 7] =
        [Errno::ENOSPC, Errno::EDQUOT, Errno::EIO, Errno::EROFS, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE];
    OURS.contains(&Errno::from_raw(number))
}
