//! `edgewarden metrics` says what it can while a daemon hangs, is away or is not well.

use std::fmt;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use edgewarden_metrics::door::{self, SOCKET, Source};
use edgewarden_metrics::page::{Format, render};
use edgewarden_names::Reason;
use edgewarden_protocol::layout::Layout;
use edgewarden_testkit::samples::Samples;
use tokio::net::UnixListener;
use tokio::process::Command;

struct Daemon(&'static str, Result<(), Reason>);

impl Source for Daemon {
    async fn metrics(&self, format: Format) -> Result<String, fmt::Error> {
        render(format, self.0, |page| page.counter("things", "What it counts.", 7))
    }

    async fn health(&self) -> Result<(), Reason> {
        self.1
    }
}

fn serve(folder: &Path, prefix: &'static str, health: Result<(), Reason>) {
    std::fs::create_dir_all(folder).unwrap();
    let listener = door::open(folder).unwrap();
    tokio::spawn(door::serve(listener, Arc::new(Daemon(prefix, health)), |_, _| {}));
}

async fn metrics(layout: &Layout, arguments: &[&str]) -> (Output, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgewarden"));
    command.arg("--root").arg(layout.root()).arg("metrics").args(arguments);
    let output = command.output().await.unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    let complaint = String::from_utf8(output.stderr.clone()).unwrap();
    (output, said, complaint)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_is_printed_and_who_does_not_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path());
    let up = |s: &Samples, name, daemon| s.get(&format!("daemon_{name}"), &[("daemon", daemon)]);

    // None of them.
    let (output, said, complaint) = metrics(&layout, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    let seen = Samples::parse(&said);
    assert_eq!(seen.values.len(), 6, "{said}");
    assert!(seen.values.values().all(|value| *value == 0.0));
    assert!(complaint.contains("start it with `edgewarden up`"), "{complaint}");

    // One that is well, one that hangs, one that is not well.
    serve(&layout.identity_run(), "edgewarden", Ok(()));
    std::fs::create_dir_all(layout.runtime_run()).unwrap();
    let _hanging = UnixListener::bind(layout.runtime_run().join(SOCKET)).unwrap();
    serve(&layout.gateway_run(), "edgewarden_gatewayd", Err(Reason::AttestFailed));
    let (output, said, complaint) = metrics(&layout, &[]).await;
    assert_eq!(output.status.code(), Some(1), "not a whole answer");
    let seen = Samples::parse(&said);
    assert_eq!(seen.get("things_total", &[]), Some(7.0));
    assert_eq!(seen.get("gatewayd_things_total", &[]), Some(7.0));
    for (daemon, answers, healthy) in
        [("identityd", 1.0, 1.0), ("runtimed", 0.0, 0.0), ("gatewayd", 1.0, 0.0)]
    {
        assert_eq!(up(&seen, "up", daemon), Some(answers), "{daemon}");
        assert_eq!(up(&seen, "healthy", daemon), Some(healthy), "{daemon}");
    }
    assert!(complaint.contains("runtimed: ") && complaint.contains("does not answer within"), "{complaint}");
    assert!(!complaint.contains("gatewayd: "), "it has answered: {complaint}");

    // One alone: as it tells it.
    let (output, said, _) = metrics(&layout, &["--daemon", "gatewayd"]).await;
    assert!(output.status.success());
    let seen = Samples::parse(&said);
    assert_eq!((seen.values.len(), seen.get("gatewayd_things_total", &[])), (1, Some(7.0)));

    // All of them.
    std::fs::remove_file(layout.runtime_run().join(SOCKET)).unwrap();
    serve(&layout.runtime_run(), "edgewarden_runtimed", Ok(()));
    let (output, said, complaint) = metrics(&layout, &[]).await;
    assert!(output.status.success() && complaint.is_empty(), "{complaint}");
    let seen = Samples::parse(&said);
    assert_eq!(seen.get("runtimed_things_total", &[]), Some(7.0));
    let (output, ..) = metrics(&layout, &["--daemon", "fleet"]).await;
    assert_eq!(output.status.code(), Some(2));
}
