//! Messages of a Workload API socket: generated code, its codec, and the values of our own services.
//!
//! * [`workloadapi`]: `SpiffeWorkloadAPI` (SPIFFE Workload API) · [`envoy`]: Envoy's secret discovery
//! * [`keysapi`] and [`keys`]: `edgewarden.keys.v1`, keys that stay in the gateway's keystore
//! * [`secrets_v1`] and [`secrets`]: `edgewarden.secrets.v1`, the deployment secrets of an instance
//! * [`codec`]: messages to bytes, with little memory held between two · [`descriptors`]: for reflection
//!
//! No I/O: server and client share this and nothing else.
//!
//! `src/workloadapi.rs` is generated from `../proto/workloadapi.proto` (protoc 3.21, tonic-prost-build 0.14 with
//! `bytes(".")`, `build_transport(false)` and `codec_path("crate::codec::ProstCodec")`, and `skip_debug` for the messages
//! that `src/silent.rs` is about) and kept in the tree, so that a build needs no protoc; without a server, which
//! `edgewarden-workload-server` has of its own (`build_server(false)`). `src/keysapi.rs` and `src/secrets_v1.rs` are made
//! the same way, with a server, from `keys.proto` and `secrets.proto`, with `skip_debug` for each message that holds a
//! secret or a capability. So is what reflection tells of them, `../proto/*.descriptor.bin`
//! (`protoc --include_imports --descriptor_set_out=…`).
//!
//! `src/envoy.rs` is generated in the same way from `../proto/envoy/sds.proto` and `secret.proto`, which hold the parts of
//! Envoy's messages that are used, under Envoy's names and numbers; with `skip_debug(["."])`, because keys are in them,
//! and `include_file("mod.rs")`, each `include!` replaced by what it includes.

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
