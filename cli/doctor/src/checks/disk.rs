//! Checks of the file systems that the state is kept on.

use super::words::{no_config, not_running, pass_unless, size};
use crate::check::{Check, Finding, Outcome};
use crate::facts::{Facts, Volume};

/// Checks of the area `disk`: the file systems of the state.
pub const CHECKS: &[Check] = &[
    Check {
        id: "disk.space",
        title: "the file systems of the state have room (256 MiB)",
        remedy: "`du -xh --max-depth=2 /var/lib/edgewarden | sort -h` shows what takes it; remove what is not needed or use a larger disk",
        run: space,
    },
    Check {
        id: "disk.inodes",
        title: "the file systems of the state can take more files",
        remedy: "`find /var -xdev -printf '%h\\n' | sort | uniq -c | sort -n | tail` shows where they are",
        run: inodes,
    },
    Check {
        id: "disk.persistent",
        title: "the state outlives a restart of the machine",
        remedy: "mount a disk at /var/lib/edgewarden and join again",
        run: persistent,
    },
    Check {
        id: "disk.durable",
        title: "the file systems of the state keep what they acknowledged (fsync, atomic rename)",
        remedy: "use ext4, xfs, btrfs or f2fs on a local disk for /var/lib/edgewarden",
        run: durable,
    },
    Check {
        id: "disk.writable",
        title: "the file systems of the state can be written",
        remedy: "`dmesg | tail` says why; then make room, or `mount -o remount,rw MOUNTPOINT`, or replace the disk",
        run: writable,
    },
    Check {
        id: "disk.queue_room",
        title: "the upstream queue can grow to its cap",
        remedy: "make room, or lower `mqtt.queue_bytes_max` in `config.toml` and restart the gateway",
        run: queue_room,
    },
    Check {
        id: "disk.logs",
        title: "the modules' logs stay small (256 MiB)",
        remedy: "`ls -lS /var/lib/edgewarden/logs`; have the module that talks too much say less",
        run: |facts| match facts.disk.log_bytes {
            bytes if bytes > LOGS_MAX => Finding::warn(format!("they take {}", size(bytes))),
            bytes => Finding::pass(format!("they take {}", size(bytes))),
        },
    },
    Check {
        id: "disk.reserve",
        title: "space is set aside for decisions and the audit log",
        remedy: "make room on the file system of /var/lib/edgewarden: what is set aside is filled up by itself, and what waits is then written",
        run: reserve,
    },
];

fn reserve(facts: &Facts) -> Finding {
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    let Some(disk) = status.disk else { return Finding::skip("identityd sets none aside") };
    let set_aside = format!("{} of {}", size(disk.bytes), size(disk.bytes_wanted));
    if disk.unsaved || disk.unwritten > 0 {
        let unwritten = disk.unwritten;
        return Finding::fail(format!(
            "{set_aside}; {unwritten} entries of the audit log are not written{}",
            if disk.unsaved { ", and what is in force is not on the disk" } else { "" }
        ));
    }
    if disk.is_short() { Finding::warn(set_aside) } else { Finding::pass(set_aside) }
}

const SPACE_MIN: u64 = 64 << 20;
const SPACE_LOW: u64 = 256 << 20;
const LOGS_MAX: u64 = 256 << 20;
const INODES_MIN: u64 = 1000;

/// Puts a question to every file system once.
fn each(facts: &Facts, fault: impl Fn(&Volume) -> Option<String>) -> Vec<String> {
    let mut wrong: Vec<String> = facts
        .disk
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| fault(volume).map(|why| format!("`{}`: {why}", volume.folder.display())))
        .collect();
    wrong.dedup();
    wrong
}

/// Passes only what is known: a file system that does not answer is `disk.space`'s to report.
fn known(facts: &Facts, finding: Finding) -> Finding {
    let silent = facts.disk.volumes.is_empty() || facts.disk.volumes.iter().any(Result::is_err);
    if silent && finding.outcome == Outcome::Pass {
        return Finding::skip("not every file system answers");
    }
    finding
}

fn space(facts: &Facts) -> Finding {
    let mut unknown: Vec<String> =
        facts.disk.volumes.iter().filter_map(|volume| volume.as_ref().err().cloned()).collect();
    let below = |limit| {
        each(facts, |volume| {
            (volume.bytes_free < limit)
                .then(|| format!("{} of {} are free", size(volume.bytes_free), size(volume.bytes)))
        })
    };
    unknown.extend(below(SPACE_MIN));
    if !unknown.is_empty() {
        return Finding::fail(unknown.join("; "));
    }
    let Some(least) = facts.disk.volumes.iter().flatten().map(|volume| volume.bytes_free).min() else {
        return Finding::fail("the file systems do not answer");
    };
    super::words::advise(&below(SPACE_LOW), format!("{} are free", size(least)))
}

fn inodes(facts: &Facts) -> Finding {
    let few = |volume: &Volume| {
        (volume.inodes > 0 && volume.inodes_free < INODES_MIN)
            .then(|| format!("{} of {} inodes are free", volume.inodes_free, volume.inodes))
    };
    known(facts, pass_unless(&each(facts, few), "more than enough"))
}

const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

fn persistent(facts: &Facts) -> Finding {
    let volatile =
        |volume: &Volume| matches!(volume.kind, TMPFS | RAMFS).then(|| "it is in memory (tmpfs)".to_owned());
    known(facts, pass_unless(&each(facts, volatile), "on a disk"))
}

/// `statfs(2)` values of file systems that do not, or not surely, keep our two promises: FAT, exFAT, NFS, SMB, 9P, FUSE.
const DOUBTFUL: [(i64, &str); 7] = [
    (0x4d44, "FAT"),
    (0x2011_bab0, "exFAT"),
    (0x6969, "NFS"),
    (0xff53_4d42, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
];

fn durable(facts: &Facts) -> Finding {
    let doubtful = |volume: &Volume| {
        let found = DOUBTFUL.iter().find(|(kind, _)| *kind == volume.kind);
        found.map(|(_, name)| format!("{name} may lose what was written before a power cut"))
    };
    known(facts, super::words::advise(&each(facts, doubtful), "local file systems"))
}

fn writable(facts: &Facts) -> Finding {
    let fault = |volume: &Volume| match &volume.written {
        _ if volume.read_only => Some("it is mounted read-only".to_owned()),
        Err(why) => Some(why.clone()),
        Ok(()) => None,
    };
    known(facts, pass_unless(&each(facts, fault), "all of them, tried with 4 KiB"))
}

fn queue_room(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    let folder = facts.layout.gateway_state();
    let Some(volume) = facts.disk.volumes.iter().flatten().find(|volume| volume.folder == folder) else {
        return Finding::skip("its file system does not answer");
    };
    let queue = facts.daemons.gateway.as_ref().and_then(|gateway| gateway.queue.as_ref());
    let wanted = config.mqtt.queue_bytes_max.saturating_sub(queue.map_or(0, |queue| queue.bytes));
    let said = format!("{} are free for {} more of the queue", size(volume.bytes_free), size(wanted));
    if wanted > volume.bytes_free { Finding::warn(said) } else { Finding::pass(said) }
}
