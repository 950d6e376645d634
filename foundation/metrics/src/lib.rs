//! A daemon's metrics and health, for a monitoring system.
//!
//! * [`page`]: families of numbers as text, in the format that the asker reads · [`Counts`], [`Seconds`]: what is counted
//! * [`door`]: `GET /metrics` and `GET /healthz` on a Unix socket
//!
//! A label is one of the program's own lists (reasons, states, operations) or a name of the deployment in force, never a
//! peer's word, so that the number of time series is bounded.

mod counts;
pub mod door;
pub mod page;
mod seconds;

pub use prometheus_client::metrics::counter::Counter;

pub use self::counts::Counts;
pub use self::seconds::Seconds;
