//! `edgewarden svid fetch` and `watch`, as a person, a script and a program that reads files meet them.

use crate::common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{ID, Served};
use edgewarden_names::{Reason, pem};
use edgewarden_svid::X509Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn edgewarden(served: &Served, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgewarden"));
    command.args(arguments).env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", served.socket.display()));
    command.stdin(Stdio::null());
    command
}

fn run(served: &Served, arguments: &[&str]) -> Output {
    edgewarden(served, arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

/// Looks until it is so. Whoever runs tests ends those that hang.
fn until(what: impl Fn() -> bool) {
    while !what() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn holds(file: &Path, expected: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text == expected)
}

/// `true` when the folder's files are this identity's.
fn has(folder: &Path, context: &X509Context) -> bool {
    holds(&folder.join("svid.pem"), &pem::chain(&context.chain_der))
        && holds(&folder.join("svid_key.pem"), &pem::encode_secret(pem::PRIVATE_KEY, &context.key_pkcs8))
        && holds(&folder.join("bundle.pem"), &pem::chain(&context.bundle_der))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_certificate_is_shown_in_three_forms_and_its_key_in_none() {
    let served = Served::new();
    let context = served.source.now();
    let text = said(&run(&served, &["svid", "fetch"]));
    assert_eq!(text.lines().next(), Some(ID));
    assert_eq!(text, said(&run(&served, &["svid", "fetch", "x509"])));
    assert!(text.contains("valid until") && text.contains("1 root of plant.example"), "{text}");
    let chain = said(&run(&served, &["svid", "fetch", "x509", "-o", "pem"]));
    assert_eq!(chain, pem::chain(&context.chain_der));
    let json = said(&run(&served, &["svid", "fetch", "x509", "-o", "json"]));
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((value["spiffe_id"].as_str(), value["chain"].as_str()), (Some(ID), Some(chain.as_str())));
    assert!(value["not_after"].as_u64() > value["not_before"].as_u64());
    let key = pem::encode_secret(pem::PRIVATE_KEY, &context.key_pkcs8);
    let line = key.lines().nth(1).unwrap();
    assert!([text, chain, json].iter().all(|said| !said.contains("PRIVATE") && !said.contains(line)));
}

#[test]
fn a_bundle_is_shown_in_three_forms() {
    let served = Served::new();
    let roots = pem::chain(&served.source.now().bundle_der);
    let text = said(&run(&served, &["svid", "fetch", "bundle"]));
    assert!(text.starts_with("spiffe://plant.example\n  root "), "{text}");
    assert_eq!(said(&run(&served, &["svid", "fetch", "bundle", "-o", "pem"])), roots);
    let json = said(&run(&served, &["svid", "fetch", "bundle", "-o", "json"]));
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["x509"].as_str(), Some(roots.as_str()));
    let other = run(&served, &["svid", "fetch", "bundle", "--trust-domain", "other.example"]);
    assert_eq!(other.status.code(), Some(1));
}

#[test]
fn a_fetch_writes_files_and_only_its_user_reads_the_key() {
    let served = Served::new();
    let folder = served.folder.path().join("new/files");
    said(&run(&served, &["svid", "fetch", "x509", "--write", folder.to_str().unwrap()]));
    assert!(has(&folder, &served.source.now()));
    assert_eq!(fs::metadata(folder.join("svid_key.pem")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(names(&folder), ["bundle.pem", "svid.pem", "svid_key.pem"]);
}

#[test]
fn updates_are_shown_as_they_come_and_none_twice() {
    let mut served = Served::new();
    let file = served.folder.path().join("said");
    let mut command = edgewarden(&served, &["svid", "fetch", "watch", "-o", "json"]);
    let _running = Running::start(command.stdout(fs::File::create(&file).unwrap()).stderr(Stdio::null()));
    let serials = || {
        let lines = fs::read_to_string(&file).unwrap();
        let values = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        values.map(|value| value["serial"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until(|| serials().len() == 1);
    served.source.rotate();
    until(|| serials().len() == 2);
    // The same again after a restart is no update.
    served.stop();
    served.start();
    served.source.rotate();
    let last = served.source.rotate();
    until(|| fs::read_to_string(&file).unwrap().contains(&pem::chain(&last.chain_der).replace('\n', "\\n")));
    let mut serials = serials();
    let count = serials.len();
    serials.dedup();
    assert_eq!(serials.len(), count);
}

#[test]
fn what_cannot_be_had_has_its_exit_code() {
    let mut served = Served::new();
    for arguments in [
        &["svid", "fetch", "jwt"][..],
        &["svid", "fetch", "x509", "--socket", "tcp://127.0.0.1:1"],
        &["svid", "fetch", "x509", "--socket", "unix://host/run/api.sock"],
        &["svid", "fetch", "jwt", "--audience", "a", "-o", "pem"],
        &["status", "-o", "pem"],
        &["svid", "watch"],
        &["svid", "watch", "--dir", "/nowhere", "--key-mode", "0644"],
        &["svid", "watch", "--dir", "/nowhere", "--cert-name", "../svid.pem"],
        &["svid", "watch", "--dir", "/nowhere", "--cert-name", "one", "--key-name", "one"],
        &["svid", "watch", "--dir", "/nowhere", "--signal", "SIGHUP"],
        &["svid", "watch", "--dir", "/nowhere", "--pid-file", "/x"],
        &["svid", "watch", "--dir", "/nowhere", "--signal", "SIGNOW", "--", "true"],
        &["svid", "watch", "--dir", "/nowhere", "--signal", "HUP", "--pid-file", "/x", "--", "true"],
    ] {
        assert_eq!(run(&served, arguments).status.code(), Some(2), "{arguments:?}");
    }
    *served.source.refusal.lock().unwrap() = Some(Reason::CallerNotModule);
    for what in ["x509", "bundle"] {
        let refused = run(&served, &["svid", "fetch", what]);
        assert_eq!(refused.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("caller.not_module"), "{refused:?}");
        assert!(refused.stdout.is_empty());
    }
    served.stop();
    assert_eq!(run(&served, &["svid", "fetch"]).status.code(), Some(1));
    let folder = served.folder.path().to_str().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).unwrap();
    let open_to_all = run(&served, &["svid", "watch", "--dir", folder]);
    assert_eq!(open_to_all.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&open_to_all.stderr).contains("others may change"), "{open_to_all:?}");
}

fn watch(served: &Served, folder: &Path, more: &[&str]) -> Running {
    let folder = folder.to_str().unwrap();
    let mut command = edgewarden(served, &[&["svid", "watch", "--dir", folder], more].concat());
    Running::start(command.stderr(Stdio::null()))
}

#[test]
fn files_follow_the_identity_and_outlive_the_socket() {
    let mut served = Served::new();
    let folder = served.folder.path().join("files");
    let mut running = watch(&served, &folder, &["--combined-name", "both.pem"]);
    until(|| has(&folder, &served.source.now()));
    let second = served.source.rotate();
    until(|| has(&folder, &second));
    let both = fs::read_to_string(folder.join("both.pem")).unwrap();
    let (key, chain) =
        (pem::encode_secret(pem::PRIVATE_KEY, &second.key_pkcs8), pem::chain(&second.chain_der));
    assert_eq!(both, format!("{}{chain}", *key));
    served.stop();
    assert!(has(&folder, &second));
    served.source.rotate();
    served.start();
    until(|| has(&folder, &served.source.now()));
    // This generation and the one before.
    until(|| names(&folder).iter().filter(|name| name.starts_with(".svid-")).count() == 2);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.code(), Some(0));
    assert!(has(&folder, &served.source.now()));
}

#[test]
fn a_reader_of_one_generation_never_sees_two() {
    let served = Served::new();
    let folder = served.folder.path().join("files");
    let _running = watch(&served, &folder, &[]);
    until(|| has(&folder, &served.source.now()));
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (folder, stop) = (folder.clone(), Arc::clone(&stop));
        move || {
            let mut seen = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                // What a program does that opens the folder once. The generation before the last is gone by then.
                let generation = folder.join(fs::read_link(folder.join("current")).unwrap());
                let read = |name: &str| fs::read_to_string(generation.join(name));
                if let (Ok(chain), Ok(key)) = (read("svid.pem"), read("svid_key.pem")) {
                    seen.push((chain, key));
                    seen.dedup();
                }
            }
            seen
        }
    });
    let mut given = vec![served.source.now()];
    for _ in 0..60 {
        given.push(served.source.rotate());
        let last = given.last().unwrap();
        until(|| holds(&folder.join("svid.pem"), &pem::chain(&last.chain_der)));
    }
    stop.store(true, Ordering::Relaxed);
    let pairs: Vec<(String, String)> = given
        .iter()
        .map(|context| {
            (
                pem::chain(&context.chain_der),
                (*pem::encode_secret(pem::PRIVATE_KEY, &context.key_pkcs8)).clone(),
            )
        })
        .collect();
    let seen = reader.join().unwrap();
    assert!(seen.len() > 1 && seen.iter().all(|pair| pairs.contains(pair)));
}

/// Every file beneath `folder`, temporary ones too.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    paths
        .flat_map(|path| if path.is_dir() && !path.is_symlink() { all_files(&path) } else { vec![path] })
        .collect()
}

#[test]
fn a_key_is_never_open_to_others_not_while_it_is_written_either() {
    for (mode, allowed) in [("0600", 0o600), ("0640", 0o640), ("0400", 0o400)] {
        let served = Served::new();
        let folder = served.folder.path().join("files");
        let stop = Arc::new(AtomicBool::new(false));
        let watcher = std::thread::spawn({
            let (folder, stop) = (folder.clone(), Arc::clone(&stop));
            move || {
                let mut looked = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    for path in all_files(&folder) {
                        let secret =
                            path.to_string_lossy().contains("key") || path.to_string_lossy().contains("both");
                        if let Ok(metadata) = fs::symlink_metadata(&path)
                            && secret
                            && metadata.is_file()
                        {
                            looked += 1;
                            let mode = metadata.mode() & 0o7777;
                            // It is narrower while it is written.
                            assert!(mode & !(allowed | 0o600) == 0, "{} {mode:o}", path.display());
                        }
                    }
                }
                looked
            }
        });
        let dir = folder.to_str().unwrap();
        let watch = edgewarden(&served, &["svid", "watch", "--dir", dir, "--key-mode", mode]);
        // A program with the widest umask there is.
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 0; exec \"$0\" \"$@\" --combined-name both.pem"]);
        shell.arg(watch.get_program()).args(watch.get_args());
        shell.envs(watch.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let _running = Running::start(shell.stdin(Stdio::null()).stderr(Stdio::null()));
        until(|| has(&folder, &served.source.now()));
        for _ in 0..20 {
            let context = served.source.rotate();
            until(|| has(&folder, &context));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(watcher.join().unwrap() > 0);
        for (name, expected) in [("svid_key.pem", allowed), ("both.pem", allowed), ("svid.pem", 0o644)] {
            assert_eq!(fs::metadata(folder.join(name)).unwrap().mode() & 0o7777, expected, "{name}");
        }
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o022, 0);
    }
}

#[test]
fn what_a_killed_watcher_left_is_removed() {
    let served = Served::new();
    let folder = served.folder.path().join("files");
    for round in 0..8 {
        let mut running = watch(&served, &folder, &[]);
        if round % 2 == 0 {
            until(|| has(&folder, &served.source.now()));
        }
        served.source.rotate();
        running.0.kill().unwrap();
        running.0.wait().unwrap();
        // What a reader finds is whole, whenever it ended.
        if folder.join("current").exists() {
            let read = |name: &str| fs::read_to_string(folder.join("current").join(name)).unwrap();
            assert!(read("svid.pem").ends_with("-----END CERTIFICATE-----\n"));
            assert!(read("svid_key.pem").ends_with("-----END PRIVATE KEY-----\n"));
        }
    }
    fs::create_dir_all(folder.join(".svid-77/deep")).unwrap();
    fs::write(folder.join(".svid-77/.svid_key.pem.1.0.ew-tmp"), "half a key").unwrap();
    symlink(".svid-77", folder.join(".current.link.ew-tmp")).unwrap();
    let last = served.source.rotate();
    let _running = watch(&served, &folder, &[]);
    until(|| has(&folder, &last) && !folder.join(".svid-77").exists());
    let left = names(&folder);
    assert!(
        left.iter().filter(|name| name.starts_with('.')).all(|name| name.starts_with(".svid-")),
        "{left:?}"
    );
    until(|| names(&folder).len() <= 4 + 2);
    // One at a time.
    let second = run(&served, &["svid", "watch", "--dir", folder.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another"), "{second:?}");
}

/// Writes a line at its start and for each SIGHUP: the serial number that the file has then.
const PROGRAM: &str = r#"
    note() { openssl x509 -in "$1/svid.pem" -noout -serial >>"$1/../noted"; }
    trap 'note "$1"' HUP
    trap 'echo ended >>"$1/../noted"; exit 7' TERM
    note "$1"
    while :; do sleep 0.05; done
"#;

fn noted(served: &Served) -> Vec<String> {
    let text = fs::read_to_string(served.folder.path().join("noted")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_program_is_started_with_files_told_of_each_change_and_its_status_is_ours() {
    let served = Served::new();
    let folder = served.folder.path().join("files");
    let dir = folder.to_str().unwrap();
    let mut running = watch(&served, &folder, &["--signal", "SIGHUP", "--", "sh", "-c", PROGRAM, "sh", dir]);
    until(|| noted(&served).len() == 1);
    for count in 2..5 {
        served.source.rotate();
        until(|| noted(&served).len() == count);
    }
    let mut serials = noted(&served);
    serials.dedup();
    assert_eq!(serials.len(), 4, "each change is another certificate: {serials:?}");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.code(), Some(7));
    assert_eq!(noted(&served).last().map(String::as_str), Some("ended"));

    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)] {
        assert_eq!(watch(&served, &folder, &["--", "sh", "-c", script]).code(), Some(code), "{script}");
    }
    assert_eq!(watch(&served, &folder, &["--", "/no/such/program"]).code(), Some(1));
}

#[test]
fn a_program_that_runs_already_is_told_by_its_pid_file() {
    let served = Served::new();
    let folder = served.folder.path().join("files");
    let pid_file = served.folder.path().join("program.pid");
    // It is not there yet, and that is no reason to stop.
    fs::write(&pid_file, "0\n").unwrap();
    let more = ["--signal", "HUP", "--pid-file", pid_file.to_str().unwrap()];
    let _running = watch(&served, &folder, &more);
    until(|| has(&folder, &served.source.now()));
    let program = Running::start(
        Command::new("sh").args(["-c", PROGRAM, "sh", folder.to_str().unwrap()]).stdin(Stdio::null()),
    );
    until(|| noted(&served).len() == 1);
    fs::write(&pid_file, format!("{}\n", program.0.id())).unwrap();
    served.source.rotate();
    until(|| noted(&served).len() == 2);
    assert_ne!(noted(&served)[0], noted(&served)[1]);
}

#[test]
fn files_that_cannot_be_written_leave_the_last_ones() {
    let served = Served::new();
    let folder = served.folder.path().join("files");
    let _running = watch(&served, &folder, &[]);
    let first = served.source.now();
    until(|| has(&folder, &first));
    // A folder in the place of the link: it cannot be renamed over.
    let blocked = folder.join("svid.pem");
    fs::remove_file(&blocked).unwrap();
    fs::create_dir(&blocked).unwrap();
    let second = served.source.rotate();
    let current = folder.join("current");
    until(|| holds(&current.join("svid_key.pem"), &pem::encode_secret(pem::PRIVATE_KEY, &second.key_pkcs8)));
    fs::remove_dir(&blocked).unwrap();
    // Tried again by itself.
    until(|| has(&folder, &second));
}

fn payload(token: &str) -> serde_json::Value {
    let payload = token.trim().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[test]
fn a_token_is_printed_for_its_audiences_and_nothing_beside_it() {
    let served = Served::new();
    let text = said(&run(
        &served,
        &["svid", "fetch", "jwt", "--audience", "one", "--audience", "https://two.example"],
    ));
    assert_eq!(text.lines().count(), 1);
    assert_eq!(payload(&text)["aud"], "one https://two.example");
    let json = said(&run(&served, &["svid", "fetch", "jwt", "--audience", "one", "-o", "json"]));
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["spiffe_id"], ID);
    assert_eq!(value["expires"], payload(value["token"].as_str().unwrap())["exp"]);
}

#[test]
fn tokens_and_jwt_keys_are_files_too_and_tokens_are_renewed() {
    let served = Served::new();
    let folder = served.folder.path().join("files");
    let more = ["--jwt", "a.jwt=one,two", "--jwt", "b.jwt=three", "--jwks-name", "keys.json"];
    let _running = watch(&served, &folder, &more);
    until(|| has(&folder, &served.source.now()));
    // No program sees a part: all are there with the first.
    let token = |name: &str| payload(&fs::read_to_string(folder.join("current").join(name)).unwrap());
    let (first, other) = (token("a.jwt"), token("b.jwt"));
    assert_eq!((&first["aud"], &other["aud"]), (&"one two".into(), &"three".into()));
    let keys = fs::read_to_string(folder.join("current/keys.json")).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&keys).unwrap()["keys"].is_array());
    assert_eq!(fs::metadata(folder.join("current/a.jwt")).unwrap().mode() & 0o777, 0o600);
    until(|| token("a.jwt")["n"].as_u64() > first["n"].as_u64());
    until(|| token("b.jwt")["n"].as_u64() > other["n"].as_u64());
    assert!(has(&folder, &served.source.now()));
}
