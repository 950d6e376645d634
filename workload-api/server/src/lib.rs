//! Server of the SPIFFE Workload API (SPIFFE Workload API and Workload Endpoint specifications: X.509 and JWT profiles),
//! and of what is beside it, on one socket, for one instance of one module.
//!
//! * [`serve`]: the socket · [`IdentitySource`]: what its owner (`identityd`) provides: who may call, and the identity to give
//! * [`KeySource`]: keys that stay in the gateway's keystore · [`SecretSource`]: the deployment secrets of the instance
//! * [`sds`]: Envoy's secret discovery
//!
//! Who calls is asked of the kernel when the connection is accepted; whether that may be answered is asked of the
//! [`IdentitySource`] at each call and before each message of a stream. Everything a caller can make us hold is
//! counted per socket: connections, streams, header and message bytes. Anybody on the machine can connect, so those who
//! are none of the socket's callers have connections of their own to fill, few and short.
//!
//! Trusts its [`IdentitySource`] and the kernel's word on the caller; nothing the caller sends.

mod arriving;
mod authority;
mod caller;
mod connection;
mod connections;
mod dispatch;
mod encoded;
mod health;
mod jwt;
mod key_source;
mod keys;
mod limits;
mod message;
mod places;
mod reflection;
mod rpc;
pub mod sds;
mod secret_source;
mod secrets;
mod serve;
mod service;
mod source;
mod status;
mod stream;
mod turns;

pub use arriving::{ARRIVAL_TIME, ARRIVING_MAX};
pub use connections::Connections;
pub use key_source::{KeySource, Place};
pub use keys::KEYS_REQUEST_BYTES_MAX;
pub use limits::{
    CALLS_MAX, CONNECTIONS_MAX, EXCHANGES_MAX, REQUEST_BYTES_MAX, STRANGER_LIFETIME, STRANGERS_MAX,
    STREAMS_MAX,
};
pub use secret_source::SecretSource;
pub use serve::serve;
pub use source::{Current, IdentitySource};
