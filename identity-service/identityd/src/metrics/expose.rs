//! The numbers on a page.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;

use edgewarden_metrics::page::Page;
use edgewarden_names::{ModuleName, UnixTime};
use edgewarden_protocol::control::Enforcer;
use edgewarden_protocol::enrol::VerdictState;

use super::Metrics;
use super::Watched;

/// Everything. Blocks on the keystore, at most once a minute.
pub(super) fn write(page: &mut Page<'_>, of: &Watched) -> fmt::Result {
    let metrics = &of.ledger.metrics;
    build(page, of)?;
    expiries(page, of)?;
    issuance(page, metrics)?;
    decisions(page, of)?;
    keystore(page, of)?;
    resident_keys(page, of)?;
    audit(page, of)
}

fn build(page: &mut Page<'_>, of: &Watched) -> fmt::Result {
    let description = of.keystore.describe();
    let flag = |flag| if flag { "true" } else { "false" };
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("hardware", flag(description.hardware)),
        ("dangerous", flag(description.dangerous)),
    ];
    page.info("build", "Version of identityd and the kind of its keystore.", &labels)?;
    page.gauge("uptime_seconds", "Time since identityd started.", of.ledger.tick().monotonic.as_secs())
}

/// Negative when it has passed.
fn left(end: UnixTime, now: UnixTime) -> i64 {
    let left = i128::from(end.0).saturating_sub(i128::from(now.0));
    i64::try_from(left).unwrap_or(i64::MAX)
}

fn expiries(page: &mut Page<'_>, of: &Watched) -> fmt::Result {
    let now = of.ledger.now();
    let state = of.ledger.current();
    let gateway = state.documents().enrolment.accepted.as_ref().map(|accepted| accepted.not_after);
    let ends = [("gateway", gateway), ("issuing", of.issuance.issuing_ca_expires())];
    page.gauges(
        "ca_expires_in_seconds",
        "Seconds until a CA certificate of this gateway ends.",
        ends.into_iter().filter_map(|(ca, end)| Some(([("ca", ca)], left(end?, now)))),
    )?;
    // By module and not by instance: instances come and go, and each would leave a series behind.
    let mut modules: BTreeMap<ModuleName, (Option<UnixTime>, u64, u64)> = BTreeMap::new();
    for (module, status) in of.issuance.status_by_module() {
        let (first, instances, streams) = modules.entry(module).or_default();
        *first = match (*first, status.expires) {
            (Some(first), Some(end)) => Some(first.min(end)),
            (first, end) => first.or(end),
        };
        *instances = instances.saturating_add(1);
        *streams = streams.saturating_add(status.streams.into());
    }
    page.gauges(
        "svid_expires_in_seconds",
        "Seconds until the first certificate of a module ends.",
        modules
            .iter()
            .filter_map(|(module, (end, ..))| Some(([("module", module.as_str())], left((*end)?, now)))),
    )?;
    page.gauges(
        "identities",
        "Live instances that have an identity.",
        modules.iter().map(|(module, (_, instances, _))| ([("module", module.as_str())], *instances)),
    )?;
    page.gauges(
        "workload_streams",
        "Open streams of the Workload API.",
        modules.iter().map(|(module, (.., streams))| ([("module", module.as_str())], *streams)),
    )?;
    let problems = of.issuance.problems().len();
    page.gauge("renewal_problems", "Certificates that could not be made and are tried again.", problems)
}

fn issuance(page: &mut Page<'_>, metrics: &Metrics) -> fmt::Result {
    let all = || metrics.issued.iter().map(|(kind, issued)| ([("kind", kind.label())], issued));
    page.histograms(
        "issuance_seconds",
        "Time that making a certificate took.",
        all().map(|(kind, issued)| (kind, &issued.took)),
    )?;
    page.counters(
        "certificates_issued",
        "Certificates made.",
        all().map(|(kind, issued)| (kind, issued.took.count())),
    )?;
    page.counters(
        "certificates_failed",
        "Certificates that could not be made.",
        all().map(|(kind, issued)| (kind, issued.failed.get())),
    )?;
    let handed_out = [("signed", &metrics.jwt_signed), ("cache", &metrics.jwt_reused)];
    page.counters(
        "jwt_svids",
        "JWT-SVIDs handed out, newly signed or still fresh.",
        handed_out.map(|(from, count)| ([("from", from)], count.get())),
    )
}

fn decisions(page: &mut Page<'_>, of: &Watched) -> fmt::Result {
    let metrics = &of.ledger.metrics;
    page.counters(
        "refusals",
        "What was refused, by reason code.",
        metrics.refused.iter().map(|(reason, count)| ([("reason", reason.code())], count.get())),
    )?;
    page.counter("start_permits", "Start permits given.", metrics.permits.get())?;
    let state = of.ledger.current();
    page.gauge("instances", "Live start records.", state.documents().records.iter().count())?;
    let epoch = state.in_force().map_or(0, |in_force| in_force.epoch().0);
    page.gauge("policy_epoch", "The policy epoch in force, 0 when there is none.", epoch)?;
    let enforced = state.enforced();
    page.gauges(
        "policy_epoch_enforced",
        "The policy epoch that an enforcer has in force.",
        enforced.into_iter().map(|(enforcer, epoch)| {
            let name = match enforcer {
                Enforcer::Runtimed => "runtimed",
                Enforcer::Gatewayd => "gatewayd",
            };
            ([("enforcer", name)], epoch.0)
        }),
    )?;
    let time = of.ledger.clock.status(&state.known_of_time());
    let verdict = state.documents().enrolment.verdict(time.now).map(|verdict| verdict.state);
    let site = state.context().site.is_some();
    let verdicts = [
        ("fresh", verdict == Some(VerdictState::Fresh)),
        ("stale", verdict == Some(VerdictState::Stale)),
        ("failed", verdict == Some(VerdictState::Failed)),
        // A site's CA judges nothing; that is known.
        ("none", verdict.is_none() && site),
        ("unknown", (verdict.is_none() && !site) || verdict == Some(VerdictState::Unknown)),
    ];
    page.gauges(
        "verdict",
        "1 for the state of the fleet's verdict on this boot.",
        verdicts.map(|(name, is)| ([("state", name)], u32::from(is))),
    )?;
    page.gauge(
        "clock_not_believed",
        "1 when the wall clock leapt and is not believed.",
        u32::from(time.doubted.is_some()),
    )?;
    page.counter("clock_steps", "Times that the wall clock jumped.", metrics.clock_steps.get())
}

fn resident_keys(page: &mut Page<'_>, of: &Watched) -> fmt::Result {
    let all = || of.ledger.metrics.keys.iter().map(|(call, calls)| ([("operation", call.label())], calls));
    page.gauge("resident_keys", "Keys and secrets of modules in the keystore.", of.keys.all().len())?;
    page.counters(
        "key_operations",
        "Calls of resident keys that were carried out.",
        all().map(|(call, calls)| (call, calls.done.get())),
    )?;
    page.counters(
        "key_refusals",
        "Calls of resident keys that were refused.",
        all().map(|(call, calls)| (call, calls.refused.get())),
    )
}

fn keystore(page: &mut Page<'_>, of: &Watched) -> fmt::Result {
    let metrics = &of.ledger.metrics;
    let all = || metrics.asked.iter().map(|(operation, asked)| ([("operation", operation.label())], asked));
    page.histograms(
        "keystore_seconds",
        "Time that the keystore took to answer, waiting included.",
        all().map(|(operation, asked)| (operation, &asked.took)),
    )?;
    page.counters(
        "keystore_failed",
        "Requests that the keystore did not carry out.",
        all().map(|(operation, asked)| (operation, asked.failed.get())),
    )?;
    page.gauge(
        "keystore_waiting",
        "Requests that the keystore works on or has in its queue.",
        metrics.waiting.load(Ordering::Relaxed),
    )?;
    let health = metrics.health(&*of.keystore);
    page.gauge("keystore_up", "1 when the keystore answered lately.", u32::from(health.is_some()))?;
    let Some(lockout) = health.and_then(|health| health.lockout) else { return Ok(()) };
    let locked = "1 when the TPM's dictionary-attack protection has locked it.";
    page.gauge("tpm_locked", locked, u32::from(lockout.locked))?;
    let failures = "Failures that the TPM's dictionary-attack protection has counted.";
    page.gauge("tpm_lockout_failures", failures, lockout.failures)?;
    page.gauge("tpm_lockout_failures_max", "Failures that lock the TPM.", lockout.failures_max)
}

fn audit(page: &mut Page<'_>, of: &Watched) -> fmt::Result {
    let (sequence, unsigned, signed) = of.ledger.audit_state();
    page.gauge("audit_sequence", "Number of the newest entry of the audit log.", sequence)?;
    page.gauge("audit_signed_sequence", "Number of the newest entry that a signed head covers.", signed)?;
    page.gauge("audit_unsigned", "Entries that no signed head covers.", unsigned)?;
    let failed = of.ledger.metrics.heads_failed.get();
    page.counter("audit_heads_failed", "Heads that could not be signed.", failed)
}
