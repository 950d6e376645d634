//! Requests over HTTP/1.1 and TLS, mostly JSON, every part of the reply bounded. No redirects, no proxies.
//!
//! Trusts the server as far as [`crate::tls`] has identified it, and not with our memory or time: headers, body and the
//! whole exchange have limits.

mod connection;
mod error;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::Refusal;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{HeaderMap, Method, Request, Response, Uri};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

use connection::Pool;
pub use error::HttpError;

/// A refusal is short; a longer error body is not one.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// A client of one server, with connections that are used again. Cloning shares them.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    bearer: Option<HeaderValue>,
}

struct Shared {
    pool: Pool,
    host: HeaderValue,
    /// Prefix of request paths; empty or beginning with `/`, not ending with it.
    base: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("host", &self.shared.host).finish_non_exhaustive()
    }
}

impl Client {
    /// `url` is `https://host[:port][/path]`; request paths are put after it.
    pub fn new(url: &str, tls: ClientConfig) -> Result<Self, HttpError> {
        Self::open(url, None, tls)
    }

    /// The same by a Unix socket of the server, which who is on the network cannot crowd.
    pub fn by_socket(socket: &Path, url: &str, tls: ClientConfig) -> Result<Self, HttpError> {
        Self::open(url, Some(socket.to_owned()), tls)
    }

    fn open(url: &str, socket: Option<PathBuf>, tls: ClientConfig) -> Result<Self, HttpError> {
        let refuse = || HttpError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| refuse())?;
        let authority = uri.authority().ok_or_else(refuse)?;
        if uri.scheme() != Some(&Scheme::HTTPS) || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(refuse());
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| refuse())?;
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => 443,
            Some(port) => port.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or_else(refuse)?,
            None => return Err(refuse()),
        };
        let pool = Pool::new(authority.host(), port, socket, tls).ok_or_else(refuse)?;
        let base = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { shared: Arc::new(Shared { pool, host, base }), bearer: None })
    }

    /// Sends `Authorization: Bearer <token>` with each request.
    pub fn with_bearer(mut self, token: &str) -> Result<Self, HttpError> {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|error| HttpError::Request(error.into()))?;
        value.set_sensitive(true);
        self.bearer = Some(value);
        Ok(self)
    }

    /// `path` begins with `/`.
    pub async fn post_json<T: Serialize + Sync, R: DeserializeOwned>(
        &self,
        path: &str,
        request: &T,
        reply_bytes_max: usize,
        deadline: Duration,
    ) -> Result<R, HttpError> {
        let body = serde_json::to_vec(request).map_err(|error| HttpError::Request(error.into()))?;
        self.exchange(Method::POST, path, body.into(), reply_bytes_max, deadline).await
    }

    /// `path` begins with `/`.
    pub async fn get_json<R: DeserializeOwned>(
        &self,
        path: &str,
        reply_bytes_max: usize,
        deadline: Duration,
    ) -> Result<R, HttpError> {
        self.exchange(Method::GET, path, Bytes::new(), reply_bytes_max, deadline).await
    }

    /// Status and body of a GET, unparsed. `path` begins with `/`. Bounded like everything else here.
    pub async fn get(
        &self,
        path: &str,
        reply_bytes_max: usize,
        deadline: Duration,
    ) -> Result<(u16, Vec<u8>), HttpError> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let reply = self.send(Method::GET, path, headers, Bytes::new(), reply_bytes_max, deadline).await?;
        Ok((reply.status().as_u16(), reply.into_body().to_vec()))
    }

    /// A request of a protocol other than JSON. The answer comes as it is: its status and headers are the caller's to
    /// judge. `path` begins with `/`; `headers` come on top of `Host` and the bearer. Bounded like everything else here.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
        reply_bytes_max: usize,
        deadline: Duration,
    ) -> Result<Response<Bytes>, HttpError> {
        let mut request = self.request(method, path, body)?;
        request.headers_mut().remove(ACCEPT);
        request.headers_mut().remove(CONTENT_TYPE);
        request.headers_mut().extend(headers);
        let exchange = async {
            let (response, connection) = self.shared.pool.send(request).await?;
            let (head, body) = response.into_parts();
            let body = collect(body, reply_bytes_max).await?;
            self.shared.pool.put_back(connection);
            Ok(Response::from_parts(head, body))
        };
        tokio::time::timeout(deadline, exchange).await.map_err(|_| HttpError::Deadline(deadline))?
    }

    /// Dropping the future closes the connection; whether the server carried the request out is then unknown.
    async fn exchange<R: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        reply_bytes_max: usize,
        deadline: Duration,
    ) -> Result<R, HttpError> {
        let request = self.request(method, path, body)?;
        let exchange = async {
            let (response, connection) = self.shared.pool.send(request).await?;
            let reply = read(response, reply_bytes_max).await;
            if reply.is_ok() || matches!(reply, Err(HttpError::Refused(_))) {
                // The body was read to its end.
                self.shared.pool.put_back(connection);
            }
            reply
        };
        let reply =
            tokio::time::timeout(deadline, exchange).await.map_err(|_| HttpError::Deadline(deadline))??;
        // An empty body says as much as `null`.
        let reply = if reply.is_empty() { Bytes::from_static(b"null") } else { reply };
        serde_json::from_slice(&reply).map_err(HttpError::Malformed)
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, HttpError> {
        let target = format!("{}{path}", self.shared.base);
        if !path.starts_with('/') {
            return Err(HttpError::Url(target));
        }
        let target = PathAndQuery::try_from(target.clone()).map_err(|_| HttpError::Url(target))?;
        let posts = method == Method::POST;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = target.into();
        let headers = request.headers_mut();
        headers.insert(HOST, self.shared.host.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if posts {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(bearer) = &self.bearer {
            headers.insert(AUTHORIZATION, bearer.clone());
        }
        Ok(request)
    }
}

/// The body of a success; a refusal or a status is an error.
async fn read(response: Response<hyper::body::Incoming>, bytes_max: usize) -> Result<Bytes, HttpError> {
    let status = response.status();
    if status.is_success() {
        return collect(response.into_body(), bytes_max).await;
    }
    // Redirects are not followed: they end up here too.
    let refusal = match collect(response.into_body(), REFUSAL_BYTES_MAX).await {
        Ok(body) if status.is_client_error() || status.is_server_error() => {
            serde_json::from_slice::<Refusal>(&body).ok()
        }
        _ => None,
    };
    Err(refusal.map_or(HttpError::Status(status.as_u16()), HttpError::Refused))
}

async fn collect(body: hyper::body::Incoming, bytes_max: usize) -> Result<Bytes, HttpError> {
    // Refused at once when the server announces it.
    if body.size_hint().lower() > u64::try_from(bytes_max).unwrap_or(u64::MAX) {
        return Err(HttpError::TooLarge(bytes_max));
    }
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(HttpError::TooLarge(bytes_max)),
        Err(error) => Err(HttpError::Broken(error)),
    }
}
