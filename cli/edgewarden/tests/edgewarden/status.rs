//! `edgewarden status` says what it can while a daemon hangs or is away.

use std::process::Output;
use std::time::{Duration, Instant};

use edgewarden_exchange::frame;
use edgewarden_names::{ModuleName, UnixTime};
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::runtime_console::{
    EnforcementStatus, FleetStatus, ModuleStatus, Repair, Reply, Request, Status,
};
use edgewarden_protocol::uplink::ModuleState;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::process::Command;

async fn status(layout: &Layout, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgewarden"));
    command.arg("--root").arg(layout.root()).args(arguments).arg("status");
    command.output().await.unwrap()
}

fn runtime_status() -> Status {
    let what =
        "rules: `nft` (process 7) changed the rules of the packet filter; put back after 41 ms".to_owned();
    Status {
        modules: vec![ModuleStatus {
            name: ModuleName::parse("alerts").unwrap(),
            image: "r/a@sha256:ab".into(),
            state: ModuleState::Running,
            generation: None,
            instance: None,
            pid: Some(7),
            address: Some([10, 77, 0, 2].into()),
            restarts: 0,
            reason: None,
            update: None,
        }],
        epoch: None,
        fleet: FleetStatus::default(),
        est: None,
        enforcement: EnforcementStatus {
            repairs: 2,
            last: Some(Repair { at: UnixTime(1_764_520_000), what }),
            lost: None,
        },
    }
}

#[tokio::test]
async fn a_daemon_that_hangs_keeps_no_other_answer_back() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path());
    for socket in [layout.control_socket(), layout.runtime_socket()] {
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    }
    // It takes the connection and says nothing, as a stopped process does.
    let _hanging = UnixListener::bind(layout.control_socket()).unwrap();
    let answering = UnixListener::bind(layout.runtime_socket()).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = answering.accept().await {
            let _: Request = frame::read(&mut stream).await.unwrap();
            frame::write(&mut stream, &Reply::Status(Box::new(runtime_status()))).await.unwrap();
        }
    });
    let before = Instant::now();
    let said = status(&layout, &[]).await;
    // It waits 1.5 s; the rest is for a busy machine.
    assert!(before.elapsed() < Duration::from_secs(15), "{:?}", before.elapsed());
    let (shown, complaint) =
        (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap());
    for expected in [
        "identity     identityd does not answer: no answer within",
        "messages     gatewayd does not answer: ",
        "enforcement  in place; changed from outside 2 times, last 2025-",
        "put back after 41 ms",
        "alerts  running",
    ] {
        assert!(shown.contains(expected), "{expected}\n{shown}");
    }
    assert_eq!(said.status.code(), Some(1), "half an answer");
    assert!(complaint.contains("no answer within"), "{complaint}");

    let said = status(&layout, &["-o", "json"]).await;
    let shown: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said.status.code(), Some(1));
    assert_eq!(shown["identity"], Value::Null);
    assert_eq!(shown["runtime"]["modules"][0]["name"], "alerts");
    let missing: Vec<&String> = shown["missing"].as_object().unwrap().keys().collect();
    assert_eq!(missing, ["gatewayd", "identityd"]);
}
