//! Counts of requests for resident keys, by class of call.

use edgewarden_metrics::{Counter, Counts};
use edgewarden_workload_wire::keys::Operation;

/// Class of a call for resident keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCall {
    Create,
    Grant,
    PublicKey,
    List,
    Use(Operation),
}

impl KeyCall {
    pub(super) const ALL: &[Self] = &[
        Self::Create,
        Self::Grant,
        Self::PublicKey,
        Self::List,
        Self::Use(Operation::Sign),
        Self::Use(Operation::Certify),
        Self::Use(Operation::Encrypt),
        Self::Use(Operation::Decrypt),
        Self::Use(Operation::Seal),
        Self::Use(Operation::Unseal),
        Self::Use(Operation::Delete),
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Grant => "grant",
            Self::PublicKey => "public_key",
            Self::List => "list",
            Self::Use(operation) => operation.as_str(),
        }
    }
}

/// Calls of one class.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) done: Counter,
    pub(super) refused: Counter,
}

pub(super) fn calls() -> Counts<KeyCall, Calls> {
    Counts::of(KeyCall::ALL)
}
