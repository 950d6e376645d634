//! Health of `identityd`, by what `edgewarden status` and `edgewarden doctor` go by as well.

use edgewarden_names::Reason;
use edgewarden_protocol::control::DiskReserve;

use super::Watched;

/// Blocks on the keystore, at most once a minute.
pub(super) fn check(of: &Watched) -> Result<(), Reason> {
    let health = of.ledger.metrics.health(&*of.keystore).ok_or(Reason::KeystoreFailed)?;
    if health.lockout.is_some_and(|lockout| lockout.locked) {
        return Err(Reason::KeystoreFailed);
    }
    let now = of.ledger.now();
    let state = of.ledger.current();
    let lease = state.documents().enrolment.accepted.as_ref().map(|accepted| accepted.lease(now));
    if lease.is_some_and(|lease| lease.ends <= now) {
        return Err(Reason::IdentityUnavailable);
    }
    if of.ledger.disk().is_some_and(DiskReserve::is_short) {
        return Err(Reason::Storage);
    }
    Ok(())
}
