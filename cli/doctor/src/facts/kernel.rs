//! The kernel's features, from /proc and /sys and by trying.

use std::collections::BTreeSet;
use std::path::Path;

use edgewarden_platform::{landlock, peer::PeerEvidence};

use super::{Read, Sources, number, text};

/// Facts about the kernel's features and resources. `None` where the kernel does not say.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// True for the unified hierarchy (v2) alone.
    pub cgroup_v2: bool,
    /// Controllers that modules' cgroups can have.
    pub controllers: BTreeSet<String>,
    /// Kinds of namespaces that there are and that may be made.
    pub namespaces: BTreeSet<String>,
    /// Version of the kernel, its first two numbers.
    pub release: Option<(u32, u32)>,
    /// Actions that a seccomp filter may return, as `actions_avail` lists them. `None` without seccomp.
    pub seccomp_actions: Option<String>,
    /// 0 without Landlock.
    pub landlock: u32,
    /// `Ok` when the kernel names the process at the other end of a Unix socket, and tells that it is still the same.
    pub peers: Read<()>,
    pub ip_forward: Option<bool>,
    /// Connections tracked, and how many may be.
    pub conntrack: Option<(u64, u64)>,
    /// Bits; from Linux 5.18 on always 256 once the generator is seeded.
    pub entropy: Option<u64>,
    pub suid_dumpable: Option<u64>,
    /// Files open in the machine, and how many may be.
    pub files: Option<(u64, u64)>,
    pub memory_available: Option<u64>,
}

/// Kinds of namespaces that modules need, as /proc/self/ns names them.
pub const NAMESPACES: [&str; 7] = ["user", "pid", "net", "mnt", "ipc", "uts", "cgroup"];

/// Reads /proc and /sys, and tries what they do not tell.
pub fn gather(sources: &Sources) -> Kernel {
    let (proc, sys) = (&sources.proc, &sources.sys);
    let (cgroup_v2, controllers) = cgroups(&sys.join("fs/cgroup"));
    let sysctl = |key: &str| number(&proc.join("sys").join(key));
    let usable = |kind: &str| {
        let exists = proc.join("self/ns").join(kind).symlink_metadata().is_ok();
        exists && sysctl(&format!("user/max_{kind}_namespaces")) != Some(0)
    };
    let namespaces = NAMESPACES.into_iter().filter(|kind| usable(kind)).map(str::to_owned).collect();
    let files = text(&proc.join("sys/fs/file-nr")).ok().and_then(|line| {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
        Some((numbers.next()?, numbers.nth(1)?))
    });
    Kernel {
        cgroup_v2,
        controllers,
        namespaces,
        release: release(proc),
        seccomp_actions: text(&proc.join("sys/kernel/seccomp/actions_avail")).ok(),
        landlock: landlock::version(),
        peers: peers(),
        ip_forward: sysctl("net/ipv4/ip_forward").map(|value| value != 0),
        conntrack: sysctl("net/netfilter/nf_conntrack_count").zip(sysctl("net/netfilter/nf_conntrack_max")),
        entropy: sysctl("kernel/random/entropy_avail"),
        suid_dumpable: sysctl("fs/suid_dumpable"),
        files,
        memory_available: memory(proc),
    }
}

fn release(proc: &Path) -> Option<(u32, u32)> {
    let text = text(&proc.join("sys/kernel/osrelease")).ok()?;
    let mut numbers = text.split(['.', '-']).map(|number| number.trim().parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn cgroups(top: &Path) -> (bool, BTreeSet<String>) {
    if let Ok(words) = text(&top.join("cgroup.controllers")) {
        return (true, words.split_whitespace().map(str::to_owned).collect());
    }
    let mounted = ["pids", "memory"].into_iter().filter(|name| top.join(name).join("cgroup.procs").exists());
    (false, mounted.map(str::to_owned).collect())
}

fn peers() -> Read<()> {
    let (one, _other) = std::os::unix::net::UnixStream::pair().map_err(|error| error.to_string())?;
    let seen = PeerEvidence::of(&one).map_err(|error| error.to_string())?;
    if seen.is_alive() { Ok(()) } else { Err("a live process is shown as ended".into()) }
}

fn memory(proc: &Path) -> Option<u64> {
    let table = text(&proc.join("meminfo")).ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}
