//! `identityd`: the process that decides.

use edgewarden_protocol::config::Config;
use edgewarden_protocol::layout::Layout;

/// Why the process cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot install the signal handler")]
    Signal(#[source] std::io::Error),
}

/// Runs until SIGTERM.
pub async fn run(layout: Layout, config: Config) -> Result<(), RunError> {
    let _ = (layout, config);
    Ok(())
}
