//! The numbers as text (Prometheus text exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::PoisonError;

use edgewarden_names::{ModuleName, Reason, UnixTime};
use edgewarden_protocol::control::Enforcer;
use edgewarden_protocol::enrol::VerdictState;

use super::histogram::{BOUNDS, Histogram};
use super::{Certificate, Metrics, Operation, get};
use crate::service::Service;

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _written = writeln!(self.0, "# HELP edgewarden_{name} {help}\n# TYPE edgewarden_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _written = writeln!(self.0, "edgewarden_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn histogram(&mut self, name: &str, label: (&str, &str), histogram: &Histogram) {
        let (counts, all, sum) = histogram.read();
        for ((_, bound), count) in BOUNDS.iter().zip(counts) {
            self.sample(&format!("{name}_bucket"), &[label, ("le", bound)], count);
        }
        self.sample(&format!("{name}_bucket"), &[label, ("le", "+Inf")], all);
        self.sample(&format!("{name}_sum"), &[label], sum);
        self.sample(&format!("{name}_count"), &[label], all);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Everything. Blocks on the keystore, at most once a minute.
pub fn text(service: &Service) -> String {
    let mut text = Text(String::new());
    let metrics = &service.metrics;
    build(&mut text, service);
    expiries(&mut text, service);
    issuance(&mut text, metrics);
    jwt_svids(&mut text, metrics);
    decisions(&mut text, service);
    keystore(&mut text, service);
    resident_keys(&mut text, service);
    audit(&mut text, service);
    messages(&mut text, metrics);
    text.0
}

fn build(text: &mut Text, service: &Service) {
    let description = service.keystore.describe();
    let flag = |flag| if flag { "true" } else { "false" };
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("hardware", flag(description.hardware)),
        ("dangerous", flag(description.dangerous)),
    ];
    text.family("build_info", "gauge", "Version of identityd and the kind of its keystore.");
    text.sample("build_info", &labels, 1);
    text.one("uptime_seconds", "gauge", "Time since identityd started.", service.tick().monotonic.as_secs());
}

/// Negative when it has passed.
fn left(end: UnixTime, now: UnixTime) -> i64 {
    let left = i128::from(end.0).saturating_sub(i128::from(now.0));
    i64::try_from(left).unwrap_or(i64::MAX)
}

fn expiries(text: &mut Text, service: &Service) {
    let now = service.now();
    let state = service.current();
    text.family("ca_expires_in_seconds", "gauge", "Seconds until a CA certificate of this gateway ends.");
    if let Some(accepted) = &state.documents.enrolment.accepted {
        text.sample("ca_expires_in_seconds", &[("ca", "gateway")], left(accepted.not_after, now));
    }
    if let Some(end) = service.issuance.issuing_ca_expires() {
        text.sample("ca_expires_in_seconds", &[("ca", "issuing")], left(end, now));
    }
    // By module and not by instance: instances come and go, and each would leave a series behind.
    let mut modules: BTreeMap<ModuleName, (Option<UnixTime>, u64, u64)> = BTreeMap::new();
    for (module, status) in service.issuance.status_by_module() {
        let (first, instances, streams) = modules.entry(module).or_default();
        *first = match (*first, status.expires) {
            (Some(first), Some(end)) => Some(first.min(end)),
            (first, end) => first.or(end),
        };
        *instances = instances.saturating_add(1);
        *streams = streams.saturating_add(status.streams.into());
    }
    text.family("svid_expires_in_seconds", "gauge", "Seconds until the first certificate of a module ends.");
    for (module, (end, ..)) in &modules {
        if let Some(end) = end {
            text.sample("svid_expires_in_seconds", &[("module", module.as_str())], left(*end, now));
        }
    }
    text.family("identities", "gauge", "Live instances that have an identity.");
    for (module, (_, instances, _)) in &modules {
        text.sample("identities", &[("module", module.as_str())], instances);
    }
    text.family("workload_streams", "gauge", "Open streams of the Workload API.");
    for (module, (.., streams)) in &modules {
        text.sample("workload_streams", &[("module", module.as_str())], streams);
    }
    let problems = service.issuance.problems().len();
    text.one(
        "renewal_problems",
        "gauge",
        "Certificates that could not be made and are tried again.",
        problems,
    );
}

fn issuance(text: &mut Text, metrics: &Metrics) {
    let all = || Certificate::ALL.iter().zip(&metrics.issued);
    text.family("issuance_seconds", "histogram", "Time that making a certificate took.");
    for (kind, issued) in all() {
        text.histogram("issuance_seconds", ("kind", kind.label()), &issued.took);
    }
    text.family("certificates_issued_total", "counter", "Certificates made.");
    for (kind, issued) in all() {
        text.sample("certificates_issued_total", &[("kind", kind.label())], issued.took.read().1);
    }
    text.family("certificates_failed_total", "counter", "Certificates that could not be made.");
    for (kind, issued) in all() {
        text.sample("certificates_failed_total", &[("kind", kind.label())], get(&issued.failed));
    }
}

fn jwt_svids(text: &mut Text, metrics: &Metrics) {
    text.family("jwt_svids_total", "counter", "JWT-SVIDs handed out, newly signed or still fresh.");
    text.sample("jwt_svids_total", &[("from", "signed")], get(&metrics.jwt_signed));
    text.sample("jwt_svids_total", &[("from", "cache")], get(&metrics.jwt_reused));
}

fn decisions(text: &mut Text, service: &Service) {
    let metrics = &service.metrics;
    text.family("refusals_total", "counter", "What was refused, by reason code.");
    let refused = metrics.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for reason in Reason::ALL {
        let count = refused.get(reason).copied().unwrap_or(0);
        text.sample("refusals_total", &[("reason", reason.code())], count);
    }
    text.one("start_permits_total", "counter", "Start permits given.", get(&metrics.permits));
    let state = service.current();
    text.one("instances", "gauge", "Live start records.", state.documents.records.iter().count());
    let epoch = state.in_force().map_or(0, |in_force| in_force.epoch().0);
    text.one("policy_epoch", "gauge", "The policy epoch in force, 0 when there is none.", epoch);
    text.family("policy_epoch_enforced", "gauge", "The policy epoch that an enforcer has in force.");
    for (enforcer, epoch) in state.enforced() {
        let name = match enforcer {
            Enforcer::Runtimed => "runtimed",
            Enforcer::Gatewayd => "gatewayd",
        };
        text.sample("policy_epoch_enforced", &[("enforcer", name)], epoch);
    }
    let time = service.clock.status(&state.known_of_time());
    let verdict = state.documents.enrolment.verdict(time.now).map(|verdict| verdict.state);
    let site = state.context.site.is_some();
    text.family("verdict", "gauge", "1 for the state of the fleet's verdict on this boot.");
    for (name, is) in [
        ("fresh", verdict == Some(VerdictState::Fresh)),
        ("stale", verdict == Some(VerdictState::Stale)),
        ("failed", verdict == Some(VerdictState::Failed)),
        // A site's CA judges nothing; that is known.
        ("none", verdict.is_none() && site),
        ("unknown", (verdict.is_none() && !site) || verdict == Some(VerdictState::Unknown)),
    ] {
        text.sample("verdict", &[("state", name)], u8::from(is));
    }
    text.one(
        "clock_not_believed",
        "gauge",
        "1 when the wall clock leapt and is not believed.",
        u8::from(time.doubted.is_some()),
    );
    text.one("clock_steps_total", "counter", "Times that the wall clock jumped.", get(&metrics.clock_steps));
}

fn resident_keys(text: &mut Text, service: &Service) {
    text.one(
        "resident_keys",
        "gauge",
        "Keys and secrets of modules in the keystore.",
        service.keys.all().len(),
    );
    text.family("key_operations_total", "counter", "Calls of resident keys that were carried out.");
    for (call, done, _) in super::keys::read(&service.metrics) {
        text.sample("key_operations_total", &[("operation", call)], done);
    }
    text.family("key_refusals_total", "counter", "Calls of resident keys that were refused.");
    for (call, _, refused) in super::keys::read(&service.metrics) {
        text.sample("key_refusals_total", &[("operation", call)], refused);
    }
}

fn keystore(text: &mut Text, service: &Service) {
    let metrics = &service.metrics;
    let all = || Operation::ALL.iter().zip(&metrics.asked);
    text.family("keystore_seconds", "histogram", "Time that the keystore took to answer, waiting included.");
    for (operation, asked) in all() {
        text.histogram("keystore_seconds", ("operation", operation.label()), &asked.took);
    }
    text.family("keystore_failed_total", "counter", "Requests that the keystore did not carry out.");
    for (operation, asked) in all() {
        text.sample("keystore_failed_total", &[("operation", operation.label())], get(&asked.failed));
    }
    text.one(
        "keystore_waiting",
        "gauge",
        "Requests that the keystore works on or has in its queue.",
        get(&metrics.waiting),
    );
    let health = metrics.health(&*service.keystore);
    text.one("keystore_up", "gauge", "1 when the keystore answered lately.", u8::from(health.is_some()));
    if let Some(lockout) = health.and_then(|health| health.lockout) {
        let help = "1 when the TPM's dictionary-attack protection has locked it.";
        text.one("tpm_locked", "gauge", help, u8::from(lockout.locked));
        let help = "Failures that the TPM's dictionary-attack protection has counted.";
        text.one("tpm_lockout_failures", "gauge", help, lockout.failures);
        text.one("tpm_lockout_failures_max", "gauge", "Failures that lock the TPM.", lockout.failures_max);
    }
}

fn audit(text: &mut Text, service: &Service) {
    let (sequence, unsigned, signed) = service.audit_state();
    text.one("audit_sequence", "gauge", "Number of the newest entry of the audit log.", sequence);
    text.one(
        "audit_signed_sequence",
        "gauge",
        "Number of the newest entry that a signed head covers.",
        signed,
    );
    text.one("audit_unsigned", "gauge", "Entries that no signed head covers.", unsigned);
    text.one(
        "audit_heads_failed_total",
        "counter",
        "Heads that could not be signed.",
        get(&service.metrics.heads_failed),
    );
}

/// Absent until `gatewayd` has told.
fn messages(text: &mut Text, metrics: &Metrics) {
    let Some(counts) = *metrics.messages.lock().unwrap_or_else(PoisonError::into_inner) else { return };
    let lost = "QoS 1 messages that receivers lost because they lagged.";
    let set_aside = "Messages that ended their receivers' connections and were set aside.";
    let dropped = "QoS 0 messages dropped because a receiver was too slow.";
    let refused = "Publications, subscriptions and connections refused.";
    for (name, kind, help, value) in [
        ("messages_lost_total", "counter", lost, counts.lost),
        ("messages_set_aside", "gauge", set_aside, counts.set_aside),
        ("messages_waiting", "gauge", "Messages that wait in sessions.", counts.waiting),
        ("messages_retained", "gauge", "Retained messages.", counts.retained),
        ("messages_dropped_qos0_total", "counter", dropped, counts.dropped_qos0),
        ("mqtt_refused_total", "counter", refused, counts.refused),
        ("mqtt_sessions", "gauge", "Sessions, connected or kept.", counts.sessions),
        ("upstream_queue_messages", "gauge", "Messages on the way to the fleet.", counts.queue_messages),
        ("upstream_queue_bytes", "gauge", "Bytes of them on disk.", counts.queue_bytes),
        ("upstream_queue_bytes_max", "gauge", "Cap of these bytes.", counts.queue_bytes_max),
    ] {
        text.one(name, kind, help, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_protocol::control::MessageCounts;

    #[test]
    fn messages_are_there_when_gatewayd_has_told() {
        let (metrics, mut text) = (Metrics::default(), Text(String::new()));
        messages(&mut text, &metrics);
        assert_eq!(text.0, "");
        metrics.messages_counted(MessageCounts { lost: 7, set_aside: 2, ..MessageCounts::default() });
        messages(&mut text, &metrics);
        assert!(
            text.0.contains(
                "# TYPE edgewarden_messages_lost_total counter\nedgewarden_messages_lost_total 7\n"
            )
        );
        assert!(text.0.contains("edgewarden_messages_set_aside 2\n"), "{}", text.0);
    }

    #[test]
    fn labels_cannot_break_a_line() {
        let mut text = Text(String::new());
        text.sample("x", &[("label", "a\"b\\c\nd")], 1);
        assert_eq!(text.0, "edgewarden_x{label=\"a\\\"b\\\\c\\nd\"} 1\n");
    }
}
