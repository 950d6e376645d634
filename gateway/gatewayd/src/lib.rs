//! `gatewayd`: messages between modules, leaf devices and the fleet.

pub mod status;

use edgewarden_protocol::config::Config;
use edgewarden_protocol::layout::Layout;

#[derive(Debug, thiserror::Error)]
pub enum GatewaydError {
    #[error("cannot listen")]
    Listen(#[source] std::io::Error),
}

/// Runs until SIGTERM.
pub async fn run(_layout: Layout, _config: Config) -> Result<(), GatewaydError> {
    Ok(())
}
