//! How often resident keys were asked for, by class of call.

use std::sync::atomic::AtomicU64;

use edgewarden_workload_api::keys::Operation;

use super::{Metrics, add, get};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCall {
    Create,
    Grant,
    PublicKey,
    List,
    Use(Operation),
}

impl KeyCall {
    const ALL: [Self; 11] = [
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

    fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Grant => "grant",
            Self::PublicKey => "public_key",
            Self::List => "list",
            Self::Use(operation) => operation.as_str(),
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct KeyCounts([Counts; KeyCall::ALL.len()]);

/// Call, done, refused.
pub(super) fn read(metrics: &Metrics) -> impl Iterator<Item = (&'static str, u64, u64)> {
    let each = KeyCall::ALL.iter().zip(&metrics.keys.0);
    each.map(|(call, counts)| (call.label(), get(&counts.done), get(&counts.refused)))
}

impl Metrics {
    pub fn key_call(&self, call: KeyCall, done: bool) {
        let place = KeyCall::ALL.iter().position(|one| *one == call);
        if let Some(counts) = place.and_then(|place| self.keys.0.get(place)) {
            add(if done { &counts.done } else { &counts.refused });
        }
    }
}
