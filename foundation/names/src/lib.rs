//! The names that every part of Edgewarden speaks.
//!
//! * [`TrustDomain`], [`SpiffeId`], [`GatewayName`], [`ModuleName`], [`LeafName`]: who · [`Principal`]: whom policy is about ·
//!   [`SecretName`], [`VolumeName`]: a secret and a volume of a module
//! * [`Digest`], [`Generation`], [`Epoch`], [`UnixTime`]: which, and when · [`Architecture`], [`Processor`]: for which processor
//! * [`topic`]: MQTT topics and filters, and what they match · [`pem`]: certificates and keys as text
//! * [`Reason`], [`Refusal`]: why not · [`ErrorChain`]: an error for a line of a log ·
//!   [`Backoff`]: how long until the next try
//!
//! Parse-only types: the parser is the only constructor, so a value that exists is valid.
//! No I/O and no clock but [`UnixTime::now`].

mod architecture;
mod backoff;
mod digest;
mod error_chain;
mod label;
mod numbers;
pub mod pem;
mod principal;
mod refusal;
mod spiffe_id;
pub mod topic;

/// Longest certificate request (PKCS#10) that is read. One of ours has under 512 bytes; what a device's library adds in
/// names and attributes fits many times.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

pub use architecture::{Architecture, Processor};
pub use backoff::Backoff;
pub use digest::{Digest, DigestError, sha256};
pub use error_chain::ErrorChain;
pub use label::{GatewayName, KeyName, LabelError, LeafName, ModuleName, SecretName, VolumeName};
pub use numbers::{Epoch, Generation, UnixTime};
pub use principal::Principal;
pub use refusal::{Reason, Refusal};
pub use spiffe_id::{IdKind, SpiffeId, SpiffeIdError, TrustDomain};
