//! The short form of `./ew chaos`: each fault at least once.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use edgewarden_tests::chaos::faults::Fault;
use edgewarden_tests::chaos::{Options, run};
use edgewarden_tests::sandbox;

fn survives(test: &str, faults: &[Fault]) {
    if !Path::new("/dev/fuse").exists() {
        return println!("skipped: this kernel has no FUSE");
    }
    let gateway = test.replace('_', "-");
    sandbox::test(module_path!(), test, || {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let options = Options { duration: Duration::ZERO, seed: 9, faults: faults.to_vec() };
        let report =
            run(&folder.path().join("site"), &gateway, &options, |struck| println!("{struck:?}")).unwrap();
        assert!(report.is_good(), "{report:#?}");
        assert!(report.acknowledged > 0);
    });
    sandbox::remove_cgroups(&gateway);
}

#[test]
fn killed_daemons_lose_nothing() {
    use Fault::{KillAll, KillFleet, KillGatewayd, KillIdentityd, KillRuntimed, RulesFlushed};
    survives(
        "killed_daemons_lose_nothing",
        &[KillIdentityd, KillRuntimed, KillGatewayd, KillAll, KillFleet, RulesFlushed],
    );
}

#[test]
fn disks_that_fail_lose_nothing() {
    use Fault::{DiskFull, DiskReadOnly, FleetDiskFull, FleetPowerCut, PowerCut, Restore};
    survives(
        "disks_that_fail_lose_nothing",
        &[PowerCut, FleetPowerCut, DiskFull, FleetDiskFull, DiskReadOnly, Restore],
    );
}

#[test]
fn clocks_and_tpms_that_fail_lose_nothing() {
    use Fault::{ClockAhead, ClockBack, ClockFarAhead, Poison, TpmPower, TpmSilent};
    survives(
        "clocks_and_tpms_that_fail_lose_nothing",
        &[ClockAhead, ClockFarAhead, ClockBack, TpmSilent, TpmPower, Poison],
    );
}
