//! Errors of the server as a whole: of its start, its folder, its database, its listeners.

use std::net::SocketAddr;
use std::path::PathBuf;

use edgewarden_ca::CaError;
use edgewarden_transport::tls;

use crate::Problem;
use crate::data_dir::DataError;
use crate::store::StoreError;

/// Failure to start the server, or to go on serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("cannot open the database")]
    Store(#[from] StoreError),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the dashboard is plain HTTP and listens on a loopback address only, not on {0}")]
    WebNotLoopback(SocketAddr),
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` cannot be used", path.display())]
    Trust { path: PathBuf, source: Problem },
    #[error("cannot make the server's certificate")]
    Certificate(#[from] CaError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}
