//! Connections to one server, kept for the next request while they are fresh.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::HttpError;

const IDLE_CONNECTIONS_MAX: usize = 4;
/// Servers close connections that rest for longer; a request on one that is being closed would be lost.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// A connection shows the certificate that it began with. A new one shows the certificate of the moment.
const AGE_MAX: Duration = Duration::from_secs(5 * 60);
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Bytes that are read at a time.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Pool {
    /// Connected to instead of host and port.
    socket: Option<PathBuf>,
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
    idle: Mutex<Vec<Connection>>,
}

pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
    born: Instant,
    rests_since: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Pool {
    /// `None` when `host` is neither a DNS name nor an address. IPv6 addresses come in brackets, as in a URL.
    pub(super) fn new(host: &str, port: u16, socket: Option<PathBuf>, tls: ClientConfig) -> Option<Self> {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let name = ServerName::try_from(host.clone()).ok()?;
        Some(Self {
            socket,
            host,
            port,
            name,
            tls: TlsConnector::from(Arc::new(tls)),
            idle: Mutex::default(),
        })
    }

    /// Sends on a resting connection, or on a new one when there is none or the server has closed it meanwhile.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Connection), HttpError> {
        while let Some(mut connection) = self.take() {
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                // Given back: no byte of it has been sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.broken(error.into_error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        match connection.sender.send_request(request).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => Err(self.broken(error)),
        }
    }

    /// For a connection whose last reply has been read to its end.
    pub(super) fn put_back(&self, mut connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_CONNECTIONS_MAX && !connection.sender.is_closed() {
            connection.rests_since = Instant::now();
            idle.push(connection);
        }
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| {
            connection.rests_since.elapsed() < IDLE_MAX
                && connection.born.elapsed() < AGE_MAX
                && !connection.sender.is_closed()
        });
        let ready = idle.iter().rposition(|connection| connection.sender.is_ready())?;
        Some(idle.swap_remove(ready))
    }

    async fn connect(&self) -> Result<Connection, HttpError> {
        let unreachable = |source| HttpError::Unreachable { authority: self.authority(), source };
        if let Some(path) = &self.socket {
            return self.secure(UnixStream::connect(path).await.map_err(unreachable)?).await;
        }
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        self.secure(stream).await
    }

    async fn secure(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Connection, HttpError> {
        let unreachable = |source| HttpError::Unreachable { authority: self.authority(), source };
        let stream = self.tls.connect(self.name.clone(), stream).await.map_err(|source| {
            if is_tls(&source) {
                HttpError::Untrusted { authority: self.authority(), source }
            } else {
                unreachable(source)
            }
        })?;
        let (sender, driver) = http1::Builder::new()
            .max_headers(HEADERS_MAX)
            .max_header_size(HEADER_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
        let now = Instant::now();
        Ok(Connection { sender, driver: driver.abort_handle(), born: now, rests_since: now })
    }

    fn authority(&self) -> String {
        match &self.socket {
            Some(path) => path.display().to_string(),
            None => format!("{}:{}", self.host, self.port),
        }
    }

    /// In TLS 1.3 the server judges our certificate after we have begun to send, so its refusal comes as a broken
    /// exchange.
    fn broken(&self, error: hyper::Error) -> HttpError {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(current) = source {
            if current.downcast_ref::<io::Error>().is_some_and(is_tls) {
                return HttpError::Untrusted { authority: self.authority(), source: io::Error::other(error) };
            }
            source = current.source();
        }
        HttpError::Broken(error.into())
    }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some()
}
