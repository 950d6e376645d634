//! `identityd`: the process that decides.
//!
//! It holds the gateway's keys, and answers on Unix sockets only: may this image start, who is this caller, which
//! deployment and policy are in force, does the verdict allow a certificate. Others fetch and carry out.
//!
//! * [`run`]: the process · [`Daemon`]: the same, opened and served by the caller, without confinement
//! * `authority`, `starts`, `standing`: the decisions, without I/O, over `enrolment`, `deployments`, `permits`, `records`, `leaves`
//! * `service`: one decision after the other, on disk before in force: `state`, `audit`, `refusals`
//! * [`clock`]: what time it is, for all daemons
//! * `boot`: what the TPM has measured, for long leases
//! * `site`: the same with a site's own CA instead of a fleet
//! * `secrets`: which deployment secrets a module may have, kept sealed and opened for live instances only
//! * `issuance`: the issuing CA and the certificates in use · `renewal`: when · `workload`: who gets them
//! * `iotedge`: the same door for modules built with Azure's SDKs · `module_keys`, `envelope`, `kept`: keys that it uses
//! * `leaf_renewal`: a leaf device's certificate in the place of its own · `leaf_mark`: tells older leaf tokens apart
//! * `jwt`: the keys of JWT-SVIDs, and the tokens that they sign
//! * `runtime_log`: what a quote proves of it
//! * [`keys`]: keys of modules that stay in the keystore
//! * [`audit`]: the log of decisions, and the judge of such a log · `metrics`: numbers for a monitoring system
//! * `control`, `requests`: the control socket · `confine`: what the process takes away from itself
//!
//! Trusts the kernel's word on its peers, the pinned root and the pinned operator keys. Distrusts every byte of every
//! request, also root's: `runtimed` speaks with registries and the fleet.

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
mod metrics;
mod module_keys;
mod refusals;
mod requests;
mod run;
mod runtime_log;
mod secrets;
mod service;
mod site;
mod workload;

pub use run::{Daemon, RunError, run};
