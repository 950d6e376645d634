//! Leaf devices: what lets one enrol, and the certificate that it gets.

use edgewarden_names::UnixTime;
use serde::{Deserialize, Serialize};

use crate::Bytes;
use crate::token::LeafToken;

/// Lets one declared leaf enrol, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafAllowed {
    pub token: LeafToken,
    pub expires: UnixTime,
}

/// A certificate with its issuers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// DER, the leaf first, then its issuers without the root.
    pub chain: Vec<Bytes>,
    /// The root, DER.
    pub root: Bytes,
}
