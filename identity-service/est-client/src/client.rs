//! The async shell: sends what [`edgewarden_est::wire`] says and hands back what came. It decides nothing.
//!
//! A password goes to the server that TLS has identified, and to no other; the copy that is sent is freed, not wiped,
//! for the HTTP library owns it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_est::wire::{self, Answer, EstLabel, Question, Reply};
use edgewarden_est::{
    CertificateBag, CsrAttributes, EnrolledChain, Enrolment, EstError, Progress, SignedRequest, Subject,
    TrustAnchors, certs_only,
};
use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::est::EstConfig;
use edgewarden_transport::Clock;
use edgewarden_transport::http::{self, HttpError};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Response, body::Bytes};
use rustls::CertificateError;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::{self, Credentials};
use crate::tls::{self, ClientIdentity, Key};

const CONTENT_TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");

/// A client of one EST server. Cloning shares its connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    identity: Option<ClientIdentity>,
    http: http::Client,
}

struct Shared {
    origin: String,
    label: Option<EstLabel>,
    anchors: TrustAnchors,
    authorization: Option<Zeroizing<String>>,
    timeout: Duration,
    clock: Clock,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("origin", &self.shared.origin).finish_non_exhaustive()
    }
}

impl Client {
    /// Reads the files that the configuration names. Connects to nothing yet.
    pub fn new(config: &EstConfig) -> Result<Self, EstError> {
        Self::new_by(config, Clock::new())
    }

    /// The same, judging by this clock.
    pub fn new_by(config: &EstConfig, clock: Clock) -> Result<Self, EstError> {
        let anchors = config::anchors(config)?;
        let label = config.label.as_deref().map(EstLabel::parse).transpose()?;
        let (authorization, identity) = match Credentials::read(&config.auth)? {
            Credentials::Basic(header) => (Some(header), None),
            Credentials::Certificate { chain, key_pkcs8 } => {
                (None, Some(ClientIdentity::from_pkcs8(&chain, &key_pkcs8)?))
            }
            Credentials::Nothing => (None, None),
        };
        let (origin, timeout) = (config::origin(config)?.to_owned(), config::timeout(config)?);
        let shared = Arc::new(Shared { origin, label, anchors, authorization, timeout, clock });
        Self::connecting(shared, identity)
    }

    /// The same server, shown this certificate.
    pub fn with_identity(&self, identity: ClientIdentity) -> Result<Self, EstError> {
        Self::connecting(Arc::clone(&self.shared), Some(identity))
    }

    fn connecting(shared: Arc<Shared>, identity: Option<ClientIdentity>) -> Result<Self, EstError> {
        let unusable = |rule: &str| EstError::fatal(Refusal::new(Reason::EstConfig, "url", rule));
        let config = tls::config(&shared.anchors, identity.as_ref())
            .map_err(|error| unusable("TLS cannot be configured").because(error))?;
        let http = http::Client::new(&shared.origin, shared.clock.judges(config))
            .map_err(|error| unusable("it has the form `https://host[:port]`").because(error))?;
        Ok(Self { shared, identity, http })
    }

    /// Trust anchors that certificates are judged by.
    pub fn anchors(&self) -> &TrustAnchors {
        &self.shared.anchors
    }

    /// The CA's certificates (RFC 7030 section 4.1). None is believed for being there: see [`CertificateBag::trusted`].
    pub async fn cacerts(&self) -> Result<CertificateBag, EstError> {
        let question = Question::CaCerts;
        let reply = self.exchange(question, None).await?;
        let Answer::Content(der) = wire::read(question, &reply, self.shared.clock.now())? else {
            return Err(Refusal::new(Reason::EstAnswer, question, "the answer is empty").into());
        };
        let certificates =
            certs_only::parse(&der).map_err(|error| Refusal::new(Reason::EstAnswer, question, error))?;
        Ok(CertificateBag::new(certificates)?)
    }

    /// The CA's wishes for requests (RFC 7030 section 4.5).
    pub async fn csrattrs(&self) -> Result<CsrAttributes, EstError> {
        let question = Question::CsrAttrs;
        let reply = self.exchange(question, None).await?;
        match wire::read(question, &reply, self.shared.clock.now())? {
            Answer::Content(der) => {
                let wishes = CsrAttributes::parse(&der)?;
                if !wishes.ignored().is_empty() {
                    tracing::info!(ignored = ?wishes.ignored(), "the CA asks for attributes that we do not know");
                }
                Ok(wishes)
            }
            _ => Ok(CsrAttributes::default()),
        }
    }

    /// A first certificate: asks for the CA's wishes, has the key sign a request, and asks until it is decided or
    /// `patience` is over; `est.pending` then, and [`Client::ask`] is how to go on with the same request instead.
    pub async fn enroll(
        &self,
        key: &Key,
        subject: &Subject,
        patience: Duration,
    ) -> Result<EnrolledChain, EstError> {
        let wishes = self.csrattrs().await?;
        let (key, subject) = (Arc::clone(key), subject.clone());
        let request = blocking(move || SignedRequest::enroll(&subject, &wishes, &*key)).await?;
        self.ask_until_decided(Enrolment::new(request), patience).await
    }

    /// Renews `current`, showing it with `current_key`. `new_key` may be the same key or another.
    pub async fn reenroll(
        &self,
        current: &EnrolledChain,
        current_key: &Key,
        new_key: &Key,
        patience: Duration,
    ) -> Result<EnrolledChain, EstError> {
        let (shown, key) = (current.clone(), Arc::clone(current_key));
        let identity = blocking(move || Ok(ClientIdentity::enrolled(&shown, key)?)).await?;
        let client = self.with_identity(identity)?;
        let wishes = client.csrattrs().await?;
        let (current, key) = (current.clone(), Arc::clone(new_key));
        let request = blocking(move || SignedRequest::reenroll(&current, &wishes, &*key)).await?;
        client.ask_until_decided(Enrolment::new(request), patience).await
    }

    async fn ask_until_decided(
        &self,
        mut enrolment: Enrolment,
        patience: Duration,
    ) -> Result<EnrolledChain, EstError> {
        let begun = Instant::now();
        loop {
            match self.ask(&mut enrolment).await? {
                Progress::Enrolled(chain) => return Ok(chain),
                Progress::Pending { after } if begun.elapsed().saturating_add(after) <= patience => {
                    tokio::time::sleep(after).await;
                }
                Progress::Pending { after } => {
                    let refusal =
                        Refusal::new(Reason::EstPending, enrolment.question(), "the CA has not decided yet");
                    return Err(EstError::transient(refusal, Some(after)));
                }
            }
        }
    }

    /// Asks once. A future that is dropped closes the connection, at the latest when its time is over; whether the CA
    /// has issued is then unknown, and asking again with the same request does no harm.
    pub async fn ask(&self, enrolment: &mut Enrolment) -> Result<Progress, EstError> {
        // The answer has our certificate; what lies between it and an anchor is here.
        let helpers = self.cacerts().await?;
        let reply = self.exchange(enrolment.question(), Some(enrolment.body())).await?;
        enrolment.answered(&reply, &helpers, &self.shared.anchors, self.shared.clock.now())
    }

    /// One exchange, for a caller that has somebody else sign the requests and judge the answers.
    pub async fn exchange(&self, question: Question, body: Option<String>) -> Result<Reply, EstError> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(wire::REQUEST_TYPE));
            headers.insert(CONTENT_TRANSFER_ENCODING, HeaderValue::from_static(wire::REQUEST_ENCODING));
        }
        // `cacerts` is for everybody (RFC 7030 section 4.1.1).
        if let Some(authorization) = &self.shared.authorization
            && question != Question::CaCerts
        {
            let mut value = HeaderValue::from_str(authorization).map_err(|error| {
                EstError::fatal(Refusal::new(Reason::EstConfig, "user", "it cannot be sent")).because(error)
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let path = question.path(self.shared.label.as_ref());
        let body = Bytes::from(body.unwrap_or_default());
        let (http, timeout) = (self.http.clone(), self.shared.timeout);
        let exchange =
            async move { http.send(method, &path, headers, body, wire::BODY_BYTES_MAX, timeout).await };
        let response = if self.identity.is_some() {
            // The handshake has our key sign, and a key in a TPM takes its time.
            let runtime = tokio::runtime::Handle::current();
            blocking(move || Ok(runtime.block_on(exchange))).await?
        } else {
            exchange.await
        };
        response.map(|response| reply(&response)).map_err(|error| failure(question, error))
    }
}

/// Runs a call that blocks where it does not hold up others.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EstError> + Send + 'static,
) -> Result<T, EstError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(EstError::transient(Refusal::new(Reason::Internal, "est", "a call was cut off"), None)
            .because(error))
    })
}

fn reply(response: &Response<Bytes>) -> Reply {
    let values = |name: HeaderName| -> Vec<String> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        response.headers().get_all(name).iter().map(text).collect()
    };
    Reply {
        status: response.status().as_u16(),
        content_type: values(CONTENT_TYPE),
        transfer_encoding: values(CONTENT_TRANSFER_ENCODING),
        retry_after: values(RETRY_AFTER),
        body: response.body().to_vec(),
    }
}

fn failure(question: Question, error: HttpError) -> EstError {
    let refusal = |reason, rule: &str| Refusal::new(reason, question, rule);
    match &error {
        HttpError::TooLarge(_) => EstError::fatal(refusal(Reason::EstAnswer, "the answer is too long")),
        HttpError::Untrusted { source, .. } if is_a_matter_of_time(source) => EstError::transient(
            refusal(
                Reason::EstUntrusted,
                "the server's certificate is not valid at this time; is the clock right?",
            ),
            None,
        ),
        HttpError::Untrusted { .. } => EstError::fatal(refusal(Reason::EstUntrusted, "no secure connection")),
        HttpError::Url(_) | HttpError::Request(_) => {
            EstError::fatal(refusal(Reason::EstConfig, "the request cannot be made"))
        }
        HttpError::Deadline(_) => {
            EstError::transient(refusal(Reason::EstUnavailable, "no complete answer in time"), None)
        }
        _ => EstError::transient(refusal(Reason::EstUnavailable, "the server cannot be reached"), None),
    }
    .because(error)
}

/// Expired, or not valid yet: the clock of either side, or a certificate that is being renewed.
fn is_a_matter_of_time(error: &std::io::Error) -> bool {
    let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        rustls,
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        ))
    )
}
