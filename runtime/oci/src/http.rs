//! One request on one connection to a registry, with deadlines.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Reason, Refusal};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::OciError;
use crate::error::refused;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from the request to the head of the answer; an upload of a large layer is in it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest time without a byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for one whole answer, from its head on.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
const REDIRECTS_MAX: usize = 4;
/// Debian's bundle of public roots.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// `host` or `host:port`, and how it is spoken to.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    name: String,
    plain_http: Arc<[String]>,
}

/// A request that is to be made.
pub(crate) struct Call {
    method: Method,
    path: String,
    accept: Option<&'static str>,
    body: Option<(String, Bytes)>,
}

impl Call {
    pub(crate) fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.into(), accept: None, body: None }
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
}

/// An answer whose body has not been read.
pub(crate) struct Answer {
    from: String,
    response: Response<Incoming>,
    deadline: Instant,
}

fn unavailable(host: &str, rule: impl std::fmt::Display) -> OciError {
    OciError::Refused(Refusal::new(Reason::ImageUnavailable, host, rule))
}

impl Host {
    pub(crate) fn new(name: &str, plain_http: &[String]) -> Self {
        Self { name: name.into(), plain_http: plain_http.into() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn plain(&self) -> bool {
        self.plain_http.contains(&self.name)
    }

    /// Makes a request. Redirects are answers like others.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, OciError> {
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address()))
            .await
            .map_err(|_| unavailable(&self.name, "the registry does not answer"))?
            .map_err(|error| unavailable(&self.name, format!("cannot connect to the registry: {error}")))?;
        if self.plain() {
            self.exchange(stream, call).await
        } else {
            self.exchange(self.tls(stream).await?, call).await
        }
    }

    fn has_port(&self) -> bool {
        self.name
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
    }

    fn address(&self) -> String {
        let port = if self.plain() { 80 } else { 443 };
        if self.has_port() { self.name.clone() } else { format!("{}:{port}", self.name) }
    }

    async fn tls(
        &self,
        stream: TcpStream,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, OciError> {
        let host = if self.has_port() {
            self.name.rsplit_once(':').map_or("", |(host, _)| host)
        } else {
            &self.name
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| unavailable(&self.name, "the registry's name is not a host name"))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.tls_config()?));
        timeout(CONNECT_TIMEOUT, connector.connect(name, stream))
            .await
            .map_err(|_| unavailable(&self.name, "the registry does not answer in TLS"))?
            .map_err(|error| {
                let hint = "or list it in `runtime.plain_http_registries`";
                unavailable(
                    &self.name,
                    format!("the TLS handshake failed: {error}; correct its certificate, {hint}"),
                )
            })
    }

    fn tls_config(&self) -> Result<rustls::ClientConfig, OciError> {
        let mut roots = rustls::RootCertStore::empty();
        let bundle = CertificateDer::pem_file_iter(SYSTEM_ROOTS)
            .map_err(|error| unavailable(&self.name, format!("cannot read `{SYSTEM_ROOTS}`: {error}")))?;
        roots.add_parsable_certificates(bundle.filter_map(Result::ok));
        if roots.is_empty() {
            return refused(
                Reason::ImageUnavailable,
                &self.name,
                format!("`{SYSTEM_ROOTS}` holds no root certificate; install ca-certificates"),
            );
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unavailable(&self.name, error))?;
        Ok(config.with_root_certificates(roots).with_no_client_auth())
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        call: Call,
    ) -> Result<Answer, OciError> {
        let broken = |error: &dyn std::fmt::Display| {
            unavailable(&self.name, format!("the exchange broke off: {error}"))
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        // Ends when the answer's body has been read or dropped.
        tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::builder().method(call.method).uri(&call.path).header(HOST, &self.name);
        if let Some(types) = call.accept {
            request = request.header(ACCEPT, types);
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

    /// Gets a blob, where registries redirect to their storage. The storage is trusted no more than the registry.
    pub(crate) async fn call_following(&self, path: &str) -> Result<Answer, OciError> {
        let mut host = self.clone();
        let mut path = path.to_owned();
        for _ in 0..REDIRECTS_MAX {
            let answer = host.call(Call::get(&path)).await?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            (host, path) = host.place(&answer)?;
        }
        Err(unavailable(&self.name, "too many redirections"))
    }

    /// Host and path of an answer's `Location`.
    fn place(&self, answer: &Answer) -> Result<(Self, String), OciError> {
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
            Some(authority) => {
                Self { name: authority.as_str().into(), plain_http: Arc::clone(&self.plain_http) }
            }
        };
        // Plain HTTP is the configuration's word, not the registry's.
        match uri.scheme_str() {
            None => {}
            Some("https") if !host.plain() => {}
            Some("http") if host.plain() => {}
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
        if host.name == self.name {
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

    pub(crate) fn unexpected(&self, wanted: &str) -> OciError {
        let status = self.status();
        let rule = format!("the registry answered {status} when asked for {wanted}");
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return OciError::Refused(Refusal::new(Reason::ImageLogin, &self.from, rule));
        }
        unavailable(&self.from, rule)
    }
}
