//! A call of secret discovery that was let in.

use std::sync::Arc;

use edgewarden_platform::peer::PeerEvidence;
use tonic::Status;

use crate::places::Open;
use crate::source::IdentitySource;
use crate::status::authorize;
use crate::turns::Turns;

/// A call that was let in: who makes it, and its place in the socket's budget.
pub(super) struct Admission {
    pub(super) source: Arc<dyn IdentitySource>,
    pub(super) caller: PeerEvidence,
    pub(super) turns: Turns,
    pub(super) _open: Open,
}

impl Admission {
    /// Fails when the caller may not be answered now.
    pub(super) fn authorize(&self) -> Result<(), Status> {
        authorize(&*self.source, &self.caller)
    }
}
