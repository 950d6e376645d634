//! The commands of `edgewarden` on a gateway that runs: what they say and with which exit code.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use edgewarden_tests::ensure;
use edgewarden_tests::process::{Finished, run, wait_for};
use edgewarden_tests::sandbox;
use edgewarden_tests::site::{Keys, REGISTRY, Site, module};
use edgewarden_tests::story;
use serde_json::Value;

const WAIT: Duration = Duration::from_secs(30);

/// A site in a temporary folder with the example's modules running; then what the test adds.
fn deployed(test: &str, keys: Keys, before_joining: impl FnOnce(&Site), then: impl FnOnce(&mut Site)) {
    let gateway = test.replace('_', "-");
    sandbox::test(module_path!(), test, || {
        let folder = tempfile::tempdir().unwrap();
        let mut site = Site::new(&folder.path().join("site"), &gateway, keys).unwrap();
        let step = |site: &mut Site, names: &[&str]| {
            if let Err(failure) = story::run(site, names) {
                panic!("{failure}\n--- gateway log\n{}", site.gateway_log(40));
            }
        };
        step(&mut site, &["manufacture", "fleet"]);
        before_joining(&site);
        step(&mut site, &["enrol", "sign", "deploy"]);
        then(&mut site);
    });
    sandbox::remove_cgroups(&gateway);
}

fn exit_code(finished: &Finished) -> i32 {
    finished.status.code().unwrap()
}

fn module_of(site: &Site, name: &str) -> Value {
    module(&site.status().unwrap(), name).unwrap().clone()
}

#[test]
fn what_the_commands_answer() {
    deployed(
        "what_the_commands_answer",
        Keys::Software,
        |_| {},
        |site| {
            status_has_its_shape(site);
            policy_is_explained(site);
            deployments_are_judged(site);
            logs_leaves_and_audit(site);
            each_daemon_has_its_user(site);
            nobody_but_root_commands(site);
            only_the_modules_own_processes_get_its_certificate(site);
            signing_again_adds_nothing(site);
            down_leaves_nothing(site);
        },
    );
}

fn status_has_its_shape(site: &Site) {
    let status = site.status().unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&status), ["identity", "runtime", "gateway", "missing"]);
    let identity = &status["identity"];
    for key in [
        "keystore",
        "verdict",
        "gateway_ca_expires",
        "issuing_ca_expires",
        "enforced",
        "identities",
        "refusals",
    ] {
        assert!(!identity[key].is_null(), "no `{key}` in {identity}");
    }
    assert_eq!(identity["gateway"], site.gateway.as_str());
    assert_eq!(identity["trust_domain"], "clinic.example");
    assert_eq!(identity["dangerous"], false);
    assert_eq!(identity["deployment"], serde_json::json!(["glucose-monitor", 1]));
    for name in ["analytics", "alerts"] {
        let module = module_of(site, name);
        assert_eq!(module["state"], "running", "{module}");
        for key in ["pid", "address", "instance", "generation", "image"] {
            assert!(!module[key].is_null(), "no `{key}` in {module}");
        }
    }
    let text = run(&mut site.edgewarden(&["status"])).unwrap().ok().unwrap();
    for word in ["hardware: none", "analytics", "glucose-monitor version 1"] {
        assert!(text.contains(word), "`{word}` is not in\n{text}");
    }
}

/// Every kind of target, allowed and denied. The rule is named either way it was decided by one.
fn policy_is_explained(site: &Site) {
    for (from, to, rule) in [
        ("analytics", "alerts:9443", Some("alarm")),
        ("module:analytics", "alerts:9443", Some("alarm")),
        ("analytics", "gateway", Some("broker")),
        ("leaf:sensor-1", "gateway", Some("broker-for-sensors")),
        ("leaf:sensor-1", "publish:leaf/sensor-1/glucose", Some("own-topics")),
        ("analytics", "subscribe:leaf/+/glucose", Some("analytics-reads")),
        ("analytics", "receive:leaf/sensor-2/glucose", Some("analytics-reads")),
        ("analytics", "publish:clinic/summary", Some("summary")),
        ("analytics", "upload:upstream", Some("upload-summary")),
        ("alerts", "analytics:9443", None),
        ("analytics", "alerts:22", None),
        ("alerts", "gateway", None),
        ("leaf:sensor-1", "publish:leaf/sensor-2/glucose", None),
        ("leaf:sensor-9", "gateway", None),
        ("analytics", "subscribe:#", None),
        ("alerts", "receive:leaf/sensor-1/glucose", None),
        ("alerts", "upload:upstream", None),
        ("analytics", "upload:elsewhere", None),
        ("nobody", "alerts:9443", None),
    ] {
        let asked = run(&mut site.edgewarden(&["policy", "explain", from, to])).unwrap();
        let json = run(&mut site.edgewarden(&["policy", "explain", from, to, "-o", "json"])).unwrap();
        let explained: Value = serde_json::from_str(&json.stdout).unwrap();
        if let Some(rule) = rule {
            assert_eq!((exit_code(&asked), exit_code(&json)), (0, 0), "{from} {to}: {}", asked.stdout);
            assert!(asked.stdout.contains(rule), "{from} {to}: {}", asked.stdout);
            assert_eq!(explained["rule"], rule, "{from} {to}");
        } else {
            asked.refused("policy.denied").unwrap();
            assert_eq!(exit_code(&json), 3);
        }
        assert_eq!(explained["allowed"], rule.is_some(), "{from} {to}");
    }
    for (from, to) in
        [("analytics", "alerts"), ("No Name", "alerts:9443"), ("leaf:", "gateway"), ("", "gateway")]
    {
        let asked = run(&mut site.edgewarden(&["policy", "explain", from, to])).unwrap();
        assert_eq!(exit_code(&asked), 2, "{from} {to}: {}", asked.stderr);
    }
}

fn deployments_are_judged(site: &Site) {
    let file = site.path("garbage");
    let apply = || run(site.edgewarden(&["deployment", "apply"]).arg(&file)).unwrap();
    for garbage in ["", "garbage", "{}", "[1]", "{\"payload\":\"\"}"] {
        fs::write(&file, garbage).unwrap();
        apply().refused("deployment.invalid").unwrap();
    }
    fs::write(&file, vec![b' '; 8 << 20]).unwrap();
    assert_eq!(exit_code(&apply()), 1, "too long to be one");
    fs::remove_file(&file).unwrap();
    assert_eq!(exit_code(&apply()), 1, "not there");
    let shown = run(&mut site.edgewarden(&["deployment", "show"])).unwrap().ok().unwrap();
    assert!(shown.starts_with("glucose-monitor version 1"), "{shown}");
}

fn logs_leaves_and_audit(site: &Site) {
    wait_for("the module's words", WAIT, || {
        let logs = site.logs("analytics")?;
        ensure(logs.contains("connected to"), || logs)
    })
    .unwrap();
    run(&mut site.edgewarden(&["logs", "nobody"])).unwrap().refused("request.invalid").unwrap();
    assert_eq!(exit_code(&run(&mut site.edgewarden(&["logs", "../../etc/passwd"])).unwrap()), 2);

    let allow = |leaf: &str| run(&mut site.edgewarden(&["leaf", "allow", leaf])).unwrap();
    let token = allow("sensor-1").ok().unwrap();
    assert_eq!(token.trim().len(), 64, "32 random bytes in hexadecimal");
    allow("sensor-9").refused("leaf.unknown").unwrap();

    let audit = run(&mut site.edgewarden(&["audit", "show", "--last", "1000"])).unwrap().ok().unwrap();
    for word in ["module.started", "image.permitted", "svid.issued"] {
        assert!(audit.contains(word), "`{word}` is not in\n{audit}");
    }
    assert!(!audit.contains(token.trim()), "a token is told once");
    let entries = site.json(&mut site.edgewarden(&["audit", "show", "--last", "3"])).unwrap();
    let numbers: Vec<u64> =
        entries.as_array().unwrap().iter().map(|entry| entry["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers.len(), 3);
    assert!(numbers.is_sorted());
}

/// Another user of the machine, with the product's own program, which anybody may run.
fn nobody_but_root_commands(site: &Site) {
    for command in
        [&["down"][..], &["status"], &["svid", "rotate"], &["leaf", "allow", "sensor-1"], &["audit", "show"]]
    {
        let before = module_of(site, "analytics")["pid"].clone();
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        other.arg(site.program("edgewarden")).arg("--root").arg(site.root()).args(command);
        let said = run(&mut other).unwrap();
        let refused = said.stderr.contains("peer.unauthorized") || said.stderr.contains("Permission denied");
        assert!(!said.status.success() && refused, "{command:?}: {}{}", said.stdout, said.stderr);
        assert_eq!(module_of(site, "analytics")["pid"], before);
    }
}

fn each_daemon_has_its_user(site: &Site) {
    let uid = |user: &str| {
        let text = run(Command::new("id").args(["-u", user])).unwrap().ok().unwrap();
        text.trim().parse::<u32>().unwrap()
    };
    for (daemon, user) in [("identityd", "ew-identity"), ("runtimed", "root"), ("gatewayd", "ew-gateway")] {
        let pid = daemon_pid(site, daemon);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let ids = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().map(|id| id.parse::<u32>().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(ids("Uid:"), [uid(user); 4], "{daemon}");
        if user != "root" {
            // Its own, and that of the TPM's device.
            assert!(!ids("Groups:").contains(&0), "{daemon} has root's group");
            assert!(!ids("Gid:").contains(&0), "{daemon} has root's group");
            assert!(status.contains("CapEff:\t0000000000000000"), "{daemon}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{daemon}");
    }
}

fn daemon_pid(site: &Site, daemon: &str) -> i32 {
    let root = site.root();
    let ours = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&daemon.as_bytes()) && words.contains(&root.as_os_str().as_encoded_bytes())
    };
    let all =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    all.into_iter().find(ours).unwrap_or_else(|| panic!("no process `{daemon}`"))
}

/// The cgroup decides: neither the user nor the namespaces do.
fn only_the_modules_own_processes_get_its_certificate(site: &Site) {
    let pid = module_of(site, "analytics")["pid"].as_i64().unwrap();
    let socket = format!("/proc/{pid}/root/run/edgewarden/api.sock");
    let fetch = || {
        let mut fetch = site.edgewarden(&["svid", "fetch", "--socket", &socket]);
        fetch.env_remove("EDGEWARDEN_ROOT");
        fetch
    };
    run(&mut fetch()).unwrap().refused("caller.not_module").unwrap();
    let user = fs::metadata(format!("/proc/{pid}")).unwrap().uid().to_string();
    let mut inside = Command::new("nsenter");
    inside.args([
        "--target",
        &pid.to_string(),
        "--net",
        "--ipc",
        "--uts",
        "--setuid",
        &user,
        "--setgid",
        &user,
    ]);
    inside.arg(site.program("edgewarden")).args(["svid", "fetch", "--socket"]);
    // Another user cannot look through another's /proc: the folder itself.
    let instance = module_of(site, "analytics")["instance"].as_str().unwrap().to_owned();
    let path = site.root().join("run/edgewarden/identityd/workload").join(instance).join("api.sock");
    run(inside.arg(path)).unwrap().refused("caller.not_module").unwrap();
    // Another module's process asks here.
    let other = module_of(site, "alerts")["pid"].as_i64().unwrap();
    within_cgroup_of(other, &mut fetch()).refused("caller.not_module").unwrap();
    let said = within_cgroup_of(pid, &mut fetch()).ok().unwrap();
    let id = format!("spiffe://clinic.example/gateway/{}/module/analytics", site.gateway);
    assert_eq!(said.lines().next(), Some(id.as_str()));
    // A module that runs as root would still be no daemon of ours.
    let own = site.root().join("run/edgewarden/identityd/workload/runtimed/api.sock");
    let mut own = site.edgewarden(&["svid", "fetch", "--socket", own.to_str().unwrap()]);
    within_cgroup_of(pid, &mut own).refused("caller.not_module").unwrap();
    within_cgroup_of(pid, &mut site.edgewarden(&["audit", "show"])).refused("peer.unauthorized").unwrap();
}

/// Runs a command in the cgroup of a process, as only root can.
fn within_cgroup_of(pid: i64, command: &mut Command) -> Finished {
    let procs = cgroup_folder(pid).join("cgroup.procs");
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(procs).arg(command.get_program());
    run(shell.args(command.get_args())).unwrap()
}

/// The cgroup that counts the processes of `pid`.
fn cgroup_folder(pid: i64) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let fields: Vec<Vec<&str>> = text.lines().map(|line| line.splitn(3, ':').collect()).collect();
    match fields.iter().find(|line| line[1] == "pids") {
        Some(line) => Path::new("/sys/fs/cgroup/pids").join(line[2].trim_start_matches('/')),
        None => Path::new("/sys/fs/cgroup").join(fields[0][2].trim_start_matches('/')),
    }
}

/// The registry's signatures after signing twice, and after signing with a second key, by tag and digest.
fn signing_again_adds_nothing(site: &Site) {
    let image = module_of(site, "alerts")["image"].as_str().unwrap().to_owned();
    let sign = |key: &str, image: &str| {
        let mut sign = site.edgewarden(&["image", "sign", image, "--plain-http", "127.0.0.1:5000", "--key"]);
        run(sign.arg(site.path(key))).unwrap()
    };
    assert!(sign("image.key", &image).ok().unwrap().contains("sha256:"));
    let digest = image.split_once('@').unwrap().1;
    let by_tag_and_digest = format!("127.0.0.1:5000/clinic/alerts:1@{digest}");
    run(site.edgewarden(&["image", "generate-key"]).arg(site.path("second.key"))).unwrap().ok().unwrap();
    for key in ["image.key", "second.key", "second.key"] {
        sign(key, &by_tag_and_digest).ok().unwrap();
    }
    assert_eq!(exit_code(&sign("image.key", "127.0.0.1:5000/clinic/alerts:1:2")), 2);
    let manifest = format!("/v2/clinic/alerts/manifests/{}.sig", digest.replace(':', "-"));
    let mut registry = TcpStream::connect(REGISTRY).unwrap();
    write!(
        registry,
        "GET {manifest} HTTP/1.0\r\nHost: {REGISTRY}\r\nAccept: application/vnd.oci.image.manifest.v1+json\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    registry.read_to_string(&mut answer).unwrap();
    let (_, text) = answer.split_once("\r\n\r\n").unwrap();
    let manifest: Value = serde_json::from_str(text).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 2, "{manifest}");
}

fn down_leaves_nothing(site: &mut Site) {
    let pid = module_of(site, "analytics")["pid"].as_i64().unwrap();
    let cgroup = cgroup_folder(pid);
    let gateway = cgroup.parent().unwrap().file_name().unwrap().to_owned();
    assert!(cgroup.exists());
    site.down().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let shown =
        |program: &str, arguments: &[&str]| run(Command::new(program).args(arguments)).unwrap().ok().unwrap();
    assert!(!shown("nft", &["list", "tables"]).contains("edgewarden"));
    assert!(!shown("ip", &["-o", "link"]).contains(": ew"));
    assert!(!shown("ip", &["-o", "address"]).contains("10.77.0.1"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(site.root().to_str().unwrap()), "{mounts}");
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
        let left = hierarchy.unwrap().path().join("edgewarden").join(&gateway);
        assert!(!left.exists(), "{}", left.display());
    }
    for folder in ["netns", "bundles", "instances", "runc"] {
        let folder = site.root().join("run/edgewarden/runtimed").join(folder);
        assert_eq!(fs::read_dir(&folder).map_or(0, Iterator::count), 0, "{}", folder.display());
    }
    let asked = run(&mut site.edgewarden(&["status"])).unwrap();
    assert_eq!(exit_code(&asked), 1);
    assert!(asked.stderr.contains("edgewarden up"), "{}", asked.stderr);
}

/// As on hardware, where Linux lets only root read the boot's event log: for `join`, for `up`, and for a proof later.
#[test]
fn an_event_log_of_roots() {
    let hide = |site: &Site| {
        let log = site.event_log();
        fs::set_permissions(&log, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(log.metadata().unwrap().uid(), 0);
    };
    deployed("an_event_log_of_roots", Keys::SimulatedTpm, hide, |site| {
        let copy = site.root().join("run/edgewarden/identityd/event_log");
        let metadata = copy.symlink_metadata().unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o400);
        assert_ne!(metadata.uid(), 0);
        assert_eq!(fs::read(&copy).unwrap(), fs::read(site.event_log()).unwrap());
        run(&mut site.edgewarden(&["renew"])).unwrap().ok().unwrap();
        // A link in the copy's place is replaced at the next start and not followed.
        let secret = site.path("secret");
        fs::write(&secret, "root's").unwrap();
        fs::remove_file(&copy).unwrap();
        std::os::unix::fs::symlink(&secret, &copy).unwrap();
        let before = daemon_pid(site, "identityd");
        run(Command::new("kill").args(["-9", &before.to_string()])).unwrap().ok().unwrap();
        wait_for("identityd", WAIT, || site.status()).unwrap();
        assert_eq!(fs::read(&copy).unwrap(), fs::read(site.event_log()).unwrap());
        assert_eq!(fs::read_to_string(&secret).unwrap(), "root's");
        run(&mut site.edgewarden(&["renew"])).unwrap().ok().unwrap();
    });
}

const PROGRAMS: [&str; 2] = ["edgewarden", "edgewarden-fleet"];

/// A test program lies in `deps`, one below the programs of the product.
fn program(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name)
}

#[test]
fn each_shell_completes_both_programs() {
    for name in PROGRAMS {
        let script = |shell: &str| {
            run(Command::new(program(name)).args(["completions", shell])).unwrap().ok().unwrap()
        };
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = script(shell);
            for word in [name, "deployment", "output"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
            // What supervisors run is for nobody to type.
            assert!(!script.contains("log-pump"), "{shell}");
        }
        // As a shell has it: it is read, and the beginning of a word becomes the word.
        let function = format!("_{}", name.replace('-', "__"));
        let ask = format!(
            "source <(\"$0\" completions bash); COMP_WORDS=({name} depl) COMP_CWORD=1; {function} {name} depl {name}; \
             echo \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        let offered = run(bash.args(["-euc", &ask]).arg(program(name))).unwrap().ok().unwrap();
        let expected = if name == "edgewarden" { "deployment\n" } else { "deploy deployment\n" };
        assert_eq!(offered, expected, "{name}");
    }
    let asked = run(Command::new(program("edgewarden")).args(["completions", "csh"])).unwrap();
    assert_eq!(exit_code(&asked), 2);
}

#[test]
fn each_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let manual = folder.path().join("man1");
    for name in PROGRAMS {
        run(Command::new(program(name)).arg("man").arg(&manual)).unwrap().ok().unwrap();
    }
    let page = |name: &str| fs::read_to_string(manual.join(format!("{name}.1"))).unwrap();
    for name in
        ["edgewarden", "edgewarden-policy-explain", "edgewarden-fleet", "edgewarden-fleet-device-list"]
    {
        for section in [".TH", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS"] {
            assert!(page(name).contains(section), "{name}: {section}");
        }
    }
    assert!(page("edgewarden").contains(".SH SUBCOMMANDS"));
    assert!(page("edgewarden-policy-explain").contains("Exit code 3"));
    assert!(!manual.join("edgewarden-gatewayd.1").exists());
    // A file where the folder should be.
    let file = manual.join("edgewarden.1");
    let refused = run(Command::new(program("edgewarden")).arg("man").arg(&file)).unwrap();
    assert_eq!(exit_code(&refused), 1);
    assert!(refused.stderr.contains("cannot write the manual into"), "{}", refused.stderr);
}

/// Progress is for whoever watches: a script reads the same words as ever.
#[test]
fn progress_is_shown_on_a_terminal_only() {
    let layout = tempfile::tempdir().unwrap();
    let edgewarden = program("edgewarden");
    let mut build = Command::new(&edgewarden);
    build.args(["image", "build", "--binary", "/bin/true", "--layout"]).arg(layout.path());
    run(&mut build).unwrap().ok().unwrap();
    // Nobody listens there.
    let push = ["image", "push", "--plain-http", "127.0.0.1:9"];
    let image = "127.0.0.1:9/a:1";
    let piped = run(Command::new(&edgewarden).args(push).arg(layout.path()).arg(image)).unwrap();
    assert!(piped.stderr.starts_with("refused: image.unavailable"), "{}", piped.stderr);
    let line = format!("{} {} {} {image}", edgewarden.display(), push.join(" "), layout.path().display());
    let mut watched = Command::new("script");
    let watched = run(watched.env("TERM", "xterm").args(["-qec", &line, "/dev/null"])).unwrap();
    assert!(watched.stdout.contains("pushing `127.0.0.1:9/a:1`"), "{}", watched.stdout);
    assert!(watched.stdout.contains("refused: image.unavailable"), "{}", watched.stdout);
}
