//! Refusals as gRPC statuses.

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::peer::PeerEvidence;
use tonic::Status;

use crate::source::IdentitySource;

/// `reason: rule`. The codes follow the SPIFFE Workload API, section 3 and 6.3, and Workload Endpoint, section 6:
/// clients take InvalidArgument for final, PermissionDenied for "no identity", and retry after Unavailable.
pub(super) fn status(refusal: &Refusal) -> Status {
    let message = format!("{}: {}", refusal.reason, refusal.rule);
    match refusal.reason {
        Reason::CallerHeader
        | Reason::RequestInvalid
        | Reason::RequestTooLarge
        | Reason::SdsName
        | Reason::JwtAudience
        | Reason::JwtInvalid
        | Reason::KeyCiphertext => Status::invalid_argument(message),
        Reason::CallerUnknown
        | Reason::CallerNotModule
        | Reason::PeerUnauthorized
        | Reason::IdentityForeign
        | Reason::IdentityResidentKey
        | Reason::KeyCapability => Status::permission_denied(message),
        Reason::KeyUnknown => Status::not_found(message),
        Reason::KeyExists => Status::already_exists(message),
        Reason::KeyLimit => Status::resource_exhausted(message),
        Reason::KeyExhausted => Status::failed_precondition(message),
        _ => Status::unavailable(message),
    }
}

/// Fails when the caller may not be answered now.
pub(super) fn authorize(source: &dyn IdentitySource, caller: &PeerEvidence) -> Result<(), Status> {
    let judged = if caller.is_alive() { source.authorize(caller) } else { Err(unknown()) };
    judged.map_err(|refusal| {
        tracing::debug!(pid = caller.pid(), uid = caller.uid(), %refusal, "Workload API caller refused");
        status(&refusal)
    })
}

pub(super) fn unknown() -> Refusal {
    Refusal::new(
        Reason::CallerUnknown,
        "caller",
        "the caller is gone or is not a process that can be seen from here",
    )
}

pub(super) fn ended(rule: &str) -> Status {
    status(&Refusal::new(Reason::IdentityUnavailable, "stream", rule))
}
