//! The example of `examples/clients/c`: a program that knows OpenSSL and no Workload API, with the files that
//! `edgewarden svid watch` keeps, and OpenSSL's own server at the other end.
//!
//! Where there is no C compiler, or no OpenSSL to build with, the tests say so and are skipped.

use crate::common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{ID, Served};
use edgewarden_svid::X509Context;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The program, built into this folder.
fn built(folder: &Path) -> Option<PathBuf> {
    let include = folder.join("include.c");
    fs::write(&include, "#include <openssl/x509v3.h>\n").unwrap();
    let can = Command::new("cc").arg("-E").arg(&include).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no C compiler on this machine, or no OpenSSL to build with");
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/clients/c/client.c");
    let program = folder.join("client");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(source)
        .args(["-lssl", "-lcrypto"]);
    let output = cc.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}

fn edgewarden(served: &Served) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgewarden"));
    command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", served.socket.display()));
    command.stdin(Stdio::null());
    command
}

/// OpenSSL's server with the identity of one, that lets in whom the roots of the other vouch for.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    fn start(identity: &Served, roots: &Served) -> Self {
        let files = |served: &Served| {
            let folder = served.folder.path().join("server");
            let mut fetch = edgewarden(served);
            fetch.args(["svid", "fetch", "x509", "--write"]).arg(&folder).stdout(Stdio::null());
            assert!(fetch.status().unwrap().success());
            folder
        };
        let (own, others) = (files(identity), files(roots));
        let mut openssl = Command::new("openssl");
        openssl.args(["s_server", "-accept", "127.0.0.1:0", "-www", "-Verify", "3", "-verify_return_error"]);
        openssl.arg("-cert").arg(own.join("svid.pem")).arg("-key").arg(own.join("svid_key.pem"));
        openssl.arg("-CAfile").arg(others.join("bundle.pem"));
        openssl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = openssl.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| Some(line.unwrap().strip_prefix("ACCEPT ")?.to_owned()));
        // What it prints later is read too, or it would stop at a closed pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.unwrap() }
    }
}

/// `svid watch` with the program as its own. Its lines and exit code, and its last word on standard error; the identity
/// is renewed when it waits.
fn run(program: &Path, served: &Served, address: &str, peer: &str) -> (Vec<String>, Option<i32>, String) {
    let folder = served.folder.path().join("watched");
    let mut watch = edgewarden(served);
    watch.args(["svid", "watch", "--signal", "SIGHUP", "--dir"]).arg(&folder).arg("--").arg(program);
    watch.arg(&folder).args([address, peer]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = watch.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said = lines
        .inspect(|line| {
            if line == "waiting for the next certificate" {
                served.source.rotate();
            }
        })
        .collect();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let refused = stderr.lines().find(|line| line.starts_with("refused: ")).unwrap_or_default().to_owned();
    (said, output.status.code(), refused)
}

fn serial(context: &X509Context) -> String {
    let (_, leaf) = X509Certificate::from_der(context.chain_der.first().unwrap()).unwrap();
    format!("serial: {:X}", leaf.serial)
}

#[test]
fn the_example_in_c_makes_a_connection_with_each_certificate() {
    let served = Served::new();
    let Some(program) = built(served.folder.path()) else { return };
    let other_end = Server::start(&served, &served);
    let first = serial(&served.source.now());
    let (mut said, code, refused) = run(&program, &served, &other_end.address, ID);
    assert_eq!((code, refused.as_str()), (Some(0), ""), "{said:?}");
    // As the test's authority gives it.
    said.retain(|line| line != "ends: 4096-01-01 00:00:00Z");
    let second = serial(&served.source.now());
    assert_ne!(first, second);
    let peer = format!("peer: {ID} says HTTP/1.0 200 ok");
    assert_eq!(said, [&first, &peer, "waiting for the next certificate", &second, &peer]);
}

#[test]
fn the_example_in_c_says_nothing_to_who_is_not_the_peer() {
    let (served, other) = (Served::new(), Served::new());
    let Some(program) = built(served.folder.path()) else { return };
    let trusting = Server::start(&served, &served);
    let of_others = Server::start(&other, &served);
    let refusing = Server::start(&served, &other);
    let longer = format!("{ID}s");
    let shorter = ID.strip_suffix('s').unwrap();
    for (other_end, peer, expected) in [
        (&trusting, "spiffe://plant.example/gateway/gw-1/module/alerts", "refused: somebody else is there"),
        (&trusting, longer.as_str(), "refused: somebody else is there"),
        (&trusting, shorter, "refused: somebody else is there"),
        (&trusting, "", "refused: somebody else is there"),
        (&of_others, ID, "refused: certificate signature failure"),
        (&refusing, ID, "refused: by the other side"),
    ] {
        let (said, code, refused) = run(&program, &served, &other_end.address, peer);
        assert_eq!((code, refused.as_str()), (Some(1), expected), "{peer}: {said:?}");
        assert!(!said.iter().any(|line| line.starts_with("peer: ")), "{said:?}");
    }
}

#[test]
fn the_example_in_c_needs_the_files() {
    let served = Served::new();
    let Some(program) = built(served.folder.path()) else { return };
    let output = Command::new(program).arg(served.folder.path()).args(["127.0.0.1:1", ID]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("refused: there are no files"), "{stderr}");
}
