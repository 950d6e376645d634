//! The link to a site's own CA (RFC 7030): carries requests and answers between `identityd` and the EST server, when
//! [`edgewarden_est::Renewal`] says so.
//!
//! Decides nothing about certificates: `identityd` signs and judges. The certificate that is held stays in force whatever
//! fails here. Passwords are read for each asking and wiped after it; so a file that was put right counts at once.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_est::wire::Question;
use edgewarden_est::{Action, EstError, Life, Operation, Renewal, RenewalPolicy, Severity};
use edgewarden_est_client::{Client, ClientIdentity, Key};
use edgewarden_names::{ErrorChain, Reason, Refusal, UnixTime};
use edgewarden_protocol::ask::{self, Ask, NoAnswer};
use edgewarden_protocol::control::questions;
use edgewarden_protocol::est::questions::{Answer, Ask as AskFor, State};
use edgewarden_protocol::est::{
    EstConfig, EstDecision, EstLife, EstOperation, EstReply, EstRequest, EstState, HttpReply,
};
use edgewarden_protocol::runtime_console::{EstOutcome, EstStatus, EstTrouble};
use tokio::sync::{mpsc, oneshot};

use crate::context::Context;
use crate::est_handshake::HandshakeKey;
use crate::identity::CallError;

/// Pause after a state request that `identityd` did not answer.
const AWAY: Duration = Duration::from_secs(2);

/// A request for a certificate now.
#[derive(Debug)]
pub struct EstNow {
    /// A first one, even if one is held.
    pub anew: bool,
    pub answer: oneshot::Sender<Result<EstOutcome, Refusal>>,
}

/// Follows the site's CA for as long as it is polled.
pub async fn run(context: Arc<Context>, mut now: mpsc::Receiver<EstNow>) {
    let Some(config) = context.config.est.clone() else { return refuse_all(now).await };
    let mut link = Link {
        last_success: None,
        renewal: Renewal::new(RenewalPolicy::default(), None, seed()),
        known: false,
        config,
        context,
    };
    let mut asked: Option<EstNow> = None;
    loop {
        let wait = match link.step(asked.take()).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::debug!(error = %error.refusal, "identityd does not say what is held");
                AWAY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // Without senders the daemon ends.
            Some(one) = now.recv() => asked = Some(one),
        }
    }
}

async fn refuse_all(mut now: mpsc::Receiver<EstNow>) {
    while let Some(asked) = now.recv().await {
        let refusal =
            Refusal::new(Reason::EstConfig, "gateway", "the configuration names no site's CA (`[est]`)");
        // Whoever asked may be gone.
        drop(asked.answer.send(Err(refusal)));
    }
    std::future::pending::<()>().await;
}

/// Spreads gateways that started at one moment. Nothing secret hangs on it.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness gateways ask in step.
    aws_lc_rs::rand::fill(&mut bytes).map_or(0, |()| u64::from_ne_bytes(bytes))
}

fn away(error: CallError) -> EstError {
    match error {
        // What it refuses as a request, and not as an answer of the CA, is ours to mend.
        CallError::Refused(refusal) => EstError::from(refusal),
        error => EstError::new(error.refusal(), Severity::Transient { retry_after: None }),
    }
}

struct Link {
    context: Arc<Context>,
    config: EstConfig,
    renewal: Renewal,
    /// True once `renewal` is about what `identityd` holds.
    known: bool,
    last_success: Option<UnixTime>,
}

impl Link {
    /// Does what is due; returns the wait until something is due again.
    async fn step(&mut self, asked: Option<EstNow>) -> Result<Duration, EstError> {
        let state = match self.call(State).await {
            Ok(state) => state,
            Err(error) => {
                if let Some(asked) = asked {
                    drop(asked.answer.send(Err(error.refusal.clone())));
                }
                return Err(error);
            }
        };
        let life = state.life.map(life);
        if !self.known || self.renewal.held() != life {
            // Another than we know: from before our start, or `identityd` set it aside at its own.
            self.renewal = Renewal::new(RenewalPolicy::default(), life, seed());
            self.known = true;
        }
        let time = self.context.clock.now();
        let is_held = life.is_some_and(|life| life.contains(time));
        let operation = match &asked {
            Some(EstNow { anew: false, .. }) if is_held => EstOperation::Reenroll,
            Some(_) => EstOperation::Enroll,
            None => match self.renewal.next(time) {
                Action::Wait(pause) => {
                    self.show(pause);
                    return Ok(pause);
                }
                Action::Enroll => EstOperation::Enroll,
                Action::Reenroll => EstOperation::Reenroll,
            },
        };
        let outcome = self.attempt(operation, &state).await;
        let time = self.context.clock.now();
        match &outcome {
            Ok(Ok(held)) => {
                tracing::info!(until = %held.not_after, "the site's CA has certified the gateway");
                self.last_success = Some(time);
                self.renewal.succeeded(*held, time);
            }
            Ok(Err(after)) => {
                tracing::info!(seconds = after.as_secs(), "the site's CA has not decided yet");
                self.renewal.pending(*after, time);
            }
            Err(error) => {
                let held = if is_held { "the certificate that is held stays" } else { "there is none" };
                let error_chain = ErrorChain(error).to_string();
                tracing::warn!(error = %error_chain, held, "no certificate from the site's CA");
                self.renewal.failed(error, time);
            }
        }
        let wait = match self.renewal.next(time) {
            Action::Wait(pause) => pause,
            // Pauses are never zero; a clock that jumped just now is seen in the next step.
            Action::Enroll | Action::Reenroll => Duration::from_secs(1),
        };
        self.show(wait);
        if let Some(asked) = asked {
            let told = match outcome {
                Ok(Ok(held)) => Ok(EstOutcome::Enrolled { not_after: held.not_after }),
                Ok(Err(after)) => Ok(EstOutcome::Pending { again_at: time.plus(after) }),
                Err(error) => Err(error.refusal),
            };
            drop(asked.answer.send(told));
        }
        Ok(wait)
    }

    /// A certificate, or how long the CA wants to think.
    async fn attempt(
        &self,
        operation: EstOperation,
        state: &EstState,
    ) -> Result<Result<Life, Duration>, EstError> {
        let client = self.client(operation, state).await?;
        let csrattrs = client.exchange(Question::CsrAttrs, None).await?.into();
        let request = self.call(AskFor { operation, csrattrs }).await?.request;
        let question = Question::Certificate(match operation {
            EstOperation::Enroll => Operation::Enroll,
            EstOperation::Reenroll => Operation::Reenroll,
        });
        // The answer has our certificate; what lies between it and an anchor is here.
        let cacerts: HttpReply = client.exchange(Question::CaCerts, None).await?.into();
        let body = edgewarden_est::wire::request_body(request.as_slice());
        let answer: HttpReply = client.exchange(question, Some(body)).await?.into();
        Ok(match self.call(Answer { cacerts, answer }).await? {
            EstDecision::Enrolled(held) => Ok(life(held)),
            EstDecision::Pending { after_seconds } => Err(Duration::from_secs(after_seconds)),
        })
    }

    /// A connection to the server: by the bootstrap credentials, and for a renewal by what is renewed.
    async fn client(&self, operation: EstOperation, state: &EstState) -> Result<Client, EstError> {
        let (config, context) = (self.config.clone(), Arc::clone(&self.context));
        let (chain, point): (Vec<Vec<u8>>, _) =
            (state.chain.iter().map(|der| der.0.clone()).collect(), state.point.0.clone());
        let made = tokio::task::spawn_blocking(move || {
            let client = Client::new_by(&config, context.clock.clone())?;
            match operation {
                EstOperation::Enroll => Ok(client),
                EstOperation::Reenroll => {
                    let key: Key = Arc::new(HandshakeKey { context, point });
                    client.with_identity(ClientIdentity::new(&chain, key)?)
                }
            }
        });
        made.await.unwrap_or_else(|error| {
            Err(EstError::new(
                Refusal::new(Reason::Internal, "est", error),
                Severity::Transient { retry_after: None },
            ))
        })
    }

    async fn call<Q>(&self, question: Q) -> Result<Q::Answer, EstError>
    where
        Q: Ask<Request = EstRequest, Reply = EstReply>,
    {
        let question = questions::Est(Box::new(question.into_request()));
        let reply = self.context.identityd.call(question).await.map_err(away)?;
        ask::answer::<Q>(*reply).map_err(|none| match none {
            NoAnswer::Refused(failure) => {
                let retry_after = failure.retry_after_seconds.map(Duration::from_secs);
                let transient = Severity::Transient { retry_after };
                EstError::new(failure.refusal, if failure.transient { transient } else { Severity::Fatal })
            }
            NoAnswer::Other(kind) => {
                tracing::error!(kind, "identityd answered something else than was asked");
                away(CallError::Unexpected)
            }
        })
    }

    fn show(&self, wait: Duration) {
        let trouble = self.renewal.trouble().map(|trouble| EstTrouble {
            at: trouble.at,
            refusal: trouble.refusal.clone(),
            transient: matches!(trouble.severity, Severity::Transient { .. }),
            failures: trouble.failures,
        });
        self.context.board.set_est(EstStatus {
            url: self.config.url.clone(),
            last_success: self.last_success,
            again_at: Some(self.context.clock.now().plus(wait)),
            trouble,
        });
    }
}

fn life(held: EstLife) -> Life {
    Life { not_before: held.not_before, not_after: held.not_after }
}
