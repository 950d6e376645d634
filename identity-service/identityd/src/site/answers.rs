//! The way of each request about a site's CA: what `runtimed` brings is judged, then decided.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_ca::{CaError, IssuingCa};
use edgewarden_decisions::authority;
use edgewarden_decisions::enrolment::Accepted;
use edgewarden_decisions::site::{Input, Pending, Site};
use edgewarden_est::wire::{self, Answer, BODY_BYTES_MAX, Question};
use edgewarden_est::{
    CertificateBag, CsrAttributes, EnrolledChain, EstError, Progress, Severity, SignedRequest, Subject,
    certs_only,
};
use edgewarden_keystore::{CaKey, Keystore};
use edgewarden_names::{ModuleName, Reason, Refusal, SpiffeId, UnixTime};
use edgewarden_protocol::audit::{Event, KeyUse};
use edgewarden_protocol::control::Reply;
use edgewarden_protocol::est::{
    EstAsked, EstFailure, EstLife, EstOperation, EstReply, EstRequest, EstState, EstStatus, HttpReply,
};

use super::handshake;
use crate::blocking::blocking;
use crate::ledger::Ledger;
use crate::metrics::Operation;
use crate::refuse::keystore_refusal;
use crate::sockets::RUNTIMED;

/// Most values of one header, and most bytes of each.
const VALUES_MAX: usize = 8;
const VALUE_BYTES_MAX: usize = 1024;
/// Life of the certificate that a new gateway CA is tried with.
const TRIAL: Duration = Duration::from_secs(600);

/// The parts of the service that sign requests and judge answers.
pub struct Desk {
    pub ledger: Arc<Ledger>,
    pub keystore: Arc<dyn Keystore>,
}

/// Whoever has a decision made and does what follows from it.
pub trait Decider: Sync {
    fn decide(&self, input: authority::Input) -> impl Future<Output = Result<Reply, Refusal>> + Send;
}

fn site(desk: &Desk) -> Result<&Site, Refusal> {
    let none =
        || Refusal::new(Reason::EstConfig, "gateway", "the configuration names no site's CA (`[est]`)");
    desk.ledger.context.site.as_ref().ok_or_else(none)
}

/// Answers one step of the exchange with the site's CA.
pub async fn answer(desk: &Arc<Desk>, decider: &impl Decider, request: EstRequest) -> Result<Reply, Refusal> {
    site(desk)?;
    let reply = match request {
        EstRequest::State => blocking(desk, state).await?,
        EstRequest::Handshake { transcript_hash } => {
            blocking(desk, move |desk| handshake(desk, transcript_hash.as_slice())).await?
        }
        EstRequest::Ask { operation, csrattrs } => {
            check(&csrattrs)?;
            ask(desk, decider, operation, csrattrs).await?
        }
        EstRequest::Answer { cacerts, answer } => {
            check(&cacerts)?;
            check(&answer)?;
            take_answer(desk, decider, cacerts, answer).await?
        }
    };
    Ok(Reply::Est(Box::new(reply)))
}

/// The state that `edgewarden status` shows.
pub fn status(ledger: &Ledger) -> Option<EstStatus> {
    let site = ledger.context.site.as_ref()?;
    let authority = ledger.current();
    let documents = authority.documents();
    Some(EstStatus {
        url: site.url.clone(),
        certified: documents.enrolment.accepted.is_some(),
        pending_since: documents.site_request.pending.as_ref().and_then(|pending| pending.since),
    })
}

/// Before anything of it is looked at.
fn check(reply: &HttpReply) -> Result<(), Refusal> {
    let headers = [&reply.content_type, &reply.transfer_encoding, &reply.retry_after];
    let long = |values: &Vec<String>| {
        values.len() > VALUES_MAX || values.iter().any(|value| value.len() > VALUE_BYTES_MAX)
    };
    if reply.body.0.len() > BODY_BYTES_MAX || headers.into_iter().any(long) {
        return Err(Refusal::new(
            Reason::RequestTooLarge,
            "answer",
            "it is over the limits of an EST answer",
        ));
    }
    Ok(())
}

fn state(desk: &Desk) -> Result<EstReply, Refusal> {
    let site = site(desk)?;
    let authority = desk.ledger.current();
    let documents = authority.documents();
    let mut state = EstState { point: site.point.clone().into(), ..EstState::default() };
    if let Some(accepted) = &documents.enrolment.accepted {
        state.chain.push(accepted.gateway_ca.clone());
        state.chain.extend(accepted.above().map(Into::into));
        state.life = Some(EstLife { not_before: accepted.not_before, not_after: accepted.not_after });
    }
    state.pending = documents.site_request.pending.as_ref().map(|pending| pending.operation);
    Ok(EstReply::State(state))
}

fn handshake(desk: &Desk, transcript_hash: &[u8]) -> Result<EstReply, Refusal> {
    let content = handshake::certificate_verify(transcript_hash)?;
    if desk.ledger.current().documents().enrolment.accepted.is_none() {
        let rule = "there is no certificate to show";
        return Err(Refusal::new(Reason::IdentityUnavailable, "handshake", rule));
    }
    let sign = || desk.keystore.ca_sign(&content);
    let signature = desk
        .ledger
        .metrics
        .keystore(Operation::CaSign, sign)
        .map_err(|error| keystore_refusal("handshake", &error))?;
    let event = Event::new("est.handshake", &desk.ledger.context.target.gateway, "");
    desk.ledger.record(&event.with_key(KeyUse::GatewayCa));
    Ok(EstReply::Signature(signature.into()))
}

fn failed(error: &EstError) -> EstReply {
    let (transient, retry_after_seconds) = match error.severity {
        Severity::Transient { retry_after } => (true, retry_after.map(|pause| pause.as_secs())),
        Severity::Fatal => (false, None),
    };
    EstReply::Failed(EstFailure { refusal: error.refusal.clone(), transient, retry_after_seconds })
}

/// The names that a request is for: those of the configuration, or of the certificate that it renews.
fn subject(site: &Site, accepted: Option<&Accepted>, operation: EstOperation) -> Result<Subject, Refusal> {
    match (operation, accepted) {
        (EstOperation::Enroll, _) => Ok(site.subject().clone()),
        (EstOperation::Reenroll, Some(accepted)) => Ok(site.held(accepted)?.subject()),
        (EstOperation::Reenroll, None) => {
            Err(Refusal::new(Reason::RequestInvalid, "renewal", "there is no certificate to renew"))
        }
    }
}

async fn ask(
    desk: &Arc<Desk>,
    decider: &impl Decider,
    operation: EstOperation,
    csrattrs: HttpReply,
) -> Result<EstReply, Refusal> {
    let asked = blocking(desk, move |desk| Ok(make_request(desk, operation, csrattrs)));
    let (pending, is_new) = match asked.await? {
        Ok(asked) => asked,
        Err(error) => return Ok(refused(desk, decider, &error).await),
    };
    let request = pending.request.clone();
    if is_new {
        decider.decide(authority::Input::Site(Input::Request(Some(pending)))).await?;
    }
    Ok(EstReply::Ask(EstAsked { request }))
}

/// The request that waits, or a new one.
fn make_request(
    desk: &Desk,
    operation: EstOperation,
    csrattrs: HttpReply,
) -> Result<(Pending, bool), EstError> {
    let site = site(desk)?;
    let authority = desk.ledger.current();
    let documents = authority.documents();
    let waiting = documents.site_request.pending.as_ref();
    let subject = subject(site, documents.enrolment.accepted.as_ref(), operation)?;
    if let Some(pending) = waiting.filter(|pending| pending.operation == operation)
        && pending.resume(&subject, &site.point).is_ok()
    {
        return Ok((pending.clone(), false));
    }
    let wishes = match wire::read(Question::CsrAttrs, &csrattrs.into(), desk.ledger.now())? {
        Answer::Content(der) => CsrAttributes::parse(&der)?,
        _ => CsrAttributes::default(),
    };
    if !wishes.ignored().is_empty() {
        tracing::info!(ignored = ?wishes.ignored(), "the site's CA asks for attributes that we do not know");
    }
    let key = CaKey(&*desk.keystore);
    let sign = || match operation {
        EstOperation::Enroll => SignedRequest::enroll(&subject, &wishes, &key),
        // The names of the certificate that is renewed, byte by byte (RFC 7030 section 4.2.2).
        EstOperation::Reenroll => SignedRequest::renew(&subject, &wishes, &key),
    };
    let request = desk.ledger.metrics.keystore(Operation::CaSign, sign)?;
    let event = Event::new("est.requested", &site.gateway, Question::Certificate(request.operation()));
    desk.ledger.record(&event.with_key(KeyUse::GatewayCa));
    Ok((Pending::new(operation, &request), true))
}

/// Says and writes down why there is no certificate; the request is given up when the CA will not decide otherwise.
async fn refused(desk: &Arc<Desk>, decider: &impl Decider, error: &EstError) -> EstReply {
    let reply = failed(error);
    tracing::warn!(refusal = %error.refusal, "no certificate from the site's CA");
    let refusal = error.refusal.clone();
    let noted = blocking(desk, move |desk| {
        desk.ledger.note(&refusal);
        Ok(())
    });
    drop(noted.await);
    let given_up =
        error.severity == Severity::Fatal && desk.ledger.current().documents().site_request.pending.is_some();
    if given_up && let Err(refusal) = decider.decide(authority::Input::Site(Input::Request(None))).await {
        tracing::error!(%refusal, "the request to the site's CA is not forgotten");
    }
    reply
}

/// Outcome of an answer.
enum Judged {
    Good { accepted: Box<Accepted>, serial: String },
    Later { after: Duration, pending: Pending },
}

async fn take_answer(
    desk: &Arc<Desk>,
    decider: &impl Decider,
    cacerts: HttpReply,
    answer: HttpReply,
) -> Result<EstReply, Refusal> {
    let judged = blocking(desk, move |desk| Ok(judge_answer(desk, cacerts, answer))).await?;
    match judged {
        Err(error) => Ok(refused(desk, decider, &error).await),
        Ok(Judged::Later { after, pending }) => {
            decider.decide(authority::Input::Site(Input::Request(Some(pending)))).await?;
            Ok(EstReply::Pending { after_seconds: after.as_secs() })
        }
        Ok(Judged::Good { accepted, serial }) => {
            let life = EstLife { not_before: accepted.not_before, not_after: accepted.not_after };
            match decider.decide(authority::Input::Site(Input::Accept { accepted, serial })).await {
                Ok(_) => Ok(EstReply::Enrolled(life)),
                Err(refusal) if refusal.reason == Reason::EstCertificate => {
                    Ok(refused(desk, decider, &EstError::from(refusal)).await)
                }
                Err(refusal) => Err(refusal),
            }
        }
    }
}

fn judge_answer(desk: &Desk, cacerts: HttpReply, answer: HttpReply) -> Result<Judged, EstError> {
    let site = site(desk)?;
    let state = desk.ledger.current();
    let documents = state.documents();
    let nothing = || Refusal::new(Reason::RequestInvalid, "answer", "nothing was asked");
    let pending = documents.site_request.pending.as_ref().ok_or_else(nothing)?;
    let subject = subject(site, documents.enrolment.accepted.as_ref(), pending.operation)?;
    let now = desk.ledger.now();
    let helpers = match wire::read(Question::CaCerts, &cacerts.into(), now)? {
        Answer::Content(der) => {
            let unread = |error| Refusal::new(Reason::EstAnswer, Question::CaCerts, error);
            CertificateBag::new(certs_only::parse(&der).map_err(unread)?)?
        }
        _ => CertificateBag::default(),
    };
    let reply = answer.into();
    let mut enrolment = pending.resume(&subject, &site.point)?;
    match enrolment.answered(&reply, &helpers, &site.anchors, now)? {
        Progress::Pending { after } => Ok(Judged::Later { after, pending: pending.after(&enrolment) }),
        Progress::Enrolled(chain) => {
            let accepted = site.accept(&chain)?;
            try_out(desk, site, &accepted, &chain, now)?;
            Ok(Judged::Good { accepted: Box::new(accepted), serial: chain.serial().to_owned() })
        }
    }
}

/// Issues a certificate beneath a new gateway CA and judges it as a peer would. It goes nowhere.
fn try_out(
    desk: &Desk,
    site: &Site,
    accepted: &Accepted,
    chain: &EnrolledChain,
    now: UnixTime,
) -> Result<(), EstError> {
    let refuse =
        |rule: String| EstError::from(Refusal::new(Reason::EstCertificate, "gateway CA certificate", rule));
    let unusable = |error: CaError| match error {
        CaError::Signer(_) | CaError::Random => EstError::new(
            Refusal::new(Reason::IdentityUnavailable, "gateway CA", "the key did not sign"),
            Severity::Transient { retry_after: None },
        ),
        error => refuse(format!("nothing can be issued beneath it: {error}")),
    };
    let module = ModuleName::parse(RUNTIMED).map_err(|error| refuse(error.to_string()))?;
    let id = SpiffeId::module(&site.trust_domain, &site.gateway, &module);
    let create = || {
        let key = CaKey(&*desk.keystore);
        let gateway_ca = accepted.gateway_ca.as_slice();
        IssuingCa::create(&key, gateway_ca, &site.trust_domain, &site.gateway, TRIAL, now)
    };
    let issuing = desk.ledger.metrics.keystore(Operation::CaSign, create).map_err(unusable)?;
    let detail = format!("a certificate beneath serial {}", chain.serial());
    desk.ledger.record(&Event::new("est.tried", &site.gateway, detail).with_key(KeyUse::GatewayCa));
    let svid = issuing.beneath(accepted.above()).issue_svid(&id, &[], TRIAL, now).map_err(unusable)?;
    edgewarden_svid::judge_chain(&svid.chain_der, &accepted.bundle(), &site.trust_domain, now)
        .map(drop)
        .map_err(|refusal| refuse(format!("peers would refuse certificates beneath it: {}", refusal.rule)))
}
