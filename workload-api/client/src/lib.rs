//! Client of a Workload API socket (SPIFFE Workload API and Workload Endpoint), and of what is beside it.
//!
//! * [`follow`], [`fetch_once`]: the X.509 identity, as it rotates, or once
//! * [`fetch_jwt_svid`], [`fetch_jwt_bundles`], [`validate_jwt_svid`]: the JWT profile · [`bundles`]: all trust bundles
//! * [`keys`]: keys that stay in the gateway's keystore · [`secrets`]: the deployment secrets of the module
//!
//! Trusts whoever serves the socket with what it says, but not with how much: messages are bounded and parsed whole.

pub mod bundles;
mod jwt;
pub mod keys;
pub mod secrets;
mod socket;
mod x509;

pub use jwt::{fetch_jwt_bundles, fetch_jwt_svid, fetch_jwt_svid_of, validate_jwt_svid};
pub use socket::FetchError;
/// gRPC's codes, for who looks into a refused call.
pub use tonic::Code;
pub use x509::{Current, fetch_once, follow};
