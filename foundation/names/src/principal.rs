//! Principals: the modules and leaf devices that policy is about.

use std::fmt;

use crate::{GatewayName, IdKind, LeafName, ModuleName, SpiffeId};

/// A party that policy decides on: a module or a leaf device of this gateway.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Principal {
    Module(ModuleName),
    Leaf(LeafName),
}

impl Principal {
    /// The principal that a certificate's ID names; `None` when it is not a module or leaf of this gateway.
    pub fn from_id(id: &SpiffeId, gateway: &GatewayName) -> Option<Self> {
        match id.kind() {
            IdKind::Module(of, module) if of == *gateway => Some(Self::Module(module)),
            IdKind::Leaf(of, leaf) if of == *gateway => Some(Self::Leaf(leaf)),
            _ => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module(name) => write!(f, "module {name}"),
            Self::Leaf(name) => write!(f, "leaf {name}"),
        }
    }
}
