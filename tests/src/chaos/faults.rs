//! Faults: what breaks, how it is broken, and how it is put right again.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::load::POISON;
use super::mqtt::{Link, Packet};
use super::random::Random;
use super::scene::Scene;
use crate::process::{run, wait_for};
use crate::site::module;
use crate::story::sign;
use crate::{Failure, ensure};

/// One kind of fault. The text form is what `--only` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Fault {
    KillIdentityd,
    KillRuntimed,
    KillGatewayd,
    KillAll,
    KillFleet,
    PowerCut,
    FleetPowerCut,
    DiskFull,
    FleetDiskFull,
    DiskReadOnly,
    ClockAhead,
    ClockFarAhead,
    ClockBack,
    TpmSilent,
    TpmPower,
    RulesFlushed,
    Poison,
    Restore,
}

impl Fault {
    pub const ALL: [Self; 18] = [
        Self::KillIdentityd,
        Self::KillRuntimed,
        Self::KillGatewayd,
        Self::KillAll,
        Self::KillFleet,
        Self::PowerCut,
        Self::FleetPowerCut,
        Self::DiskFull,
        Self::FleetDiskFull,
        Self::DiskReadOnly,
        Self::ClockAhead,
        Self::ClockFarAhead,
        Self::ClockBack,
        Self::TpmSilent,
        Self::TpmPower,
        Self::RulesFlushed,
        Self::Poison,
        Self::Restore,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::KillIdentityd => "kill-identityd",
            Self::KillRuntimed => "kill-runtimed",
            Self::KillGatewayd => "kill-gatewayd",
            Self::KillAll => "kill-all",
            Self::KillFleet => "kill-fleet",
            Self::PowerCut => "power-cut",
            Self::FleetPowerCut => "fleet-power-cut",
            Self::DiskFull => "disk-full",
            Self::FleetDiskFull => "fleet-disk-full",
            Self::DiskReadOnly => "disk-read-only",
            Self::ClockAhead => "clock-ahead",
            Self::ClockFarAhead => "clock-far-ahead",
            Self::ClockBack => "clock-back",
            Self::TpmSilent => "tpm-silent",
            Self::TpmPower => "tpm-power",
            Self::RulesFlushed => "rules-flushed",
            Self::Poison => "poison",
            Self::Restore => "restore",
        }
    }

    /// Breaks it, waits, and puts right what an operator would. Gives a remark for the report.
    pub fn strike(self, scene: &mut Scene, random: &mut Random) -> Result<String, Failure> {
        let moment = Duration::from_millis(2000 + random.below(4000));
        match self {
            Self::KillIdentityd => kill_daemon(scene, "identityd"),
            Self::KillRuntimed => kill_daemon(scene, "runtimed"),
            Self::KillGatewayd => kill_daemon(scene, "gatewayd"),
            Self::KillAll => {
                scene.site.crash_gateway()?;
                scene.start_gateway()?;
                Ok("supervisor and daemons".into())
            }
            Self::KillFleet => {
                if let Some(fleet) = &mut scene.site.fleet {
                    fleet.kill();
                }
                thread::sleep(moment);
                scene.start_fleet()?;
                Ok(format!("away for {} ms", moment.as_millis()))
            }
            Self::PowerCut => power_cut(scene, random),
            Self::FleetPowerCut => {
                let (kept, forgotten) = scene.fleet_disk.cut(random);
                if let Some(mut fleet) = scene.site.fleet.take() {
                    fleet.kill();
                }
                scene.fleet_disk.power_on()?;
                scene.start_fleet()?;
                Ok(format!("{kept} unsynced sectors kept, {forgotten} forgotten"))
            }
            Self::DiskFull => {
                scene.gateway_disk.fill()?;
                thread::sleep(moment);
                scene.gateway_disk.make_room()?;
                Ok(format!("full for {} ms", moment.as_millis()))
            }
            Self::FleetDiskFull => {
                scene.fleet_disk.fill()?;
                thread::sleep(moment);
                scene.fleet_disk.make_room()?;
                Ok(format!("full for {} ms", moment.as_millis()))
            }
            Self::DiskReadOnly => {
                scene.gateway_disk.fail()?;
                thread::sleep(moment);
                power_cut(scene, random).map(|remark| format!("failed, then a power cycle: {remark}"))
            }
            Self::ClockAhead => leap(scene, 3600),
            Self::ClockFarAhead => leap(scene, 40 * 86_400),
            Self::ClockBack => leap(scene, -400 * 86_400),
            Self::TpmSilent => {
                signal_tpm(scene, "-STOP")?;
                thread::sleep(moment);
                signal_tpm(scene, "-CONT")?;
                Ok(format!("silent for {} ms", moment.as_millis()))
            }
            Self::TpmPower => {
                scene.site.power_cut()?;
                thread::sleep(moment);
                scene.site.boot("normal")?;
                Ok(format!("without power for {} ms", moment.as_millis()))
            }
            Self::RulesFlushed => flush_rules(scene),
            Self::Poison => poison(scene),
            Self::Restore => restore(scene),
        }
    }
}

fn kill_daemon(scene: &Scene, daemon: &str) -> Result<String, Failure> {
    let pattern = format!("^[^ ]*edgewarden {daemon} --root {}", scene.site.root().display());
    run(Command::new("pkill").args(["-9", "-f", &pattern]))?.ok()?;
    Ok(String::new())
}

/// Everything that is not on the disk ends: processes, interfaces, rules, cgroups, what lay in memory, the TPM's state.
fn power_cut(scene: &mut Scene, random: &mut Random) -> Result<String, Failure> {
    let (kept, forgotten) = scene.gateway_disk.cut(random);
    scene.site.crash_gateway()?;
    scene.kill_modules()?;
    scene.forget_kernel_state()?;
    scene.gateway_disk.power_on()?;
    // A temporary file system on a real gateway.
    match fs::remove_dir_all(scene.site.root().join("run")) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    scene.site.power_cut()?;
    scene.site.boot("normal")?;
    scene.start_gateway()?;
    Ok(format!("{kept} unsynced sectors kept, {forgotten} forgotten"))
}

fn leap(scene: &Scene, seconds: i64) -> Result<String, Failure> {
    scene.clock.leap(seconds)?;
    thread::sleep(Duration::from_secs(15));
    scene.clock.leap(0)?;
    Ok(format!("{seconds} s off for 15 s"))
}

fn signal_tpm(scene: &Scene, signal: &str) -> Result<(), Failure> {
    let pid = fs::read_to_string(scene.site.path("tpm.pid"))?;
    run(Command::new("kill").args([signal, pid.trim()]))?.ok()?;
    Ok(())
}

/// A port that a module may not reach: any of the host.
const FORBIDDEN_PORT: u16 = 7777;

/// While the rules are away a module tries to reach the host. None of its tries may get through.
fn flush_rules(scene: &Scene) -> Result<String, Failure> {
    let status = scene.site.status()?;
    let name = sign::MODULES[0];
    let pid = module(&status, name).and_then(|module| module["pid"].as_i64());
    let pid = pid.ok_or_else(|| Failure(format!("no process of {name}")))?.to_string();
    let host = "169.254.1.1";
    let listener = TcpListener::bind(("0.0.0.0", FORBIDDEN_PORT))?;
    listener.set_nonblocking(true)?;
    // The next hop is an address of nobody; the gateway's own is one of loopback.
    let own = run(Command::new("ip").args(["-o", "-4", "addr", "show", "dev", "lo"]))?.ok()?;
    let own = own.lines().find_map(|line| {
        let address = line.split_whitespace().nth(3)?.split('/').next()?;
        (address != "127.0.0.1").then(|| address.to_owned())
    });
    let target = own.unwrap_or_else(|| host.to_owned());
    let script = format!(
        "for i in $(seq 20); do timeout 0.2 bash -c 'exec 3<>/dev/tcp/{target}/{FORBIDDEN_PORT}' 2>/dev/null && echo through; done; true"
    );
    let mut tries = Command::new("nsenter");
    tries.args(["--target", &pid, "--net", "--", "bash", "-c", &script]);
    run(Command::new("nft").args(["flush", "ruleset"]))?.ok()?;
    let said = run(&mut tries)?.ok()?;
    let through = said.lines().count();
    let mut accepted = 0;
    while listener.accept().is_ok() {
        accepted += 1;
    }
    ensure(through == 0 && accepted == 0, || {
        format!("{} of 20 forbidden connections to {target} got through", through.max(accepted))
    })?;
    wait_for("the rules to be back", Duration::from_secs(10), || {
        let rules = run(Command::new("nft").args(["list", "ruleset"]))?.ok()?;
        ensure(rules.contains("edgewarden"), || "there is no table of Edgewarden".into())
    })?;
    Ok(format!("20 tries to reach {target} refused"))
}

/// A message that is too large for its topic, which is refused, and one that a receiver does not survive, which is set
/// aside so that what comes after it arrives.
fn poison(scene: &Scene) -> Result<String, Failure> {
    let acknowledged = |payload: &[u8]| -> Result<bool, Failure> {
        let device = &scene.loud;
        let mut link = Link::open(&device.config, &device.name, true)?;
        // A refusal closes the connection, maybe before all is written.
        let sent = link.publish(1, &format!("leaf/{}/count", device.name), payload);
        Ok(sent.is_ok() && (0..100).any(|_| matches!(link.receive(), Ok(Some(Packet::PubAck(1))))))
    };
    ensure(!acknowledged(&vec![b'x'; 100_000])?, || "100,000 bytes were acknowledged".into())?;
    let set_aside = || -> Result<u64, Failure> {
        Ok(scene.site.status()?["gateway"]["set_aside"].as_u64().unwrap_or_default())
    };
    let (before, survived) = (set_aside()?, scene.load.survived.total());
    ensure(acknowledged(POISON)?, || "a small message was refused".into())?;
    wait_for("the poison to be set aside", Duration::from_secs(30), || {
        let now = set_aside()?;
        ensure(now > before, || format!("{now} are set aside"))
    })?;
    wait_for("what comes after the poison", Duration::from_secs(30), || {
        let now = scene.load.survived.total();
        ensure(now > survived + 20, || format!("{} messages arrived behind it", now - survived))
    })?;
    Ok("too large: refused; not survived: set aside, and the rest arrives".into())
}

/// The state of an earlier hour takes the place of today's, as docs/operations.md says. What waited is drained first:
/// nothing can bring back what only the lost disk held.
fn restore(scene: &mut Scene) -> Result<String, Failure> {
    scene.drain()?;
    let archive = scene.site.path("gateway.tar");
    scene.site.down()?;
    let root = scene.site.root();
    let taken = if archive.exists() {
        empty(&root)?;
        run(&mut tar("-xpf", &archive, &root))?.ok()?;
        // The next fault may take the power: whoever restores waits for the disk.
        run(Command::new("sync").arg("-f").arg(&root))?.ok()?;
        "an earlier state restored"
    } else {
        run(tar("-cpf", &archive, &root).args(["etc/edgewarden", "var/lib/edgewarden"]))?.ok()?;
        "a backup made"
    };
    scene.start_gateway()?;
    scene.load.go_on();
    Ok(taken.into())
}

fn tar(flag: &str, archive: &Path, root: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", flag]).arg(archive).arg("-C").arg(root);
    tar
}

fn empty(folder: &Path) -> Result<(), Failure> {
    for mounted in super::disk::mounts_beneath(folder)? {
        run(Command::new("umount").arg("-l").arg(mounted))?.ok()?;
    }
    for entry in fs::read_dir(folder)? {
        fs::remove_dir_all(entry?.path())?;
    }
    Ok(())
}
