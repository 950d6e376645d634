//! The modules' and the guard's numbers as a monitoring system reads them, through the daemon's own door.

use crate::common;
use edgewarden_testkit::samples;

use std::path::PathBuf;
use std::process::Command;

use common::{Gateway, in_namespaces, shell, until};
use edgewarden_metrics::door::SOCKET;
use edgewarden_names::Reason;
use edgewarden_protocol::runtime_console::ModuleStatus;
use edgewarden_protocol::uplink::ModuleState;
use edgewarden_testkit::samples::Samples;

/// The process that the tests start as `runtimed`.
const WAIT: &str = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done";
const KNOCK: &str = "while :; do (echo > /dev/tcp/alerts/9443) 2>&1 | cat; sleep 0.2; done";

fn running(module: &ModuleStatus) -> bool {
    module.state == ModuleState::Running
}

fn run(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn door(gateway: &Gateway) -> PathBuf {
    gateway.layout().runtime_run().join(SOCKET)
}

async fn seen(gateway: &Gateway, what: &str, wanted: impl Fn(&Samples) -> bool) -> Samples {
    until(what, async || Some(samples::scrape(&door(gateway)).await).filter(|seen| wanted(seen))).await
}

async fn healthy(gateway: &Gateway, what: &str, status: u16, line: &str) {
    until(what, async || (samples::health(&door(gateway)).await == (status, line.to_owned())).then_some(()))
        .await;
}

#[test]
fn numbers_rise_with_what_becomes_of_modules() {
    in_namespaces("metrics::numbers_rise_with_what_becomes_of_modules", async || {
        let mut gateway = Gateway::joined("numbers").await;
        let good = gateway.image("clinic/alerts", true).await;
        let unsigned = gateway.image("clinic/unsigned", false).await;
        let missing = format!("127.0.0.1:5000/clinic/none@sha256:{}", "ab".repeat(32));
        let modules = vec![
            shell("alerts", &good, WAIT),
            shell("analytics", &good, KNOCK),
            shell("bad", &unsigned, WAIT),
            shell("missing", &missing, WAIT),
        ];
        gateway.deploy(1, modules.clone(), "").await;
        gateway.start_runtimed().await;
        gateway.module("alerts", "running", running).await;
        gateway.module("bad", "refused", |module| module.state == ModuleState::Refused).await;
        gateway.module("missing", "waiting", |module| module.state == ModuleState::Waiting).await;
        let reason = |reason: Reason| [("reason", reason.code())];
        let at_least = |s: &Samples, name: &str, labels: &[(&str, &str)], least: f64| {
            s.get(&format!("runtimed_{name}"), labels).is_some_and(|value| value >= least)
        };
        let first = seen(&gateway, "a refused flow is counted", |s| {
            at_least(s, "flows_refused_total", &reason(Reason::PolicyDenied), 1.0)
        })
        .await;
        for (name, labels, expected) in [
            ("policy_epoch", &[][..], 1.0),
            ("identityd_up", &[], 1.0),
            ("modules", &[("state", "running")], 2.0),
            ("modules", &[("state", "refused")], 1.0),
            ("module_running", &[("module", "alerts")], 1.0),
            ("module_running", &[("module", "bad")], 0.0),
            ("starts_total", &[], 2.0),
            ("restarts_total", &[], 0.0),
            ("enforcement_lost", &[], 0.0),
            ("updates_total", &[("outcome", "proven")], 0.0),
        ] {
            assert_eq!(first.get(&format!("runtimed_{name}"), labels), Some(expected), "{name} {labels:?}");
        }
        assert!(at_least(&first, "starts_refused_total", &reason(Reason::ImageUnsigned), 1.0));
        assert!(at_least(&first, "starts_refused_total", &reason(Reason::ImageUnavailable), 1.0));
        assert!(at_least(&first, "pulled_bytes_total", &[], 1.0));
        assert!(at_least(&first, "pull_seconds_count", &[], 1.0));
        healthy(&gateway, "it does its work", 200, "ok").await;

        // A module that somebody kills, and rules that somebody removes.
        let pid = gateway.module("alerts", "running", running).await.pid.unwrap();
        run(&["kill", "-9", &pid.to_string()]);
        run(&["nft", "flush", "ruleset"]);
        seen(&gateway, "both are counted", |s| {
            at_least(s, "restarts_total", &[], 1.0)
                && at_least(s, "repairs_total", &[], 1.0)
                && at_least(s, "starts_total", &[], 3.0)
        })
        .await;

        // An update whose image cannot be judged well: it is tried, refused and counted, and nothing else is.
        let mut modules = modules;
        modules[0]["image"] = unsigned.into();
        let before = seen(&gateway, "now", |_| true).await;
        gateway.deploy(2, modules, "").await;
        let refused = |s: &Samples| s.get("runtimed_starts_refused_total", &reason(Reason::ImageUnsigned));
        let after = seen(&gateway, "the update is refused", |s| {
            s.get("runtimed_module_updating", &[("module", "alerts")]) == Some(1.0)
                && refused(s) > refused(&before)
        })
        .await;
        assert_eq!(after.get("runtimed_module_running", &[("module", "alerts")]), Some(1.0));
        let ours = |name: &str| name.starts_with("edgewarden_runtimed_");
        assert!(after.values.keys().all(|(name, _)| ours(name)), "no name of another daemon");
    });
}

#[test]
fn health_says_that_enforcement_is_lost_and_that_identityd_is_away() {
    in_namespaces("metrics::health_says_that_enforcement_is_lost_and_that_identityd_is_away", async || {
        let mut gateway = Gateway::joined("unwell").await;
        let image = gateway.image("clinic/alerts", true).await;
        gateway.deploy(1, vec![shell("alerts", &image, WAIT)], "").await;
        gateway.start_runtimed().await;
        gateway.module("alerts", "running", running).await;
        healthy(&gateway, "it does its work", 200, "ok").await;
        // What puts rules in force does not work any more when somebody removes them.
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("nft").to_str().unwrap().to_owned();
        let nft =
            String::from_utf8(Command::new("sh").args(["-c", "command -v nft"]).output().unwrap().stdout);
        let nft = nft.unwrap().trim().to_owned();
        std::fs::copy(&nft, &copy).unwrap();
        run(&["mount", "--bind", "/bin/false", &nft]);
        run(&[&copy, "flush", "ruleset"]);
        healthy(&gateway, "the rules are gone", 503, Reason::EnforcementLost.code()).await;
        let lost = samples::scrape(&door(&gateway)).await;
        assert_eq!(lost.get("runtimed_enforcement_lost", &[]), Some(1.0));
        run(&["umount", &nft]);
        healthy(&gateway, "they are put back", 200, "ok").await;
        // The other daemon.
        gateway.stop_identityd();
        healthy(&gateway, "identityd is away", 503, Reason::IdentityUnavailable.code()).await;
        let alone = samples::scrape(&door(&gateway)).await;
        assert_eq!(alone.get("runtimed_identityd_up", &[]), Some(0.0));
        assert_eq!(
            alone.get("runtimed_module_running", &[("module", "alerts")]),
            Some(1.0),
            "modules run on"
        );
    });
}
