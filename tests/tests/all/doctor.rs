//! `edgewarden doctor` on a gateway that works, and then on the same one with one thing after the other broken.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use edgewarden_tests::process::{run, wait_for};
use edgewarden_tests::site::{Keys, Site};
use edgewarden_tests::{Failure, ensure, sandbox, story};
use serde_json::Value;

const STEPS: &[&str] = &["manufacture", "fleet", "enrol", "sign", "deploy"];
const WAIT: Duration = Duration::from_secs(30);

/// Checks that a sandbox may not pass: the simulated TPM is no hardware, the machine of the test may have no clock of
/// its own and nobody who keeps it.
const KNOWN: [&str; 4] = ["keystore.hardware", "clock.kept", "clock.hardware", "kernel.landlock"];

fn at(test: &str, keys: Keys, then: impl FnOnce(&mut Site)) {
    let gateway = test.replace('_', "-");
    sandbox::test(module_path!(), test, || {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let mut site = Site::new(&folder.path().join("site"), &gateway, keys).unwrap();
        if let Err(failure) = story::run(&mut site, STEPS) {
            panic!("{failure}\n--- gateway log\n{}", site.gateway_log(40));
        }
        then(&mut site);
    });
    sandbox::remove_cgroups(&gateway);
}

/// The doctor's answer: the exit code and every check.
fn doctor(site: &Site, only: Option<&str>) -> (Option<i32>, Vec<Value>) {
    let mut command = site.edgewarden(&["doctor", "-o", "json"]);
    if let Some(area) = only {
        command.args(["--only", area]);
    }
    let finished = run(&mut command).unwrap();
    let checks: Vec<Value> = serde_json::from_str(finished.stdout.trim())
        .unwrap_or_else(|error| panic!("{error}: {}{}", finished.stdout, finished.stderr));
    (finished.status.code(), checks)
}

fn bad(checks: &[Value], outcome: &str) -> BTreeSet<String> {
    let bad = checks.iter().filter(|check| check["outcome"] == outcome);
    bad.map(|check| check["id"].as_str().unwrap().to_owned()).collect()
}

fn well(site: &Site) -> Result<(), Failure> {
    let (code, checks) = doctor(site, None);
    let mut warned = bad(&checks, "warn");
    warned.retain(|id| !KNOWN.contains(&id.as_str()));
    ensure(code == Some(0) && warned.is_empty() && bad(&checks, "fail").is_empty(), || {
        let told: Vec<&Value> = checks.iter().filter(|check| check["remedy"].is_string()).collect();
        format!("exit code {code:?}: {told:#?}")
    })
}

/// Breaks something; the doctor must see it at exactly these checks. Then mends it; the doctor must be content again.
fn broken(site: &mut Site, failed: &[&str], fault: impl FnOnce(&mut Site), mend: impl FnOnce(&mut Site)) {
    fault(site);
    let wanted: BTreeSet<String> = failed.iter().map(|id| (*id).to_owned()).collect();
    let seen = wait_for("the doctor to see it", WAIT, || {
        let (code, checks) = doctor(site, None);
        let failed = bad(&checks, "fail");
        ensure(failed == wanted, || {
            let told: Vec<&Value> = checks.iter().filter(|check| check["remedy"].is_string()).collect();
            format!("expected {wanted:?}: {told:#?}")
        })?;
        ensure(code == Some(1), || format!("exit code {code:?}"))
    });
    seen.unwrap();
    mend(site);
    wait_for("the doctor to be content", WAIT, || well(site)).unwrap();
}

fn set_mode(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn shell(command: &str) {
    run(Command::new("sh").args(["-c", command])).unwrap().ok().unwrap();
}

/// Processes of this sandbox whose command line begins so.
fn signal(site: &Site, daemon: &str, signal: &str) {
    let pattern = format!("^[^ ]*edgewarden {daemon} --root {}", site.root().display());
    run(Command::new("pkill").args([signal, "-f", &pattern])).unwrap().ok().unwrap();
}

#[test]
fn doctor_sees_what_is_broken() {
    at("doctor_sees_what_is_broken", Keys::SimulatedTpm, |site| {
        wait_for("a healthy gateway", WAIT, || well(site)).unwrap();
        // What modules do meanwhile is written down too.
        let audit = |site: &Site| -> Vec<String> {
            let shown = run(&mut site.edgewarden(&["audit", "show", "--last", "100"])).unwrap().ok().unwrap();
            let of_modules = |line: &&str| line.contains("analytics") || line.contains("alerts");
            shown.lines().filter(|line| !of_modules(line)).map(str::to_owned).collect()
        };
        let before = audit(site);
        let (_, checks) = doctor(site, None);
        assert!(checks.len() >= 40);
        assert_eq!(audit(site), before, "the doctor left a trace");

        let state = |site: &Site, name: &str| site.root().join("var/lib/edgewarden").join(name);
        let config = |site: &Site| site.root().join("etc/edgewarden/config.toml");
        broken(
            site,
            &["permissions.identity_state"],
            |site| set_mode(&state(site, "identity"), 0o755),
            |site| set_mode(&state(site, "identity"), 0o700),
        );
        broken(site, &["config.protected"], |s| set_mode(&config(s), 0o666), |s| set_mode(&config(s), 0o644));
        broken(
            site,
            &["network.overlap"],
            |_| {
                shell(
                    "ip link add foreign type veth peer name other && ip link set other up && ip addr add 10.77.0.99/25 dev foreign && ip link set foreign up",
                );
            },
            |_| shell("ip link del foreign"),
        );
        broken(
            site,
            &["disk.persistent"],
            |s| shell(&format!("mount -t tmpfs -o mode=0700 none {}", state(s, "logs").display())),
            |s| shell(&format!("umount {}", state(s, "logs").display())),
        );
        broken(
            site,
            &["attestation.event_log"],
            |s| fs::rename(s.event_log(), s.path("elsewhere")).unwrap(),
            |s| fs::rename(s.path("elsewhere"), s.event_log()).unwrap(),
        );
        broken(
            site,
            &["daemons.gatewayd"],
            |s| signal(s, "gatewayd", "-STOP"),
            |s| signal(s, "gatewayd", "-CONT"),
        );
        // What is put back by itself is told all the same.
        shell("echo 0 > /proc/sys/net/ipv4/ip_forward");
        put_back(site, &[]);
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
    });
}

/// Waits until the doctor finds nothing broken but `failed`, and says that something was changed and put back.
fn put_back(site: &Site, failed: &[&str]) {
    let wanted: BTreeSet<String> = failed.iter().map(|id| (*id).to_owned()).collect();
    let told = wait_for("the doctor to tell of a repair", WAIT, || {
        let (_, checks) = doctor(site, None);
        ensure(bad(&checks, "fail") == wanted && bad(&checks, "warn").contains("policy.undisturbed"), || {
            format!("{checks:#?}")
        })
    });
    told.unwrap();
}

#[test]
fn doctor_without_fleet_and_registry() {
    at("doctor_without_fleet_and_registry", Keys::Software, |site| {
        wait_for("a healthy gateway", WAIT, || well(site)).unwrap();
        broken(
            site,
            &["permissions.secret_file"],
            |s| set_mode(&s.path("passphrase"), 0o444),
            |s| set_mode(&s.path("passphrase"), 0o400),
        );
        site.registry.take().unwrap().stop();
        let (code, checks) = doctor(site, Some("registry"));
        assert_eq!((code, bad(&checks, "warn").len()), (Some(0), 1), "{checks:#?}");
        site.start_registry().unwrap();

        // For good: the link to the fleet says that it is well again only when a held request ends.
        site.fleet.take().unwrap().stop();
        let (code, checks) = doctor(site, Some("fleet"));
        assert_eq!((code, bad(&checks, "fail")), (Some(1), BTreeSet::from(["fleet.reachable".to_owned()])));

        shell("nft delete table inet edgewarden");
        put_back(site, &["fleet.reachable"]);

        site.crash_gateway().unwrap();
        let (code, checks) = doctor(site, Some("daemons"));
        let failed = bad(&checks, "fail");
        let daemons = ["daemons.identityd", "daemons.runtimed", "daemons.gatewayd"].map(str::to_owned);
        assert_eq!((code, failed), (Some(1), BTreeSet::from(daemons)));

        let text = run(&mut site.edgewarden(&["doctor"])).unwrap();
        assert_eq!(text.status.code(), Some(1));
        for word in [
            "✗ identityd answers (daemons.identityd)",
            "→ `systemctl restart edgewarden-identityd`",
            "checks failed",
        ] {
            assert!(format!("{}{}", text.stdout, text.stderr).contains(word), "no `{word}`: {}", text.stdout);
        }
    });
}

#[test]
fn doctor_refuses_an_area_that_is_none() {
    let site = tempfile::tempdir().unwrap();
    let site = Site::new(&site.path().join("site"), "none", Keys::Software).unwrap();
    let refused = run(&mut site.edgewarden(&["doctor", "--only", "kidneys"])).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.stderr.contains("keystore"), "{}", refused.stderr);
    let listed = run(&mut site.edgewarden(&["doctor", "--list"])).unwrap().ok().unwrap();
    assert!(listed.contains("| `keystore.lockout` |"));
}
