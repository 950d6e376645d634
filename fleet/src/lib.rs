//! The fleet's side: it enrols gateways, judges their evidence, carries deployments to them and keeps what they send.
//!
//! * [`server::serve`]: the running fleet, from a [`data_dir::DataDir`] · [`enrol`]: who may join and renew
//! * [`selection`]: which deployment a gateway should run · [`preflight`]: what a gateway will say of one · [`store`]: what the fleet knows, in SQLite
//! * [`admin_api`]: what the command line asks of the server · [`web`]: the dashboard · [`command`]: the command line
//!
//! A gateway trusts the fleet to certify its CA and to appraise it, and with nothing else: deployments are signed by
//! operators, whose keys never come here.

pub mod admin_api;
mod agreement;
pub mod backup;
pub mod command;
pub mod data_dir;
pub mod enrol;
pub mod lease;
mod metrics;
pub mod preflight;
mod problem;
pub mod selection;
pub mod server;
pub mod store;
mod text;
pub mod web;
mod when;

pub use problem::Problem;
