//! Each request's way: what it reads, which decision it asks of the authority, and what is done afterwards.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_audit::{ENTRIES_MAX, Query};
use edgewarden_decisions::authority::{Effect, Input};
use edgewarden_decisions::deployments::InForce;
use edgewarden_decisions::records::ProcessSeen;
use edgewarden_names::{CSR_BYTES_MAX, KeyName, LeafName, ModuleName, Reason, Refusal, SpiffeId, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::audit::{Event, KeyUse, clip};
use edgewarden_protocol::control::{
    AuditKey, Certificate, DiskReserve, Enforcer, ExportedQuote, JwtStatement, KeystoreHealth, Lease,
    Lockout, MANIFEST_BYTES_MAX, Reply, Request, SIGNATURE_PAYLOAD_BYTES_MAX, SIGNATURES_MAX, Standing,
    Status, StorageKey,
};
use edgewarden_protocol::dsse::ENVELOPE_BYTES_MAX;
use edgewarden_protocol::enrol::{Challenge, EVENT_LOG_BYTES_MAX};
use edgewarden_protocol::federation::BUNDLE_BYTES_MAX;
use edgewarden_protocol::leaf::{CERTIFICATE_BYTES_MAX, CHAIN_MAX};
use edgewarden_protocol::secret::ENVELOPE_BYTES_MAX as SECRET_BYTES_MAX;
use edgewarden_protocol::token::LeafToken;

use crate::blocking::blocking;
use crate::metrics::Operation;
use crate::refuse::{internal, keystore_refusal};
use crate::secrets;
use crate::service::Service;
use crate::{boot, federation, leaf_renewal, site, sockets, workload};

/// A `Watch` without news is answered after this time, so that both sides know the other is there.
const WATCH_HOLD: Duration = Duration::from_secs(30);
/// Time for which a change from outside counts as a problem that stands.
const ENFORCEMENT_STANDS: Duration = Duration::from_secs(3600);
/// Certificates that status says are missing. The identities in it say the same of each.
const PROBLEMS_MAX: usize = 3;
/// Largest signature by which a leaf's certificate is renewed.
const PROOF_BYTES_MAX: usize = 256;
/// The name under which the keystore seals `gatewayd`'s key.
const STORAGE_KEY_NAME: &str = "gatewayd-queue";
/// PCRs of an exported quote: what the boot measured (TCG PC Client Platform Firmware Profile, section 3.3.4).
const QUOTED_PCRS: [u8; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// Answers when the state is not what the enforcer has seen. Dropping the future forgets the question.
pub async fn watch(service: &Arc<Service>, seen: u64) -> Reply {
    let mut revisions = service.ledger.revisions();
    // Not "above": after a restart with a clock that was set back our revisions may be lower than those of before.
    let news = revisions.wait_for(|revision| *revision != seen);
    drop(tokio::time::timeout(WATCH_HOLD, news).await);
    let revision = *service.ledger.revisions().borrow();
    let mut snapshot = service.ledger.current().snapshot(revision, service.ledger.clock.told());
    snapshot.standing = standing(service);
    Reply::Snapshot(Box::new(snapshot))
}

/// Problems that stay until somebody does something, in words that stay the same meanwhile. The newest of what was
/// changed from outside counts for an hour.
fn standing(service: &Service) -> Vec<Standing> {
    let state = service.ledger.current();
    let now = service.ledger.now();
    let wrong =
        |reason, subject, rule| Standing { refusal: Refusal::new(reason, subject, rule), expires: None };
    let mut standing = Vec::new();
    let accepted = state.documents().enrolment.accepted.as_ref();
    if let Some(lease) = accepted.map(|accepted| accepted.lease(now)).filter(|lease| lease.overdue) {
        standing.push(Standing { refusal: expiring(lease, now), expires: Some(lease.ends) });
    }
    if service.ledger.clock.status(&state.known_of_time()).doubted.is_some() {
        standing.push(wrong(Reason::ClockDoubted, "system clock", "it shows a time that is not believed"));
    }
    if service.ledger.disk().is_some_and(DiskReserve::is_short) {
        let rule =
            "the disk of the gateway's state is or was full: some of what is set aside on it is used up";
        standing.push(wrong(Reason::Storage, "disk", rule));
    }
    let altered = service.ledger.refused_lately().into_iter().rev().find(|(at, refusal)| {
        matches!(refusal.reason, Reason::EnforcementAltered | Reason::EnforcementLost)
            && now.after(*at) < ENFORCEMENT_STANDS
    });
    standing.extend(altered.map(|(_, refusal)| Standing { refusal, expires: None }));
    standing
}

/// `peer`: which enforcer the asking user is.
#[expect(clippy::too_many_lines, reason = "one arm for each request, and nothing between them")]
pub async fn answer(service: &Arc<Service>, peer: Enforcer, request: Request) -> Result<Reply, Refusal> {
    check_sizes(&request)?;
    match request {
        Request::Status => Ok(status(service)),
        Request::KeystoreHealth => blocking(service, keystore_health).await,
        Request::Deployment => Ok(deployment(service)),
        Request::Watch { seen } => Ok(watch(service, seen).await),
        Request::Audit { last } => {
            let count = usize::try_from(last).unwrap_or(ENTRIES_MAX).min(ENTRIES_MAX);
            Ok(Reply::Audit(service.ledger.audit_newest(count)))
        }

        Request::AuditQuery { since, module, last } => {
            let last = usize::try_from(last).unwrap_or(ENTRIES_MAX).min(ENTRIES_MAX);
            let query = Query { since, module, last };
            blocking(service, move |service| {
                let picked = service.ledger.audit_query(&query);
                picked.map(Reply::Audit).map_err(|error| internal("audit log", &error))
            })
            .await
        }
        Request::AuditKey => blocking(service, audit_key).await,
        Request::JwtKeys => {
            blocking(service, |service| {
                let stated = service.jwt.statement(&service.ledger, &*service.keystore)?;
                Ok(Reply::JwtKeys(JwtStatement(stated)))
            })
            .await
        }

        Request::FederationList => {
            blocking(service, |service| {
                Ok(Reply::Federation(federation::list(&service.ledger, &service.federation_troubles)))
            })
            .await
        }
        Request::FederationFetched { trust_domain, endpoint, bundle } => {
            blocking(service, move |service| {
                let (ledger, troubles) = (&service.ledger, &service.federation_troubles);
                federation::fetched(ledger, troubles, &trust_domain, &endpoint, &bundle)?;
                Ok(Reply::Done)
            })
            .await
        }
        Request::FederationFailed { trust_domain, endpoint, refusal } => {
            blocking(service, move |service| {
                let (ledger, troubles) = (&service.ledger, &service.federation_troubles);
                federation::failed(ledger, troubles, &trust_domain, &endpoint, &refusal);
                Ok(Reply::Done)
            })
            .await
        }

        Request::EnrolKeys => blocking(service, enrol_keys).await,
        Request::EnrolProve(challenge) => {
            blocking(service, move |service| enrol_prove(service, &challenge)).await
        }
        Request::EnrolAccept(enrolled) => {
            blocking(service, |service| {
                boot::ask(&service.ledger.context.measured_boot, &*service.keystore);
                Ok(())
            })
            .await?;
            decide(service, Input::EnrolAccept(enrolled)).await
        }
        Request::EnrolRefused(refusal) => decide(service, Input::EnrolRefused(bounded(&refusal))).await,

        Request::Est(request) => site::answer(&service.site, service, *request).await,

        Request::DeploymentAccept(envelope) => {
            let judged = blocking(service, move |service| {
                service
                    .ledger
                    .current()
                    .judge_deployment(&envelope)
                    .inspect_err(|refusal| service.ledger.note(refusal))
            });
            match judged.await? {
                Some(judged) => {
                    let reply = decide(service, Input::DeploymentJudged(Box::new(judged))).await;
                    // Modules may have to go without a key in memory from now on.
                    service.renewal_due.notify_one();
                    reply
                }
                None => Ok(deployment(service)),
            }
        }
        Request::SecretAccept(envelope) => {
            blocking(service, move |service| secrets::accept(&service.secrets, &envelope)).await
        }
        Request::Secrets => Ok(secrets::list(&service.secrets)),
        Request::SecretsRelease { instance, have } => {
            blocking(service, move |service| {
                secrets::release_files(&service.secrets, &instance, have.as_deref())
            })
            .await
        }
        Request::AgreementKey => blocking(service, |service| secrets::agreement_key(&service.secrets)).await,
        Request::ImageJudge(evidence) => {
            let judged = blocking(service, move |service| {
                service
                    .ledger
                    .current()
                    .judge_image(&evidence)
                    .inspect_err(|refusal| service.ledger.note(refusal))
            });
            let (proof, epoch) = judged.await?;
            decide(service, Input::ImageJudged(Box::new(proof), epoch)).await
        }
        Request::StartPrepare { permit } => decide(service, Input::StartPrepare { permit }).await,
        Request::Started { instance, pid, address } => {
            let seen = see(&instance, pid)?;
            decide(service, Input::Started { instance, seen, address }).await
        }
        Request::Stopped { instance } => decide(service, Input::Stopped { instance }).await,
        Request::Proven { instance } => decide(service, Input::Proven { instance }).await,

        Request::EpochEnforced { enforcer, epoch } => {
            decide(service, Input::EpochEnforced { enforcer, epoch }).await
        }
        Request::Refused { origin, refusal } => {
            blocking(service, move |service| {
                service.ledger.note_reported(peer, &origin, refusal);
                Ok(Reply::Done)
            })
            .await
        }

        Request::LeafAllow { leaf, lifetime_seconds } => {
            decide(service, Input::LeafAllow { leaf, lifetime_seconds }).await
        }
        Request::LeafIssue { leaf, token, csr } => {
            blocking(service, move |service| leaf_issue(service, leaf, token, &csr)).await
        }
        Request::LeafRenew { chain, csr, proof } => {
            blocking(service, move |service| {
                let Service { ledger, issuance, leaf_renewals: renewals, .. } = service;
                leaf_renewal::renew(leaf_renewal::Parts { ledger, issuance, renewals }, &chain, &csr, &proof)
            })
            .await
        }
        Request::TimeHeard { offset_millis } => {
            time_says(service, move |service| service.hear_time(offset_millis)).await
        }
        Request::TimeAccept => time_says(service, Service::accept_time).await,
        Request::KeysList => blocking(service, |service| Ok(Reply::Keys(service.keys.all()))).await,
        Request::KeyDelete { module, key } => {
            blocking(service, move |service| key_delete(service, &module, &key)).await
        }
        Request::StorageKey => blocking(service, storage_key).await,
        Request::RecordKey => blocking(service, |service| Ok(record_key(service))).await,
        Request::Rotate { module } => {
            blocking(service, move |service| rotate(service, module.as_ref())).await
        }
        Request::AttestQuote { nonce } => {
            blocking(service, move |service| attest_quote(service, &nonce)).await
        }
    }
}

/// A frame bounds the whole; this bounds the parts, before anything is hashed or kept.
fn check_sizes(request: &Request) -> Result<(), Refusal> {
    let check = |what: &str, size: usize, max: usize| {
        if size <= max {
            return Ok(());
        }
        Err(Refusal::new(Reason::RequestTooLarge, what, format!("{size} is over the limit of {max}")))
    };
    match request {
        Request::DeploymentAccept(envelope) => check("deployment", envelope.0.len(), ENVELOPE_BYTES_MAX),
        Request::SecretAccept(envelope) => check("secret", envelope.0.len(), SECRET_BYTES_MAX)
            .map_err(|refusal| Refusal { reason: Reason::SecretLimit, ..refusal }),
        Request::FederationFetched { bundle, .. } => check("bundle", bundle.0.len(), BUNDLE_BYTES_MAX)
            .map_err(|refusal| Refusal { reason: Reason::FederationBundle, ..refusal }),
        Request::LeafIssue { csr, .. } => check("certificate request", csr.0.len(), CSR_BYTES_MAX),
        Request::LeafRenew { chain, csr, proof } => {
            check("certificate request", csr.0.len(), CSR_BYTES_MAX)?;
            check("proof", proof.0.len(), PROOF_BYTES_MAX)?;
            check("certificate chain", chain.len(), CHAIN_MAX)?;
            chain.iter().try_for_each(|der| check("certificate", der.0.len(), CERTIFICATE_BYTES_MAX))
        }
        Request::ImageJudge(evidence) => {
            let too_large = |what: &str, size, max| {
                check(what, size, max).map_err(|refusal| Refusal { reason: Reason::ImageTooLarge, ..refusal })
            };
            too_large("image manifest", evidence.manifest.0.len(), MANIFEST_BYTES_MAX)?;
            too_large("image configuration", evidence.config.0.len(), MANIFEST_BYTES_MAX)?;
            too_large("signature manifests", evidence.signatures.len(), SIGNATURES_MAX)?;
            for signature in &evidence.signatures {
                too_large("signature manifest", signature.manifest.0.len(), MANIFEST_BYTES_MAX)?;
                too_large("signature payloads", signature.payloads.len(), SIGNATURES_MAX)?;
                for payload in &signature.payloads {
                    too_large("signature payload", payload.0.len(), SIGNATURE_PAYLOAD_BYTES_MAX)?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Has the authority decide, then does what follows.
pub async fn decide(service: &Arc<Service>, input: Input) -> Result<Reply, Refusal> {
    let (reply, effects) = blocking(service, move |service| service.ledger.transact(input)).await?;
    for effect in effects {
        carry_out(service, effect).await?;
    }
    Ok(reply)
}

impl site::Decider for Arc<Service> {
    async fn decide(&self, input: Input) -> Result<Reply, Refusal> {
        decide(self, input).await
    }
}

async fn carry_out(service: &Arc<Service>, effect: Effect) -> Result<(), Refusal> {
    match effect {
        Effect::Bind { instance, module } => {
            let bound = workload::bind_instance(service, &instance, &module);
            if let Err(error) = bound {
                let refusal = internal(module.as_str(), &error);
                undo_start(service, instance).await;
                return Err(refusal);
            }
            Ok(())
        }
        Effect::Begin(record) => {
            let instance = record.instance.clone();
            let begun = blocking(service, move |service| {
                workload::begin(service, &record)
                    .map_err(|error| Refusal::new(Reason::CallerUnknown, &record.instance, error))?;
                // That there is no certificate now is no reason not to run: the module gets one when there is.
                if let Err(refusal) = service.renew() {
                    tracing::warn!(%refusal, instance = record.instance, "started without a certificate");
                }
                Ok(())
            });
            if let Err(refusal) = begun.await {
                undo_start(service, instance).await;
                return Err(refusal);
            }
            service.renewal_due.notify_one();
            Ok(())
        }
        Effect::Suspend { instance } => {
            service.issuance.end(&instance);
            service.secrets.vault.forget(&instance);
            Ok(())
        }
        Effect::Complain(refusal) => {
            blocking(service, move |service| {
                service.ledger.note(&refusal);
                Ok(())
            })
            .await
        }
        Effect::Unbind { instance } => {
            service.issuance.end(&instance);
            service.secrets.vault.forget(&instance);
            if let Err(error) = service.sockets.remove(&instance) {
                tracing::error!(%error, instance, "cannot remove the workload socket");
            }
            Ok(())
        }
        Effect::Withdraw => {
            service.issuance.withdraw();
            service.keys.tidy(service.ledger.tick().monotonic, true);
            // A renewal that began before may still put certificates in place: the next one sees that it must not. Until
            // then no caller gets them, because each is checked against the verdict.
            service.renewal_due.notify_one();
            Ok(())
        }
        Effect::Reissue => {
            // The certificate is accepted already; that nothing can be issued by it yet is in status and log.
            let renewed = blocking(service, |service| {
                // Its beginning is the fleet's word on the time.
                service.look_at_clocks();
                service.renew()
            });
            let renewed = renewed.await;
            if let Err(refusal) = renewed {
                tracing::warn!(%refusal, "enrolled without an issuing certificate");
            }
            service.renewal_due.notify_one();
            Ok(())
        }
    }
}

/// Takes back a start whose socket or process turned out not to be there.
async fn undo_start(service: &Arc<Service>, instance: String) {
    let input = Input::Stopped { instance: instance.clone() };
    let undone = blocking(service, move |service| service.ledger.transact(input)).await;
    if let Err(refusal) = undone {
        tracing::error!(%refusal, instance, "a failed start could not be taken back");
    }
    service.issuance.end(&instance);
    if let Err(error) = service.sockets.remove(&instance) {
        tracing::error!(%error, instance, "cannot remove the workload socket");
    }
}

fn deployment(service: &Service) -> Reply {
    let state = service.ledger.current();
    let reply = |in_force: &Arc<InForce>| in_force.to_reply(&state.documents().deployments);
    state.in_force().map_or(Reply::Done, |in_force| Reply::Deployment(Box::new(reply(in_force))))
}

fn status(service: &Service) -> Reply {
    let state = service.ledger.current();
    let time = service.ledger.clock.status(&state.known_of_time());
    let description = service.keystore.describe();
    let target = &service.ledger.context.target;
    let mut refusals = service.ledger.refused_lately();
    let problems = service.issuance.problems().into_iter().take(PROBLEMS_MAX);
    refusals.extend(problems.map(|problem| (time.now, problem)));
    if let Some(doubted) = &time.doubted {
        let rule = format!("it shows {}, and {} is believed", doubted.shows, time.now);
        refusals.push((time.now, Refusal::new(Reason::ClockDoubted, "system clock", rule)));
    }
    let accepted = state.documents().enrolment.accepted.as_ref();
    let lease = accepted.map(|accepted| accepted.lease(time.now));
    if let Some(lease) = lease.filter(|lease| lease.overdue) {
        refusals.push((time.now, expiring(lease, time.now)));
    }
    Reply::Status(Box::new(Status {
        gateway: target.gateway.clone(),
        trust_domain: target.trust_domain.clone(),
        keystore: description.text,
        dangerous: description.dangerous,
        verdict: state.documents().enrolment.verdict(time.now),
        est: site::status(&service.ledger),
        gateway_ca_expires: accepted.map(|accepted| accepted.not_after),
        issuing_ca_expires: service.issuance.issuing_ca_expires(),
        deployment: state.in_force().map(|in_force| {
            let deployment = in_force.deployment();
            (deployment.name.clone(), deployment.version)
        }),
        epoch: state.in_force().map(|in_force| in_force.epoch()),
        enforced: state.enforced(),
        identities: service.issuance.status(),
        refusals,
        strangers: service.ledger.refused_strangers(),
        disk: service.ledger.disk(),
        runtime_log: service
            .runtime_log
            .as_ref()
            .map_or_else(|| "none: the keystore has no PCRs".into(), |keeper| keeper.state()),
        time,
        lease,
    }))
}

/// The refusal that stands while a renewal does not come.
fn expiring(lease: Lease, now: UnixTime) -> Refusal {
    let days = |time: Duration| time.as_secs() / 86_400;
    let rule = match lease.ends.after(now) {
        Duration::ZERO => format!(
            "its certificate ended {} days ago and was not renewed: modules and leaf devices get no certificates",
            days(now.after(lease.ends))
        ),
        left => format!(
            "its certificate was to be renewed {} days ago and was not: in {} days modules and leaf devices are without",
            days(now.after(lease.renewal_due)),
            days(left)
        ),
    };
    Refusal::new(Reason::IdentityExpiring, "gateway CA", rule)
}

fn keystore_health(service: &Service) -> Result<Reply, Refusal> {
    let health = service.keystore.health().map_err(|error| keystore_refusal("keystore", &error))?;
    let lockout = health.lockout.map(|lockout| Lockout {
        locked: lockout.locked,
        failures: lockout.failures,
        failures_max: lockout.failures_max,
        recovery_seconds: lockout.recovery_seconds,
    });
    Ok(Reply::KeystoreHealth(KeystoreHealth { keystore: health.description.text, lockout }))
}

fn enrol_keys(service: &Service) -> Result<Reply, Refusal> {
    let keys = service
        .ledger
        .metrics
        .keystore(Operation::DeviceKeys, || service.keystore.device_keys())
        .map_err(|error| keystore_refusal("device keys", &error))?;
    Ok(Reply::DeviceKeys(keys))
}

fn enrol_prove(service: &Service, challenge: &Challenge) -> Result<Reply, Refusal> {
    let event_log = event_log(service)?;
    let target = &service.ledger.context.target;
    let prove = || service.keystore.prove(challenge, &target.gateway, &target.trust_domain, event_log);
    let proof = service
        .ledger
        .metrics
        .keystore(Operation::Prove, prove)
        .map_err(|error| keystore_refusal("enrolment", &error))?;
    let event = Event::new("enrol.proved", &target.gateway, clip(&challenge.session));
    service.ledger.record(&event.with_key(KeyUse::Enrolment));
    Ok(Reply::Proof(proof))
}

/// The boot's event log. A machine without a TPM has none.
fn event_log(service: &Service) -> Result<Vec<u8>, Refusal> {
    if !service.keystore.describe().hardware && !service.keystore.describe().dangerous {
        return Ok(Vec::new());
    }
    let path = &service.config.attestation.event_log;
    let bytes = match read_event_log(path) {
        // The kernel's own file is root's. Who starts us has made a copy; the TPM's quote says whether it is true.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            read_event_log(&service.ledger.context.layout.event_log_copy())
        }
        other => other,
    };
    let missing = |why: &str| {
        Refusal::new(Reason::AttestLogMissing, "event log", format!("`{}` {why}", path.display()))
    };
    let bytes = bytes.map_err(|error| match error.kind() {
        ErrorKind::NotFound => missing("is not there, so nothing tells what this machine has booted"),
        ErrorKind::PermissionDenied => missing("cannot be read by this daemon, and there is no copy of it"),
        _ => internal("event log", &error),
    })?;
    if bytes.is_empty() {
        return Err(missing("is empty, so nothing tells what this machine has booted"));
    }
    if bytes.len() > EVENT_LOG_BYTES_MAX {
        let rule = format!("it is over the limit of {EVENT_LOG_BYTES_MAX} bytes");
        return Err(Refusal::new(Reason::RequestTooLarge, "event log", rule));
    }
    Ok(bytes)
}

/// One byte more than the limit at most.
fn read_event_log(path: &Path) -> std::io::Result<Vec<u8>> {
    let limit = u64::try_from(EVENT_LOG_BYTES_MAX).unwrap_or(u64::MAX);
    // Read to the end, not to a size asked for before: the kernel's file says that its size is 0.
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn bounded(refusal: &Refusal) -> Refusal {
    Refusal { reason: refusal.reason, subject: clip(&refusal.subject), rule: clip(&refusal.rule) }
}

fn see(instance: &str, pid: i32) -> Result<ProcessSeen, Refusal> {
    let seen = sockets::look_at(pid).map(|(seen, _)| seen);
    seen.map_err(|error| {
        tracing::warn!(%error, pid, "a started process cannot be looked at");
        Refusal::new(Reason::CallerUnknown, clip(instance), format!("process {pid} is gone or hidden"))
    })
}

fn leaf_issue(service: &Service, leaf: LeafName, token: LeafToken, csr: &Bytes) -> Result<Reply, Refusal> {
    // Who asks has proven nothing: `gatewayd` reports it with its address.
    let (chain, root, serial) = issue_checked(service, &leaf, &token, csr)?;
    // The token is spent on disk before the certificate leaves. Of two who use it at once, one gets here in vain.
    service.ledger.transact(Input::LeafEnrolled { leaf, token, serial })?;
    Ok(Reply::Certificate(Certificate { chain: chain.into_iter().map(Bytes).collect(), root: root.into() }))
}

type IssuedParts = (Vec<Vec<u8>>, Vec<u8>, String);

fn issue_checked(
    service: &Service,
    leaf: &LeafName,
    token: &LeafToken,
    csr: &Bytes,
) -> Result<IssuedParts, Refusal> {
    let state = service.ledger.current();
    let now = service.ledger.now();
    state.check_leaf(leaf, now)?;
    state.check_leaf_token(leaf, token, now)?;
    let target = &service.ledger.context.target;
    let id = SpiffeId::leaf(&target.trust_domain, &target.gateway, leaf);
    let (issued, root) = service.issuance.issue_leaf(&id, csr.as_slice(), now)?;
    Ok((issued.chain_der, root, issued.serial))
}

async fn time_says(
    service: &Arc<Service>,
    says: impl FnOnce(&Service) -> Result<(), Refusal> + Send + 'static,
) -> Result<Reply, Refusal> {
    blocking(service, move |service| says(service).inspect_err(|refusal| service.ledger.note(refusal)))
        .await?;
    Ok(Reply::Done)
}

fn storage_key(service: &Service) -> Result<Reply, Refusal> {
    let released = service.ledger.current().documents().enrolment.trusted().map(drop);
    let released = released.and_then(|()| service.kept.secret(STORAGE_KEY_NAME));
    let key = released.inspect_err(|refusal| service.ledger.note(refusal))?;
    service.ledger.record(&Event::new("storage_key.released", "gatewayd", "").with_key(KeyUse::Storage));
    Ok(Reply::StorageKey(StorageKey::new(&key)))
}

/// Whatever the verdict is, and wherever the keystore: what runs goes on, and is looked after.
fn record_key(service: &Service) -> Reply {
    let key = service.ledger.record_key();
    service.ledger.record(&Event::new("record_key.released", "runtimed", "").with_key(KeyUse::Storage));
    Reply::StorageKey(key)
}

fn key_delete(service: &Service, module: &ModuleName, key: &KeyName) -> Result<Reply, Refusal> {
    let deleted = service.keys.delete_by_operator(module, key);
    let deleted = deleted.inspect_err(|refusal| service.ledger.note(refusal))?;
    let detail = format!("by the operator, key `{key}`, generation {}", deleted.generation);
    service.ledger.record(&Event::new("key.deleted", module, detail).with_key(KeyUse::Resident));
    Ok(Reply::Done)
}

fn audit_key(service: &Service) -> Result<Reply, Refusal> {
    let point = service.keystore.ca_public().map_err(|error| keystore_refusal("audit key", &error))?;
    let state = service.ledger.current();
    let accepted = state.documents().enrolment.accepted.as_ref();
    Ok(Reply::AuditKey(AuditKey {
        point: point.into(),
        certificate: accepted.map(|accepted| accepted.gateway_ca.clone()),
    }))
}

fn rotate(service: &Service, module: Option<&ModuleName>) -> Result<Reply, Refusal> {
    service.rotate(module)?;
    service.renewal_due.notify_one();
    Ok(Reply::Done)
}

fn attest_quote(service: &Service, nonce: &Bytes) -> Result<Reply, Refusal> {
    let event_log = event_log(service)?;
    let mut pcrs = QUOTED_PCRS.to_vec();
    pcrs.extend(service.runtime_log.as_ref().map(|keeper| keeper.pcr()));
    let quote = || {
        service.ledger.metrics.keystore(Operation::Quote, || service.keystore.quote(nonce.as_slice(), &pcrs))
    };
    let quoted = match &service.runtime_log {
        Some(keeper) => keeper.with_log(&*service.ledger, &*service.keystore, quote),
        None => quote().map(|quote| (quote, Vec::new())),
    };
    let (quote, runtime_log) = quoted.map_err(|error| keystore_refusal("quote", &error))?;
    let event = Event::new("attest.quoted", "outside verifier", hex::encode(nonce.as_slice()));
    service.ledger.record(&event.with_key(KeyUse::Attestation));
    Ok(Reply::Quote(Box::new(ExportedQuote {
        message: quote.message.into(),
        signature: quote.signature.into(),
        ak_public: quote.ak_pem,
        pcrs: quote.pcrs.into_iter().map(|(index, value)| (index, Bytes(value.to_vec()))).collect(),
        event_log: event_log.into(),
        runtime_pcr: service.runtime_log.as_ref().map(|keeper| keeper.pcr()),
        runtime_log: runtime_log.into(),
    })))
}
