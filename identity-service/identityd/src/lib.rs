//! `identityd`: the process that decides.
//!
//! It holds the gateway's keys, and answers on Unix sockets only: may this image start, who is this caller, which
//! deployment and policy are in force, does the verdict allow a certificate. Others fetch and carry out.
//!
//! * [`run`]: the process · [`Daemon`]: the same, opened and served by the caller, without confinement
//! * [`edgewarden_decisions`]: what is decided · `ledger`: one decision after the other, on disk before in force, and the
//!   log of them, with `refusals`: which refusals are written · `service`: the parts together
//! * `control`, `requests`: the control socket · `workload`, `sockets`: those of the Workload API
//! * features, each with the ledger and not the whole: `federation`, `jwt`, `secrets`, `site`, `iotedge`, `leaf_renewal`,
//!   [`keys`] (keys of modules that stay in the keystore), `runtime_log` (what a quote proves of it), `metrics`
//! * `issuance`: the issuing CA and the certificates in use · `module_keys`, `envelope`, `kept`: keys for `iotedge`
//! * [`clock`]: what time it is, for all daemons · `boot`: what the TPM has measured · `leaf_mark`: tells older leaf
//!   tokens apart · `confine`: what the process takes away from itself
//!
//! Trusts the kernel's word on its peers, the pinned root and the pinned operator keys. Distrusts every byte of every
//! request, also root's: `runtimed` speaks with registries and the fleet.

mod blocking;
mod boot;
pub mod clock;
mod confine;
mod control;
mod envelope;
mod federation;
mod iotedge;
mod issuance;
mod jwt;
mod kept;
pub mod keys;
mod leaf_mark;
mod leaf_renewal;
mod ledger;
mod metrics;
mod module_keys;
mod refusals;
mod refuse;
mod requests;
mod run;
mod runtime_log;
mod secrets;
mod service;
mod site;
mod sockets;
mod workload;

pub use run::{Daemon, RunError, run};
