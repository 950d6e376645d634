//! The systemd units: how much a service can do at most, and that this is enough for it.

use std::path::{Path, PathBuf};
use std::process::Command;

use edgewarden_tests::process::run;
use edgewarden_tests::sandbox;
use edgewarden_tests::site::{Keys, Site};
use edgewarden_tests::story;

/// Largest exposure that `systemd-analyze security` may say, in tenths. 2.0 is the aim; docs/confinement.md says why
/// runtimed is above it, and what of its score is what.
const EXPOSURE: [(&str, u32); 3] = [("identityd", 14), ("gatewayd", 14), ("runtimed", 50)];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Later versions of systemd ask about more, so a score may grow without us: this one is in Debian 12.
const SYSTEMD_VERSION: u32 = 252;

#[test]
fn exposure_does_not_grow() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        println!("skipped: systemd-analyze is not installed");
        return;
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let version: Option<u32> = version.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    if version != Some(SYSTEMD_VERSION) {
        println!("skipped: scores are those of systemd {SYSTEMD_VERSION}, this is {version:?}");
        return;
    }
    for (daemon, most) in EXPOSURE {
        let unit = repository().join(format!("systemd/edgewarden-{daemon}.service"));
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager"]).arg(unit);
        let said = run(&mut command).unwrap();
        let line = said.stdout.lines().last().unwrap_or_default().to_owned();
        let score =
            line.split_once(".service: ").and_then(|(_, rest)| rest.split(' ').next()?.split_once('.'));
        let (whole, tenth) = score.unwrap_or_else(|| panic!("no score: {said:?}"));
        let score = whole.parse::<u32>().unwrap() * 10 + tenth.parse::<u32>().unwrap();
        assert_eq!(
            score, most,
            "{daemon} is exposed otherwise than docs/confinement.md says:\n{}",
            said.stdout
        );
    }
}

/// The list of capabilities is at two places.
#[test]
fn the_unit_of_runtimed_has_its_own_list_of_capabilities() {
    let read = |path: &str| std::fs::read_to_string(repository().join(path)).unwrap();
    let unit = read("systemd/edgewarden-runtimed.service");
    let unit = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap().to_owned();
    let mut unit: Vec<&str> = unit.split(' ').map(|name| name.strip_prefix("CAP_").unwrap()).collect();
    let source = read("runtime/runtimed/src/lib.rs");
    let mut own: Vec<&str> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Capability::")?.strip_suffix(','))
        .collect();
    unit.sort_unstable();
    own.sort_unstable();
    assert_eq!(unit, own);
}

/// systemd counts five quick ends of a service as a reason to leave it alone for good (systemd.unit(5)).
#[test]
fn no_unit_is_given_up_however_often_it_ends() {
    for daemon in ["identityd", "runtimed", "gatewayd"] {
        let path = repository().join(format!("systemd/edgewarden-{daemon}.service"));
        let unit = std::fs::read_to_string(path).unwrap();
        let section = |name: &str| {
            let (_, rest) = unit.split_once(&format!("[{name}]\n")).unwrap();
            rest.split("\n[").next().unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(section("Unit").contains(&"StartLimitIntervalSec=0".to_owned()), "{daemon}");
        assert!(section("Service").contains(&"Restart=always".to_owned()), "{daemon}");
    }
}

#[test]
fn modules_start_with_what_the_unit_leaves_runtimed() {
    let test = "modules_start_with_what_the_unit_leaves_runtimed";
    let gateway = "gw-under-its-unit";
    let shims = repository().join("tests/tests/all/units");
    let path = format!("{}:{}", shims.display(), std::env::var("PATH").unwrap());
    sandbox::test_with(module_path!(), test, &[("PATH", path)], || {
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().join("site");
        let mut site = Site::new(&site, gateway, Keys::Software).unwrap();
        let steps = ["manufacture", "fleet", "enrol", "sign", "deploy", "identify", "flow", "offline"];
        if let Err(failure) = story::run(&mut site, &steps) {
            panic!("{failure}\n--- gateway log\n{}", site.gateway_log(40));
        }
        assert!(site.gateway_log(10_000).contains("runtimed is started as by its unit"));
    });
    sandbox::remove_cgroups(gateway);
}
