//! The SPIFFE Workload API (SPIFFE Workload API and Workload Endpoint specifications): X.509 profile.
//!
//! * [`source`]: what a socket's owner (`identityd`) provides: who may call, and the identity to give
//! * [`server`]: serves one socket for one module instance
//! * [`client`]: follows an identity from a socket
//!
//! The server trusts its [`IdentitySource`] and the kernel's word on the caller; nothing the caller sends.
//! The client trusts the socket it was told to use.

pub mod client;
pub mod server;
pub mod source;

pub use source::{IdentitySource, X509Context};
