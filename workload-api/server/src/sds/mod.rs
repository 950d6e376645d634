//! Envoy's secret discovery service, version 3 (xDS protocol), on the socket of the Workload API.
//!
//! A proxy inside a module gets that module's certificate, key and trust bundles, and each later one, without files:
//!
//! * [`names`]: what a client asks for
//! * [`secrets`]: the secrets that the module has, in Envoy's messages
//! * [`validator`]: how Envoy is told to check its peers
//! * [`resource`]: what all of them speak of, and the limits
//! * [`state_of_the_world`], [`delta`]: the two forms of the protocol, without I/O
//! * [`stream`]: one stream, driven by its client and by the identity's rotation
//! * [`admission`]: who is let in · [`service`]: the three calls
//!
//! The Workload API's security header is not asked for: it is a rule of that service alone, and Envoy does not send it
//! unless it is configured to. It guards against requests that a module's own HTTP client is tricked into making, and
//! such a client does not speak gRPC to a Unix socket. Callers are judged like all others.
//!
//! Distrusts every byte of a request. No byte of one is read before its caller is let in and has a place in the
//! socket's budget of streams, because Envoy's requests are large.

mod admission;
mod delta;
mod names;
mod resource;
mod secrets;
mod service;
mod state_of_the_world;
mod stream;
mod validator;

pub(super) use edgewarden_workload_wire::envoy::envoy::service::secret::v3::secret_discovery_service_server::SERVICE_NAME;
pub use resource::{NAME_BYTES_MAX, NAMES_MAX, REQUEST_BYTES_MAX, UNANSWERED_MAX};
pub(super) use service::Secrets;
