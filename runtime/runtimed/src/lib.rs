//! `runtimed`: carries out what `identityd` decides about modules.
//!
//! * [`run`]: the daemon · [`control`]: what the command line asks of it
//! * [`identity`]: a client of `identityd`'s control socket · [`enrol`]: enrolment and renewal, shared with `edgewarden join`

pub mod control;
pub mod enrol;
pub mod identity;

use edgewarden_protocol::config::Config;
use edgewarden_protocol::layout::Layout;

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot {what}")]
    Io { what: String, source: std::io::Error },
    #[error("the configuration does not fit: {0}")]
    Config(String),
}

/// Runs until SIGTERM. Modules keep running when it ends.
#[allow(clippy::unused_async)]
pub async fn run(_layout: Layout, _config: Config) -> Result<(), RunError> {
    Ok(())
}
