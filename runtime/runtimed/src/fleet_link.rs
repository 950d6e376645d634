//! The link to the fleet: tells it how the gateway is, takes new deployments from it, renews the gateway's certificate.
//!
//! Nothing here stands on a start path: what runs goes on without the fleet. The fleet is a carrier that is not trusted
//! with deployments; `identityd` checks the operator's signature and the version.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Architecture, Backoff, Digest, ErrorChain, Refusal, UnixTime};
use edgewarden_protocol::control::{Lease, REFUSALS_MAX, Status, questions};
use edgewarden_protocol::dsse::ENVELOPE_BYTES_MAX;
use edgewarden_protocol::enrol::Verdict;
use edgewarden_protocol::runtime_console::ModuleStatus;
use edgewarden_protocol::secret::ENVELOPE_BYTES_MAX as SECRET_BYTES_MAX;
use edgewarden_protocol::uplink::{
    DeploymentReport, RefusalReport, Report, SECRETS_SENT_MAX, Sync, SyncReply,
};
use edgewarden_transport::http::{Client as Http, HttpError};
use edgewarden_transport::jitter::jittered;
use edgewarden_transport::{Identity, tls};
use edgewarden_workload_client::follow;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::context::Context;
use crate::enrol::{self, EnrolError};
use crate::fleet_jwt_keys::JwtKeys;
use crate::fleet_secrets::Secrets;
use crate::identity::CallError;

/// The fleet may hold a request this long.
const HELD_SECONDS: u32 = 30;
const SYNC_DEADLINE: Duration = Duration::from_secs(45);
/// A deployment's envelope and those of secrets in base64, in JSON.
const REPLY_BYTES_MAX: usize = 2 * (ENVELOPE_BYTES_MAX + SECRETS_SENT_MAX * SECRET_BYTES_MAX);
/// Changes that come together are told together.
const SETTLE: Duration = Duration::from_millis(500);
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_LONGEST: Duration = Duration::from_secs(60);
const RENEWAL_CHECK: Duration = Duration::from_secs(30);
const RENEWAL_BACKOFF_LONGEST: Duration = Duration::from_secs(600);

/// A request to renew now, with where the answer goes.
pub type RenewNow = oneshot::Sender<Result<Verdict, EnrolError>>;

/// Follows the fleet for as long as it is polled. `now` ends a wait.
pub async fn sync(context: Arc<Context>, mut now: mpsc::Receiver<()>) {
    let Some(fleet) = &context.config.fleet else { return std::future::pending().await };
    let identity =
        Identity::new(follow(context.layout.workload_socket("runtimed"))).with_clock(context.clock.clone());
    let http = tls::client_config(&identity, tls::only(tls::fleet_id(&context.config.gateway.trust_domain)))
        .map_err(|error| ErrorChain(&error).to_string())
        .and_then(|tls| Http::new(&fleet.url, tls).map_err(|error| ErrorChain(&error).to_string()));
    let http = match http {
        Ok(http) => http,
        Err(error) => {
            tracing::error!(%error, "there is no link to the fleet");
            context.board.set_fleet(|status| status.error = Some(error));
            return std::future::pending().await;
        }
    };
    let secrets = Secrets::default();
    let mut link = Link {
        context: Arc::clone(&context),
        http,
        refused: Refused::default(),
        reached: false,
        secrets,
        jwt_keys: JwtKeys::default(),
    };
    let mut changes = context.board.changes();
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_LONGEST);
    loop {
        if identity.ready().await.is_err() {
            return std::future::pending().await;
        }
        changes.mark_unchanged();
        let news = async {
            if changes.changed().await.is_ok() {
                sleep(SETTLE).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let outcome = tokio::select! {
            outcome = link.once() => outcome,
            // A held request is given up: its answer would come again.
            () = news => continue,
            _ = now.recv() => continue,
        };
        match outcome {
            Ok(()) => backoff.reset(),
            Err(error) => {
                tracing::info!(%error, "the fleet was not reached or refused");
                context.metrics.fleet_failed();
                context.board.set_fleet(|status| status.error = Some(error));
                link.reached = false;
                drop(timeout(jittered(backoff.step()), now.recv()).await);
            }
        }
    }
}

struct Link {
    context: Arc<Context>,
    http: Http,
    refused: Refused,
    /// False until the fleet has answered, and again after an attempt that failed.
    reached: bool,
    secrets: Secrets,
    jwt_keys: JwtKeys,
}

impl Link {
    async fn once(&mut self) -> Result<(), String> {
        let status = self.context.identityd.call(questions::Status).await;
        let status = *status.map_err(|error| ErrorChain(&error).to_string())?;
        // The first answer is wanted at once: it says that the fleet is there, and brings what was missed.
        let wait_seconds = if self.reached { HELD_SECONDS } else { 0 };
        if self.reached {
            self.jwt_keys.tell(&self.context.identityd, &self.http).await;
        }
        let secrets = self.secrets.sync(&self.context.identityd).await?;
        let request = Sync { have: self.have().await?, wait_seconds, report: self.report(status), secrets };
        let reply: Result<SyncReply, HttpError> =
            self.http.post_json("/v1/gateway/sync", &request, REPLY_BYTES_MAX, SYNC_DEADLINE).await;
        let reply = reply.map_err(|error| ErrorChain(&error).to_string())?;
        self.reached = true;
        let now = self.context.clock.now();
        self.context.board.set_fleet(|status| {
            status.last_contact = Some(now);
            status.error = None;
        });
        // Before the deployment, which may need them.
        let taken = self.secrets.accept(&self.context.identityd, reply.secrets).await;
        let Some(envelope) = reply.deployment else { return taken };
        if self.refused.is(&envelope.0) {
            return Err("the fleet still offers a deployment that this gateway refused".into());
        }
        match self.context.identityd.call(questions::DeploymentAccept(envelope.clone())).await {
            Ok(deployment) => {
                let deployment = &deployment.deployment;
                tracing::info!(name = %deployment.name, version = deployment.version, "a deployment is in force");
                self.refused = Refused::default();
                Ok(())
            }
            Err(CallError::Refused(refusal)) => {
                tracing::warn!(reason = refusal.reason.code(), %refusal, "the fleet's deployment was refused");
                self.refused.note(envelope.0, &refusal)
            }
            Err(error) => Err(ErrorChain(&error).to_string()),
        }
    }

    async fn have(&self) -> Result<Option<Digest>, String> {
        let deployment = self.context.identityd.call(questions::Deployment).await;
        let deployment = deployment.map_err(|error| ErrorChain(&error).to_string())?;
        Ok(deployment.map(|deployment| deployment.envelope))
    }

    fn report(&self, status: Status) -> Report {
        // Strangers' first: should there be too many, it is they who stay out.
        let refusals = status.strangers.into_iter().chain(status.refusals);
        let refusals: Vec<_> = refusals.collect();
        let skipped = refusals.len().saturating_sub(REFUSALS_MAX);
        let mut refusals: Vec<_> = refusals.into_iter().skip(skipped).collect();
        refusals.sort_by_key(|(at, _)| *at);
        let mut modules = self.context.board.status().modules;
        for module in &mut modules {
            module.degrade_without_certificate(&status.identities, status.time.now);
        }
        let modules = modules.iter().map(ModuleStatus::report).collect();
        Report {
            software_version: env!("CARGO_PKG_VERSION").into(),
            architecture: Some(Architecture::HERE),
            deployment: status.deployment.map(|(name, version)| DeploymentReport { name, version }),
            policy_epoch: status.epoch,
            modules,
            refusals: refusals.into_iter().map(|(at, refusal)| RefusalReport { at, refusal }).collect(),
            verdict: status.verdict,
            at: self.context.clock.now(),
        }
    }
}

/// The envelope that `identityd` refused last, and that is not offered to it again and again.
#[derive(Debug, Default)]
struct Refused(Option<Vec<u8>>);

impl Refused {
    fn is(&self, envelope: &[u8]) -> bool {
        self.0.as_deref() == Some(envelope)
    }

    /// Keeps a refused envelope. A refusal for a passing cause is an error of the attempt, which is made again after a
    /// growing wait.
    fn note(&mut self, envelope: Vec<u8>, refusal: &Refusal) -> Result<(), String> {
        if refusal.reason.passes() {
            return Err(format!("the fleet's deployment is not in force yet: {refusal}"));
        }
        self.0 = Some(envelope);
        // The report that goes out next names the refusal.
        Ok(())
    }
}

/// Renews when a third of the certificate's life is over, when the verdict has expired, or when asked.
pub async fn renewals(context: Arc<Context>, mut now: mpsc::Receiver<RenewNow>) {
    let mut backoff = Backoff::new(RENEWAL_CHECK, RENEWAL_BACKOFF_LONGEST);
    let mut wait = Duration::from_secs(1);
    loop {
        let asked = tokio::select! {
            asked = now.recv() => asked,
            () = sleep(wait) => None,
        };
        wait = jittered(RENEWAL_CHECK);
        if asked.is_none() && !is_due(&context).await {
            continue;
        }
        let renewed = enrol::renew(&context.config, &context.identityd, &context.clock).await;
        match &renewed {
            Ok(verdict) => {
                tracing::info!(verdict = verdict.state.as_str(), "the gateway's certificate is renewed");
                backoff.reset();
            }
            Err(error) => {
                // The certificate that is held stays in use for as long as it lasts.
                tracing::warn!(error = %ErrorChain(error), "the gateway's certificate was not renewed");
                wait = jittered(backoff.step());
            }
        }
        if let Some(asked) = asked {
            // Whoever asked may be gone.
            drop(asked.send(renewed));
        }
    }
}

async fn is_due(context: &Context) -> bool {
    if context.config.fleet.is_none() {
        return false;
    }
    let status = context.identityd.call(questions::Status).await;
    status.is_ok_and(|status| due(status.verdict.as_ref(), status.lease, status.time.now))
}

/// A gateway that never joined has nothing to renew.
fn due(verdict: Option<&Verdict>, lease: Option<Lease>, now: UnixTime) -> bool {
    let (Some(verdict), Some(lease)) = (verdict, lease) else { return false };
    verdict.expires <= now || lease.renewal_due <= now
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_protocol::enrol::VerdictState;

    #[test]
    fn renewal_is_due_after_a_third_of_life_and_after_the_verdict() {
        let verdict = |expires| Verdict {
            state: VerdictState::Fresh,
            hardware: "none".into(),
            reference: None,
            checks: Vec::new(),
            at: UnixTime(1000),
            expires: UnixTime(expires),
        };
        let ends = Some(Lease { ends: UnixTime(3000), renewal_due: UnixTime(2000), overdue: false });
        for (name, verdict, ends, now, expected) in [
            ("never joined", None, None, 9999, false),
            ("fresh", Some(verdict(5000)), ends, 1999, false),
            ("a third of life", Some(verdict(5000)), ends, 2000, true),
            ("verdict over", Some(verdict(1500)), ends, 1500, true),
            ("certificate over", Some(verdict(5000)), ends, 4000, true),
            ("clock before the certificate", Some(verdict(5000)), ends, 10, false),
        ] {
            assert_eq!(due(verdict.as_ref(), ends, UnixTime(now)), expected, "{name}");
        }
    }

    #[test]
    fn a_deployment_refused_for_a_passing_cause_is_offered_again() {
        use edgewarden_names::Reason;
        let mut refused = Refused::default();
        for (reason, again) in [
            (Reason::Internal, true),
            (Reason::Busy, true),
            (Reason::IdentityUnavailable, true),
            (Reason::DeploymentSignature, false),
            (Reason::DeploymentRollback, false),
            (Reason::DeploymentInvalid, false),
            (Reason::PolicyInvalid, false),
            (Reason::DeploymentTarget, false),
        ] {
            refused.0 = None;
            let refusal = Refusal::new(reason, "deployment", "so");
            assert_eq!(refused.note(b"one".to_vec(), &refusal).is_err(), again, "{reason}");
            assert_eq!(refused.is(b"one"), !again, "{reason}");
            assert!(!refused.is(b"another"));
        }
    }

    #[test]
    fn waits_are_spread_over_their_second_half() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_secs(10));
            assert!((Duration::from_secs(5)..=Duration::from_secs(10)).contains(&wait), "{wait:?}");
        }
    }
}
