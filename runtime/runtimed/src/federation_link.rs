//! The bundle endpoints of other trust domains: asked here, because `identityd` has no network, and judged there.
//!
//! Each is asked as often as its bundle hints, and after a failure at the next poll (SPIFFE Federation, section 6.2);
//! sooner only while there is no bundle at all. Redirects, which a client may follow, are refused: the deployment names
//! the one place (section 7.5.1). An endpoint that is slow or sends much costs its own poll and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Backoff, Digest, ErrorChain, Reason, Refusal, TrustDomain};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::questions;
use edgewarden_protocol::federation::{BUNDLE_BYTES_MAX, FEDERATION_MAX, Federated, ToldBy};
use edgewarden_transport::foreign::{spiffe_client_config, web_client_config};
use edgewarden_transport::http::{Client as Http, HttpError};
use edgewarden_transport::jitter::jittered;
use edgewarden_transport::{Clock, tls};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::context::Context;
use crate::identity::{CallError, Client};

const DEADLINE: Duration = Duration::from_secs(20);
/// While there is no bundle: the first wait, doubled up to the ordinary one.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// `identityd` is away, or there is nothing to ask for.
const IDLE: Duration = Duration::from_secs(60);
const AWAY: Duration = Duration::from_secs(5);
/// Changes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(300);

/// The next request to one bundle endpoint.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    endpoint: Digest,
    due: Instant,
    /// Failures in a row to get a bundle.
    failures: u32,
}

/// Follows the deployment for as long as it is polled. `now` asks every endpoint at once.
pub async fn run(context: Arc<Context>, mut now: mpsc::Receiver<()>) {
    // Of its own: a watch is held for long.
    let identityd = Client::new(&context.layout);
    let mut plans: BTreeMap<TrustDomain, Plan> = BTreeMap::new();
    let mut seen = 0;
    loop {
        let domains = match list(&identityd).await {
            Ok(domains) => domains,
            Err(error) => {
                tracing::debug!(%error, "the other trust domains are not known now");
                sleep(AWAY).await;
                continue;
            }
        };
        plan(&mut plans, &domains, Instant::now());
        ask_due(&identityd, &context.clock, &mut plans, domains).await;
        let next = plans.values().map(|plan| plan.due).min();
        let next = next.unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            () = sleep_until(next) => {}
            changed = changes(&identityd, seen) => {
                match changed {
                    Some(revision) => seen = revision,
                    None => sleep(AWAY).await,
                }
                sleep(SETTLE).await;
            }
            Some(()) = now.recv() => {
                for plan in plans.values_mut() {
                    plan.due = Instant::now();
                }
            }
        }
    }
}

async fn list(identityd: &Client) -> Result<Vec<Federated>, CallError> {
    let mut domains = identityd.call(questions::FederationList).await?;
    domains.truncate(FEDERATION_MAX);
    Ok(domains)
}

/// The next revision; `None` when `identityd` is away.
async fn changes(identityd: &Client, seen: u64) -> Option<u64> {
    identityd.call(questions::Watch { seen }).await.ok().map(|snapshot| snapshot.revision)
}

/// New endpoints are asked at once, those that are gone never again.
fn plan(plans: &mut BTreeMap<TrustDomain, Plan>, domains: &[Federated], now: Instant) {
    plans.retain(|domain, plan| {
        domains.iter().any(|one| one.trust_domain == *domain && one.endpoint == plan.endpoint)
    });
    for domain in domains {
        plans.entry(domain.trust_domain.clone()).or_insert_with(|| Plan {
            endpoint: domain.endpoint.clone(),
            due: now,
            failures: 0,
        });
    }
}

/// The wait before an endpoint is asked again. Spread, so that the gateways of a fleet do not come together.
fn wait(refresh: Duration, has_bundle: bool, failures: u32) -> Duration {
    let ordinary =
        if has_bundle || failures == 0 { refresh } else { Backoff::new(FIRST_WAIT, refresh).after(failures) };
    jittered(ordinary)
}

async fn ask_due(
    identityd: &Client,
    clock: &Clock,
    plans: &mut BTreeMap<TrustDomain, Plan>,
    domains: Vec<Federated>,
) {
    let now = Instant::now();
    let mut asked = JoinSet::new();
    for domain in domains {
        if plans.get(&domain.trust_domain).is_some_and(|plan| plan.due <= now) {
            let clock = clock.clone();
            asked.spawn(async move {
                let answer = fetch(&domain, &clock).await;
                (domain, answer)
            });
        }
    }
    while let Some(ended) = asked.join_next().await {
        let Ok((domain, answer)) = ended else { continue };
        let good = hand_over(identityd, &domain, answer).await;
        if let Some(plan) = plans.get_mut(&domain.trust_domain) {
            plan.failures = if good { 0 } else { plan.failures.saturating_add(1) };
            let refresh = Duration::from_secs(domain.refresh_seconds.into());
            plan.due = Instant::now() + wait(refresh, good || domain.held.is_some(), plan.failures);
        }
    }
}

/// True when `identityd` took the bundle.
async fn hand_over(identityd: &Client, domain: &Federated, answer: Result<Bytes, Refusal>) -> bool {
    let (trust_domain, endpoint) = (domain.trust_domain.clone(), domain.endpoint.clone());
    let bundle = match answer {
        Ok(bundle) => bundle,
        Err(refusal) => {
            tracing::info!(%refusal, "another trust domain's bundle did not come");
            drop(identityd.call(questions::FederationFailed { trust_domain, endpoint, refusal }).await);
            return false;
        }
    };
    match identityd.call(questions::FederationFetched { trust_domain, endpoint, bundle }).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(domain = %domain.trust_domain, error = %ErrorChain(&error), "a bundle was not taken");
            false
        }
    }
}

/// The endpoint's answer as it is. Dropping it closes the connection.
async fn fetch(domain: &Federated, clock: &Clock) -> Result<Bytes, Refusal> {
    let refuse = |reason, rule: String| Refusal::new(reason, &domain.trust_domain, rule);
    let untrusted =
        |error: tls::TlsError| refuse(Reason::FederationUntrusted, ErrorChain(&error).to_string());
    let config = match &domain.told_by {
        ToldBy::Web { authorities } => {
            web_client_config(&authorities.iter().map(Bytes::as_slice).collect::<Vec<_>>())
        }
        ToldBy::Spiffe { id, authorities } => {
            let authorities: Vec<_> = authorities.iter().map(Bytes::as_slice).collect();
            spiffe_client_config(id.clone(), &authorities)
        }
    };
    let config = clock.judges(config.map_err(untrusted)?);
    let (origin, path) = split(&domain.url)
        .ok_or_else(|| refuse(Reason::FederationUntrusted, format!("`{}` is not https", domain.url)))?;
    let failed = |error: HttpError| match tls::refusal(&error) {
        Some(refusal) => refuse(Reason::FederationUntrusted, refusal.rule.clone()),
        None if matches!(error, HttpError::Untrusted { .. }) => {
            refuse(Reason::FederationUntrusted, ErrorChain(&error).to_string())
        }
        None if matches!(error, HttpError::TooLarge(_)) => {
            refuse(Reason::FederationBundle, error.to_string())
        }
        None => refuse(Reason::FederationUnavailable, ErrorChain(&error).to_string()),
    };
    // A connection for each: it is judged by the bundle of the moment.
    let http = Http::new(&origin, config).map_err(failed)?;
    let (status, body) = http.get(&path, BUNDLE_BYTES_MAX, DEADLINE).await.map_err(failed)?;
    match status {
        200 => Ok(body.into()),
        300..400 => {
            let rule = "the endpoint redirects, and the deployment names the one place to ask";
            Err(refuse(Reason::FederationUnavailable, rule.into()))
        }
        _ => Err(refuse(Reason::FederationUnavailable, format!("it answered with status {status}"))),
    }
}

/// Scheme and authority, and what is asked of it; `None` when it is not https.
fn split(url: &str) -> Option<(String, String)> {
    let rest = url.strip_prefix("https://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some((format!("https://{authority}"), format!("{slash}{path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_asked_as_they_are() {
        for (url, origin, path) in [
            ("https://h", "https://h", "/"),
            ("https://h/", "https://h", "/"),
            ("https://h:1/a/b/", "https://h:1", "/a/b/"),
            ("https://[::1]:7?x=1", "https://[::1]:7", "/?x=1"),
            ("https://h/a?b=c/d", "https://h", "/a?b=c/d"),
        ] {
            assert_eq!(split(url), Some((origin.into(), path.into())), "{url}");
        }
    }

    #[test]
    fn a_failure_waits_for_the_next_poll_unless_there_is_no_bundle() {
        let refresh = Duration::from_secs(300);
        for (has_bundle, failures, longest) in
            [(true, 0, 300), (true, 9, 300), (false, 0, 300), (false, 1, 5), (false, 3, 20), (false, 99, 300)]
        {
            let wait = wait(refresh, has_bundle, failures);
            let longest = Duration::from_secs(longest);
            assert!(longest / 2 <= wait && wait <= longest, "{has_bundle} {failures}: {wait:?}");
        }
    }

    #[test]
    fn a_changed_endpoint_is_asked_at_once() {
        let start = Instant::now();
        let domain = |text: &str| Federated {
            trust_domain: TrustDomain::parse("other.example").unwrap(),
            url: "https://h/".into(),
            told_by: ToldBy::Web { authorities: Vec::new() },
            endpoint: Digest::parse(&format!("sha256:{}", text.repeat(32))).unwrap(),
            refresh_seconds: 60,
            held: None,
            trouble: None,
        };
        let mut plans = BTreeMap::new();
        plan(&mut plans, &[domain("aa")], start);
        let later = start + Duration::from_secs(60);
        for plan in plans.values_mut() {
            plan.due = later;
        }
        plan(&mut plans, &[domain("aa")], start);
        assert_eq!(plans.values().next().unwrap().due, later);
        plan(&mut plans, &[domain("bb")], start);
        assert_eq!(plans.values().next().unwrap().due, start);
        plan(&mut plans, &[], start);
        assert!(plans.is_empty());
    }
}
