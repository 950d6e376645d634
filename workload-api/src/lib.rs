//! The SPIFFE Workload API (SPIFFE Workload API and Workload Endpoint specifications): X.509 and JWT profiles.
//!
//! * [`source`]: what a socket's owner (`identityd`) provides: who may call, and the identity to give
//! * [`server`]: serves one socket for one module instance
//! * [`jwt`]: JWT-SVIDs, made and judged
//! * [`client`]: follows an identity from a socket
//! * [`secrets`]: `edgewarden.secrets.v1` on the same sockets: the deployment secrets of the instance
//! * [`keys`]: keys that stay in the gateway's keystore, the service `edgewarden.keys.v1` beside it
//!
//! The server trusts its [`IdentitySource`] and the kernel's word on the caller; nothing the caller sends.
//! The client trusts the socket it was told to use.
//!
//! `src/workloadapi.rs` is generated from `proto/workloadapi.proto` (protoc 3.21, tonic-prost-build 0.14 with
//! `bytes(".")`, `build_transport(false)` and `codec_path("edgewarden_workload_api::codec::ProstCodec")`) and kept in the
//! tree, so that a build needs no protoc; without a server, which [`server`] has of its own (`build_server(false)`), and with
//! `skip_debug` for the three messages that `src/silent.rs` is about.
//! `src/keysapi.rs` is made the same way, with a server, from `proto/keys.proto`, with `skip_debug` for each message that
//! holds a secret or a capability. So is what reflection tells of it, `proto/*.descriptor.bin`
//! (`protoc --include_imports --descriptor_set_out=…`).
//!
//! `src/envoy.rs` is generated in the same way from `proto/envoy/sds.proto` and `secret.proto`, which hold the parts of
//! Envoy's messages that are used, under Envoy's names and numbers; with `skip_debug(["."])`, because keys are in them,
//! and `include_file("mod.rs")`, each `include!` replaced by what it includes.

pub mod bundle;
pub mod client;
pub mod codec;
pub mod der;
pub mod jwt;
pub mod keys;
pub mod pem;
pub mod secrets;
pub mod server;
mod silent;
pub mod source;

#[allow(clippy::all, clippy::pedantic, unused_qualifications, reason = "generated")]
#[rustfmt::skip]
mod workloadapi;

#[allow(
    clippy::all,
    clippy::pedantic,
    unused_qualifications,
    missing_debug_implementations,
    dead_code,
    reason = "generated; a key must not have a Debug form"
)]
#[rustfmt::skip]
mod envoy;

#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unused_qualifications, reason = "generated")]
#[rustfmt::skip]
mod keysapi;

// Generated code names this crate as its users do; tests include that code too.
extern crate self as edgewarden_workload_api;

pub use source::{Bundles, Current, IdentitySource, JwtSvid, X509Context};
/// gRPC's codes, for who looks into a refused call.
pub use tonic::Code;

/// The metadata that every call must carry, once and with the value `true`, so that a request which somebody else's
/// software was tricked into sending is not answered (SPIFFE Workload Endpoint section 3).
const SECURITY_HEADER: &str = "workload.spiffe.io";
