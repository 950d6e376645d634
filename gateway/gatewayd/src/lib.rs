//! `gatewayd`: messages between modules, leaf devices and the fleet, as far as the policy in force allows.
//!
//! * [`run`]: the process · [`view`]: what is in force · [`alerts`]: what is said to clients of problems that stand
//! * what the command line may ask is `edgewarden_protocol::gateway_console`
//!
//! | task | owns |
//! |---|---|
//! | hub | the broker and every connection's place in it |
//! | connection | one client's TLS stream: a reader and a writer |
//! | control | what is in force, from `identityd`; word of what has been put in force, and of refusals, to it |
//! | store, upload | the encrypted queue: in before the acknowledgement, out to the fleet |
//! | sessions | persistent sessions on disk: their documents, and the journal of their messages |
//! | enrol | leaf devices without a certificate |
//! | console | the command line |
//! | metrics | a monitoring system |
//!
//! Trusts `identityd`: its decisions are carried out, none is made here. Distrusts everybody else: a client is the
//! module or leaf device that its certificate names (`edgewarden_transport` verifies the chain to the fleet's root),
//! a module only from the address of its live start record, and only until its certificate ends. Holds no key that
//! outlives the hour, but for the queue's.

pub mod alerts;
mod audit;
mod confine;
mod connection;
mod console;
mod control;
mod daemon;
mod enrol;
mod event;
mod hub;
mod listen;
mod metrics;
mod record;
mod sessions;
mod store;
mod upload;
pub mod view;

pub use confine::ConfinementError;
pub use daemon::{GatewaydError, run};
