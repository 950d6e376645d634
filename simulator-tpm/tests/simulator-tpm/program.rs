//! The `simulator-tpm` program: manufacture, boot, power cut, stop.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

/// Ends what a failed test leaves running.
struct Running<'a>(&'a Path);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = program(&["stop", "--pid-file", path(&self.0.join("swtpm.pid"))]);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simulator-tpm")).args(arguments).output().unwrap()
}

fn boot(state: &Path, scenario: &str) -> (Output, u16) {
    // Another test may take the pair between the look and the start.
    for port in (30_000..32_000).step_by(2).skip(usize::try_from(std::process::id() % 900).unwrap()) {
        if TcpListener::bind(("127.0.0.1", port)).is_err()
            || TcpListener::bind(("127.0.0.1", port + 1)).is_err()
        {
            continue;
        }
        let port_text = port.to_string();
        let output = program(&["boot", "--state", path(state), "--port", &port_text, "--scenario", scenario]);
        if output.status.success() {
            return (output, port);
        }
    }
    panic!("no free port");
}

fn pcr(port: u16, pcr: u8) -> String {
    let tcti = format!("swtpm:host=127.0.0.1,port={port}");
    let output = Command::new("tpm2_pcrread").args([&format!("sha256:{pcr}"), "-T", &tcti]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_life_of_a_simulated_tpm() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let made =
        program(&["manufacture", "--state", path(&state), "--vendor-ca", path(&folder.path().join("ca"))]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bundle = String::from_utf8(made.stdout).unwrap();
    assert_eq!(fs::read_to_string(bundle.trim()).unwrap().matches("BEGIN CERTIFICATE").count(), 2);
    let again = program(&["manufacture", "--state", path(&state)]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), bundle, "a TPM is manufactured once");

    let _running = Running(&state);
    let pid_file = state.join("swtpm.pid");
    let (booted, port) = boot(&state, "normal");
    assert_eq!(String::from_utf8(booted.stdout).unwrap().trim(), fs::read_to_string(&pid_file).unwrap());
    let normal_log = fs::read(state.join("event-log.bin")).unwrap();
    let (kernel, firmware) = (pcr(port, 9), pcr(port, 0));
    let twice = program(&["boot", "--state", path(&state), "--port", &port.to_string()]);
    assert!(!twice.status.success(), "it runs already");

    assert!(program(&["power-cut", "--pid-file", path(&pid_file)]).status.success());
    assert!(!program(&["power-cut", "--pid-file", path(&pid_file)]).status.success(), "the power is off");
    let (_, port) = boot(&state, "changed-kernel");
    assert_ne!(fs::read(state.join("event-log.bin")).unwrap(), normal_log);
    assert_ne!(pcr(port, 9), kernel);
    assert_eq!(pcr(port, 0), firmware);
    assert!(program(&["stop", "--pid-file", path(&pid_file)]).status.success());
    assert!(!pid_file.exists());
}

#[test]
fn what_it_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = folder.path().join("pid");
    fs::write(&foreign, std::process::id().to_string()).unwrap();
    let state = path(folder.path());
    for arguments in [
        vec!["power-cut", "--pid-file", "/nonexistent"],
        vec!["power-cut", "--pid-file", path(&foreign)],
        vec!["stop", "--pid-file", path(&foreign)],
        vec!["boot", "--state", state, "--port", "65535"],
        vec!["boot", "--state", state, "--port", "0x1"],
        vec!["boot", "--state", state, "--port", "31999", "--scenario", "unknown"],
        vec!["boot", "--state", "/nonexistent", "--port", "31999"],
        vec![],
    ] {
        let output = program(&arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}
