//! The communication policy: Cedar documents in, flat tables out.
//!
//! * [`compile`]: a deployment's policy, checked strictly and each rule enumerated once → [`CompiledEpoch`]
//! * [`CompiledEpoch`]: answers `may_…` for the broker, the uplink and the kernel rules, each with a [`Decision`]
//! * [`Explanation`]: the same answer for a person, with the rule and its text
//! * [`nftables::ruleset`]: the kernel's part of an epoch
//! * [`federation`]: what a deployment says of other trust domains
//!
//! Trusts the deployment to be what an operator signed; distrusts that it is right: one unknown name, one rule that
//! Cedar's strict validation does not accept, and the whole document is refused. No I/O.

mod action;
mod compile;
mod decide;
mod document;
mod epoch;
mod explain;
pub mod federation;
pub mod nftables;
mod quick;
mod rule;
mod sight;
mod trie;
mod world;

pub use action::Action;
pub use compile::compile;
pub use decide::Decision;
pub use document::SCHEMA;
pub use epoch::CompiledEpoch;
pub use explain::{ExplainedRule, Explanation, Permitted};
