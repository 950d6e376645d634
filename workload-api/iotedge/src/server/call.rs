//! One request's way: the caller, the path, whose path it is, the body, the call, the caller again.

use std::sync::Arc;

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::peer::PeerEvidence;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::CONNECTION;
use hyper::header::HeaderValue;
use hyper::{Request, StatusCode, Version};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::{BODY_TIME, CALLS_MAX, Door, THREAD_TIME};
use crate::reply::{self, Answer, Outcome};
use crate::request::{Denied, Operation, Target};
use crate::{BODY_BYTES_MAX, Instance, ModuleApi, body};

#[derive(Clone)]
pub(super) struct Service {
    pub(super) door: Door,
    /// Held by the call itself: who hangs up does not make room for another one.
    pub(super) places: Arc<Semaphore>,
}

impl Service {
    pub(super) async fn answer(&self, caller: Option<&PeerEvidence>, request: Request<Incoming>) -> Answer {
        match self.handle(caller, request).await {
            Ok(answer) => answer,
            Err(denied) => {
                tracing::debug!(refusal = %denied.refusal, "IoT Edge API request refused");
                let mut answer = reply::denied(&denied);
                // What is left of a request that was not read to its end is not taken for the next one.
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                answer
            }
        }
    }

    async fn handle(
        &self,
        caller: Option<&PeerEvidence>,
        request: Request<Incoming>,
    ) -> Result<Answer, Denied> {
        let caller = caller.ok_or_else(unknown)?;
        self.authorize(caller)?;
        let outcome = self.run_operation(request).await.inspect_err(|denied| self.tell(denied))?;
        self.authorize(caller)?;
        Ok(reply::answer(outcome)?)
    }

    /// Fails when the caller may not be answered now.
    fn authorize(&self, caller: &PeerEvidence) -> Result<(), Refusal> {
        if caller.is_alive() { self.door.callers.authorize(caller) } else { Err(unknown()) }
    }

    /// Writes down a refusal that tells of an attack, or of a mistake in a deployment; a mistake in HTTP is not written
    /// down.
    fn tell(&self, denied: &Denied) {
        if !matches!(
            denied.refusal.reason,
            Reason::RequestInvalid | Reason::IotedgeVersion | Reason::Internal | Reason::Busy
        ) {
            self.door.api.refused(&denied.refusal);
        }
    }

    async fn run_operation(&self, request: Request<Incoming>) -> Result<Outcome, Denied> {
        if request.version() != Version::HTTP_11 {
            let refusal = Refusal::new(Reason::RequestInvalid, "HTTP version", "HTTP/1.1 is spoken");
            return Err(Denied { status: StatusCode::HTTP_VERSION_NOT_SUPPORTED, refusal });
        }
        let uri = request.uri();
        // The origin form (RFC 9112 section 3.2.1) names no server, and so no other than this one.
        if uri.scheme().is_some() || uri.authority().is_some() {
            return Err(Refusal::new(Reason::RequestInvalid, "path", "the request's target is a path").into());
        }
        let target = Target::parse(request.method().as_str(), uri.path(), uri.query())?;
        let instance = self.door.api.instance()?;
        check_owner(&target, &instance)?;
        let body = read(request.into_body(), target.operation).await?;
        // What waits for nothing needs no thread, and does not wait for those that do.
        if matches!(target.operation, Operation::Modules | Operation::TrustBundle) {
            return Ok(call(&*self.door.api, target.operation, instance, &body)?);
        }
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let rule = format_args!("at most {CALLS_MAX} calls are answered at a time on one socket");
            Refusal::new(Reason::CallerBudget, "call", rule)
        })?;
        let thread = tokio::time::timeout(THREAD_TIME, Arc::clone(&self.door.threads).acquire_owned());
        let Ok(Ok(thread)) = thread.await else {
            let rule = "calls of other modules have been waiting for the keystore for too long; try again";
            return Err(Refusal::new(Reason::Busy, "call", rule).into());
        };
        let api = Arc::clone(&self.door.api);
        let called = tokio::task::spawn_blocking(move || {
            let (_place, _thread) = (place, thread);
            call(&*api, target.operation, instance, &body)
        });
        Ok(called.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a call of the IoT Edge API ended early");
            Err(Refusal::new(Reason::Internal, "call", "see the log of identityd"))
        })?)
    }
}

fn unknown() -> Refusal {
    Refusal::new(
        Reason::CallerUnknown,
        "caller",
        "the caller is gone or is not a process that can be seen from here",
    )
}

/// The socket decides who is asked for; the path must say the same.
fn check_owner(target: &Target, instance: &Instance) -> Result<(), Refusal> {
    let other = |rule| Err(Refusal::new(Reason::IotedgeModule, &instance.name, rule));
    if target.module.as_ref().is_some_and(|module| *module != instance.module) {
        return other("the path names another module than the one whose socket this is");
    }
    if target.generation.is_some_and(|generation| generation != instance.generation) {
        return other("the path names another generation than the one that runs");
    }
    Ok(())
}

async fn read(body: Incoming, operation: Operation) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    if operation.method() == "GET" {
        if body.is_end_stream() {
            return Ok(Zeroizing::default());
        }
        return Err(Refusal::new(Reason::RequestInvalid, "body", "this path takes no body"));
    }
    let too_large = || {
        let rule = format_args!("at most {BODY_BYTES_MAX} bytes are taken");
        Refusal::new(Reason::RequestTooLarge, "body", rule)
    };
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > BODY_BYTES_MAX {
        return Err(too_large());
    }
    let reading = collect(Limited::new(body, BODY_BYTES_MAX), declared);
    match tokio::time::timeout(BODY_TIME, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::new(Reason::RequestInvalid, "body", "it broke off")),
        Err(_) => {
            let rule = format_args!("it did not come within {} seconds", BODY_TIME.as_secs());
            Err(Refusal::new(Reason::RequestInvalid, "body", rule))
        }
    }
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

async fn collect(mut body: Limited<Incoming>, declared: usize) -> Result<Zeroizing<Vec<u8>>, Broken> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(declared));
    while let Some(frame) = body.frame().await {
        // Trailers say nothing here.
        if let Ok(data) = frame?.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

fn call(
    api: &dyn ModuleApi,
    operation: Operation,
    instance: Instance,
    body: &[u8],
) -> Result<Outcome, Refusal> {
    match operation {
        Operation::Modules => Ok(Outcome::Modules(instance)),
        Operation::TrustBundle => api.trust_bundle().map(Outcome::TrustBundle),
        Operation::Sign => {
            let request = body::Sign::parse(body)?;
            api.sign(request.key, &request.data).map(Outcome::Digest)
        }
        Operation::Encrypt => {
            let request = body::Encrypt::parse(body)?;
            api.encrypt(&request.plaintext, &request.initialization_vector).map(Outcome::Ciphertext)
        }
        Operation::Decrypt => {
            let request = body::Decrypt::parse(body)?;
            api.decrypt(&request.ciphertext, &request.initialization_vector).map(Outcome::Plaintext)
        }
        Operation::ServerCertificate => {
            let request = body::ServerCertificate::parse(body)?;
            api.server_certificate(&request.common_name, request.until).map(Outcome::Certificate)
        }
        Operation::IdentityCertificate => {
            let request = body::IdentityCertificate::parse(body)?;
            api.identity_certificate(request.until).map(Outcome::Certificate)
        }
    }
}
