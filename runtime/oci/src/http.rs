//! One request on one connection to a registry, with deadlines.

use std::fmt::Display;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use edgewarden_names::{Reason, Refusal};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HOST, HeaderValue, LOCATION, PROXY_AUTHORIZATION,
    RANGE, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::OciError;
use crate::access::{Access, Proxy};
use crate::challenge::{self, Challenge};
use crate::error::refused;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from the request to the head of the answer; an upload of a large layer is in it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest time without a byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for one whole answer, from its head on.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Headers with challenges that one answer may have.
const CHALLENGE_HEADERS_MAX: usize = 8;

/// `host` or `host:port`, and how it is reached.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    name: String,
    access: Access,
    /// Of a mirror: why there was no connection, so that it is not waited for again.
    away: Option<Arc<OnceLock<String>>>,
}

/// A request that is to be made.
#[derive(Clone)]
pub(crate) struct Call {
    method: Method,
    path: String,
    accept: Option<&'static str>,
    authorization: Option<HeaderValue>,
    from: u64,
    body: Option<(String, Bytes)>,
}

impl Call {
    pub(crate) fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.into(), accept: None, authorization: None, from: 0, body: None }
    }
    pub(crate) fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }
    pub(crate) fn accept(mut self, types: &'static str) -> Self {
        self.accept = Some(types);
        self
    }
    pub(crate) fn body(mut self, media_type: &str, bytes: Bytes) -> Self {
        self.body = Some((media_type.into(), bytes));
        self
    }
    /// Only what comes after the first `bytes` (RFC 9110 section 14.2). The answer may be the whole all the same.
    pub(crate) fn from(mut self, bytes: u64) -> Self {
        self.from = bytes;
        self
    }
    pub(crate) fn authorized(mut self, credentials: Option<HeaderValue>) -> Self {
        self.authorization = credentials;
        self
    }
    pub(crate) fn at(mut self, path: String) -> Self {
        self.path = path;
        self
    }
    /// Whether it changes what the registry has.
    pub(crate) fn writes(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }
}

/// An answer whose body has not been read.
pub(crate) struct Answer {
    from: String,
    response: Response<Incoming>,
    deadline: Instant,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(crate) fn unavailable(host: &str, rule: impl Display) -> OciError {
    OciError::Refused(Refusal::new(Reason::ImageUnavailable, host, rule))
}

impl Host {
    pub(crate) fn new(name: &str, access: &Access) -> Self {
        Self { name: name.into(), access: access.clone(), away: None }
    }

    /// A host that others can stand in for.
    pub(crate) fn mirror(name: &str, access: &Access) -> Self {
        Self { away: Some(Arc::default()), ..Self::new(name, access) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.access.is_plain(&self.name)
    }

    /// Whether both are one server, with its default port or without.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.is_plain() == other.is_plain() && self.host_and_port() == other.host_and_port()
    }

    /// The name or address, without brackets, and the port.
    fn host_and_port(&self) -> (&str, u16) {
        let default = if self.is_plain() { 80 } else { 443 };
        let numbered = self.name.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        // The colons of an address in brackets are its own.
        let (host, port) = match numbered {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
            _ => (self.name.as_str(), default),
        };
        (host.trim_start_matches('[').trim_end_matches(']'), port)
    }

    /// Makes a request. Redirects are answers like others.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, OciError> {
        let (host, port) = self.host_and_port();
        let proxy = self.access.proxy(host, port, !self.is_plain());
        let stream = self.stream(proxy).await?;
        // What is not in a tunnel, the proxy reads (RFC 9112 section 3.2.2).
        let forward = proxy.filter(|_| self.is_plain());
        let target = match forward {
            Some(_) => format!("http://{}{}", self.name, call.path),
            None => call.path.clone(),
        };
        let proxy_login = match forward {
            Some(proxy) => proxy.login().map_err(|rule| unavailable(&self.name, rule))?,
            None => None,
        };
        let answer = self.exchange(stream, call, &target, proxy_login).await?;
        match forward {
            Some(proxy) if answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(self.proxy_login(proxy))
            }
            _ => Ok(answer),
        }
    }

    async fn stream(&self, proxy: Option<&Proxy>) -> Result<Box<dyn Stream>, OciError> {
        if let Some(why) = self.away.as_ref().and_then(|away| away.get()) {
            return Err(unavailable(&self.name, format!("not asked again: {why}")));
        }
        let stream = self.connect(proxy).await;
        if let (Err(OciError::Refused(refusal)), Some(away)) = (&stream, &self.away) {
            drop(away.set(refusal.rule.clone()));
        }
        stream
    }

    async fn connect(&self, proxy: Option<&Proxy>) -> Result<Box<dyn Stream>, OciError> {
        let (host, port) = self.host_and_port();
        let (who, connecting) = match proxy {
            None => {
                ("the registry".to_owned(), timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await)
            }
            Some(proxy) => (
                format!("the proxy `{}`", proxy.address),
                timeout(CONNECT_TIMEOUT, TcpStream::connect(&proxy.address)).await,
            ),
        };
        let stream = connecting
            .map_err(|_| unavailable(&self.name, format!("{who} does not answer")))?
            .map_err(|error| unavailable(&self.name, format!("cannot connect to {who}: {error}")))?;
        match proxy {
            _ if self.is_plain() => Ok(Box::new(stream)),
            None => self.tls(Box::new(stream)).await,
            Some(proxy) => {
                let tunnel = timeout(CONNECT_TIMEOUT, self.tunnel(stream, proxy))
                    .await
                    .map_err(|_| unavailable(&self.name, format!("{who} does not answer")))??;
                self.tls(tunnel).await
            }
        }
    }

    /// A way through a proxy to the registry (RFC 9110 section 9.3.6).
    async fn tunnel(&self, stream: TcpStream, proxy: &Proxy) -> Result<Box<dyn Stream>, OciError> {
        let broken =
            |error: &dyn Display| unavailable(&self.name, format!("the proxy `{}`: {error}", proxy.address));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        // Ends with the tunnel.
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        let (host, port) = self.host_and_port();
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut request = Request::builder().method(Method::CONNECT).uri(&authority).header(HOST, &authority);
        if let Some(login) = proxy.login().map_err(|rule| unavailable(&self.name, rule))? {
            request = request.header(PROXY_AUTHORIZATION, login);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => return Err(self.proxy_login(proxy)),
            status => {
                return Err(broken(&format!("it answered {status} when asked for a way to the registry")));
            }
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| broken(&error))?;
        Ok(Box::new(TokioIo::new(upgraded)))
    }

    fn proxy_login(&self, proxy: &Proxy) -> OciError {
        let next = if proxy.has_login() {
            "refused the login that it was shown"
        } else {
            "wants a login: put `user:password` into a file for `runtime.proxy.credentials_file`, or for a command into the URL of `HTTPS_PROXY`"
        };
        unavailable(&self.name, format!("the proxy `{}` {next}", proxy.address))
    }

    async fn tls(&self, stream: Box<dyn Stream>) -> Result<Box<dyn Stream>, OciError> {
        let name = ServerName::try_from(self.host_and_port().0.to_owned())
            .map_err(|_| unavailable(&self.name, "the registry's name is not a host name"))?;
        let config = self.access.tls().map_err(|rule| unavailable(&self.name, rule))?;
        let connector = tokio_rustls::TlsConnector::from(config);
        let stream = timeout(CONNECT_TIMEOUT, connector.connect(name, stream))
            .await
            .map_err(|_| unavailable(&self.name, "the registry does not answer in TLS"))?
            .map_err(|error| {
                let hint = "name its CA in `runtime.registry_ca_files` (a command: `--registry-ca`), or list it in `runtime.plain_http_registries` (`--plain-http`)";
                unavailable(&self.name, format!("the TLS handshake failed: {error}; correct its certificate, {hint}"))
            })?;
        Ok(Box::new(stream))
    }

    async fn exchange(
        &self,
        stream: Box<dyn Stream>,
        call: Call,
        target: &str,
        proxy_login: Option<HeaderValue>,
    ) -> Result<Answer, OciError> {
        let broken =
            |error: &dyn Display| unavailable(&self.name, format!("the exchange broke off: {error}"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        // Ends when the answer's body has been read or dropped.
        tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::builder().method(call.method).uri(target).header(HOST, &self.name);
        if let Some(types) = call.accept {
            request = request.header(ACCEPT, types);
        }
        if let Some(credentials) = call.authorization {
            request = request.header(AUTHORIZATION, credentials);
        }
        if let Some(login) = proxy_login {
            request = request.header(PROXY_AUTHORIZATION, login);
        }
        if call.from > 0 {
            request = request.header(RANGE, format!("bytes={}-", call.from));
        }
        let mut body = Bytes::new();
        if let Some((media_type, bytes)) = call.body {
            request = request.header(CONTENT_TYPE, media_type);
            body = bytes;
        }
        let request = request.body(Full::new(body)).map_err(|error| broken(&error))?;
        let response = timeout(ANSWER_TIMEOUT, sender.send_request(request))
            .await
            .map_err(|_| unavailable(&self.name, "the registry does not answer"))?
            .map_err(|error| broken(&error))?;
        Ok(Answer { from: self.name.clone(), response, deadline: Instant::now() + DEADLINE })
    }

    /// Host and path of an answer's `Location`.
    pub(crate) fn place(&self, answer: &Answer) -> Result<(Self, String), OciError> {
        let wrong = || unavailable(&self.name, "the registry points to no usable place");
        let place = answer
            .response
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(wrong)?;
        let uri: Uri = place.parse().map_err(|_| wrong())?;
        let path = uri
            .path_and_query()
            .map(ToString::to_string)
            .filter(|path| path.starts_with('/'))
            .ok_or_else(wrong)?;
        let host = match uri.authority() {
            None => self.clone(),
            // Credentials in a URL are nobody's that we know.
            Some(authority) if !challenge::is_authority(authority.as_str()) => return Err(wrong()),
            Some(authority) => Self::new(authority.as_str(), &self.access),
        };
        // Plain HTTP is the configuration's word, not the registry's.
        match uri.scheme_str() {
            None => {}
            Some("https") if !host.is_plain() => {}
            Some("http") if host.is_plain() => {}
            _ => {
                return Err(unavailable(
                    &self.name,
                    format!("a redirection to `{}` is not followed", host.name),
                ));
            }
        }
        Ok((host, path))
    }

    /// The path of an upload's place, which must be at this registry.
    pub(crate) fn own_path(&self, answer: &Answer) -> Result<String, OciError> {
        let (host, path) = self.place(answer)?;
        if host.is_same(self) {
            Ok(path)
        } else {
            Err(unavailable(&self.name, "the upload is to go to another host"))
        }
    }
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The ways to log in that it offers.
    pub(crate) fn challenges(&self) -> Result<Vec<Challenge>, challenge::ChallengeError> {
        let headers = self.response.headers().get_all(WWW_AUTHENTICATE);
        let mut challenges = Vec::new();
        for header in headers.iter().take(CHALLENGE_HEADERS_MAX) {
            let text = header.to_str().map_err(|_| challenge::ChallengeError::Malformed)?;
            challenges.extend(challenge::parse(text)?);
        }
        Ok(challenges)
    }

    /// The first byte of a part (RFC 9110 section 14.4): `Content-Range: bytes FIRST-LAST/SIZE`.
    pub(crate) fn first_byte(&self) -> Option<u64> {
        let range = self.response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
        range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
    }

    /// The next part of the body.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, OciError> {
        let until = self.deadline.min(Instant::now() + IDLE_TIMEOUT);
        loop {
            let frame = timeout_at(until, self.response.body_mut().frame())
                .await
                .map_err(|_| unavailable(&self.from, "the registry stopped sending"))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(unavailable(&self.from, format!("the exchange broke off: {error}")));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    pub(crate) async fn bytes(&mut self, bytes_max: u64) -> Result<Vec<u8>, OciError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > bytes_max {
                let rule = format!("the registry sent more than {bytes_max} bytes");
                return refused(Reason::ImageTooLarge, &self.from, rule);
            }
        }
        Ok(bytes)
    }
}
