//! Messages of a Workload API socket: generated code, its codec, and the values of our own services.
//!
//! * [`workloadapi`]: `SpiffeWorkloadAPI` (SPIFFE Workload API) · [`envoy`]: Envoy's secret discovery
//! * [`keysapi`] and [`keys`]: `edgewarden.keys.v1`, keys that stay in the gateway's keystore
//! * [`secrets_v1`] and [`secrets`]: `edgewarden.secrets.v1`, the deployment secrets of an instance
//! * [`codec`]: messages to bytes, with little memory held between two · [`descriptors`]: for reflection
//!
//! No I/O: server and client share this and nothing else.
//!
//! `workloadapi.rs`, `keysapi.rs`, `secrets_v1.rs` and `envoy.rs`, and what reflection tells of them
//! (`../proto/*.descriptor.bin`), are generated from `../proto` by `edgewarden-codegen` and kept in the tree. `../proto/envoy`
//! holds the parts of Envoy's messages that are used, under Envoy's names and numbers. Messages that hold a key, a secret or
//! a capability are made without `Debug`; those that need it have it in `silent.rs`.

pub mod codec;
pub mod descriptors;
pub mod keys;
pub mod secrets;
mod silent;

#[allow(clippy::all, clippy::pedantic, unused_qualifications, missing_debug_implementations, reason = "generated")]
#[rustfmt::skip]
pub mod workloadapi;

#[allow(
    clippy::all,
    clippy::pedantic,
    unused_qualifications,
    missing_debug_implementations,
    dead_code,
    reason = "generated; a key must not have a Debug form"
)]
#[rustfmt::skip]
pub mod envoy;

#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unused_qualifications, reason = "generated")]
#[rustfmt::skip]
pub mod keysapi;

#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unused_qualifications, reason = "generated")]
#[rustfmt::skip]
pub mod secrets_v1;

/// The metadata that every call must carry, once and with the value `true`, so that a request which somebody else's
/// software was tricked into sending is not answered (SPIFFE Workload Endpoint section 3).
pub const SECURITY_HEADER: &str = "workload.spiffe.io";
