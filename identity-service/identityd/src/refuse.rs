//! Refusals for errors of our own, and random numbers, which may fail as well.

use std::sync::{Arc, Weak};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use edgewarden_keystore::KeystoreError;
use edgewarden_names::{ErrorChain, Reason, Refusal};
use edgewarden_platform::reserve::is_behind;

/// 32 bytes that nobody can guess.
pub fn random() -> Result<[u8; 32], Refusal> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|error| internal("random numbers", &error))?;
    Ok(bytes)
}

/// The peer learns that; the log learns why.
pub fn internal(subject: &str, error: &(dyn std::error::Error + 'static)) -> Refusal {
    tracing::error!(subject, error = %ErrorChain(error), "refused for an error of our own");
    if is_behind(error) {
        return Refusal::new(Reason::Storage, subject, "it cannot be written");
    }
    Refusal::new(Reason::Internal, subject, "see the log of identityd")
}

/// The keystore's error, for an operator.
pub fn keystore_refusal(subject: &str, error: &KeystoreError) -> Refusal {
    tracing::error!(subject, error = %ErrorChain(error), "the keystore refused");
    error.explained(subject)
}

/// The keystore's error goes to the log whole, to a module in brief.
pub fn keystore_refusal_in_brief(subject: &str, error: &KeystoreError) -> Refusal {
    tracing::error!(subject, error = %ErrorChain(error), "the keystore refused");
    error.refusal(subject)
}

/// Part of the service, for a task of a socket: it must not keep the service alive.
pub fn alive<T>(part: &Weak<T>) -> Result<Arc<T>, Refusal> {
    part.upgrade().ok_or_else(|| Refusal::new(Reason::IdentityUnavailable, "identityd", "it is stopping"))
}
