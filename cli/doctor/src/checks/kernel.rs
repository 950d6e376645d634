//! Checks of the kernel's features and resources.

use super::words::{not_running, size};
use crate::check::{Check, Finding};
use crate::facts::{Facts, NAMESPACES};

/// Version of Linux in which overlayfs takes an ID-mapped mount below.
const MOUNTS_FOR_USERS: (u32, u32) = (5, 19);
const NOT_SHOWN: &str = "the kernel does not show it";

/// Checks of the area `kernel`: features and resources.
pub const CHECKS: &[Check] = &[
    Check {
        id: "kernel.cgroup_pids",
        title: "modules' processes can be counted and limited (cgroup controller `pids`)",
        remedy: "cgroup v2: `echo +pids > /sys/fs/cgroup/cgroup.subtree_control`; else boot with `systemd.unified_cgroup_hierarchy=1`",
        run: |facts| controller(facts, "pids"),
    },
    Check {
        id: "kernel.cgroup_memory",
        title: "modules' memory can be limited (cgroup controller `memory`)",
        remedy: "boot with `cgroup_enable=memory` (Raspberry Pi OS has it off); cgroup v2: `echo +memory > /sys/fs/cgroup/cgroup.subtree_control`",
        run: |facts| controller(facts, "memory"),
    },
    Check {
        id: "kernel.namespaces",
        title: "modules can have namespaces of their own",
        remedy: "`sysctl user.max_net_namespaces=1024` (and the others that the message names), or a kernel with them",
        run: namespaces,
    },
    Check {
        id: "kernel.mounts_for_users",
        title: "images can be mounted for users of their own (ID-mapped mounts beneath overlayfs)",
        remedy: "use Linux 5.19 or later; no module starts otherwise",
        run: |facts| match facts.kernel.release {
            None => Finding::skip(NOT_SHOWN),
            Some(release) if release < MOUNTS_FOR_USERS => {
                Finding::fail(format!("Linux {}.{} is older", release.0, release.1))
            }
            Some(release) => Finding::pass(format!("Linux {}.{}", release.0, release.1)),
        },
    },
    Check {
        id: "kernel.seccomp",
        title: "system calls can be filtered",
        remedy: "use a kernel with CONFIG_SECCOMP_FILTER",
        run: seccomp,
    },
    Check {
        id: "kernel.landlock",
        title: "daemons can give up files and ports (Landlock, version 5 or later)",
        remedy: "boot with `lsm=landlock,…` on Linux 6.10 or later; without it the daemons run with one wall less",
        run: landlock,
    },
    Check {
        id: "kernel.peers",
        title: "the process at the other end of a socket can be told for certain",
        remedy: "use Linux 6.5 or later with /proc mounted; no module gets a certificate otherwise",
        run: |facts| match &facts.kernel.peers {
            Ok(()) => Finding::pass("by its pidfd"),
            Err(why) => Finding::fail(why.clone()),
        },
    },
    Check {
        id: "kernel.nftables",
        title: "the kernel takes packet filter rules",
        remedy: "`modprobe nf_tables`, or a kernel with CONFIG_NF_TABLES_INET",
        run: |facts| match &facts.programs.tables {
            None => Finding::skip("there is no `nft`"),
            Some(Ok(tables)) => Finding::pass(format!("{} tables", tables.lines().count())),
            Some(Err(why)) => Finding::fail(why.clone()),
        },
    },
    Check {
        id: "kernel.ip_forward",
        title: "packets are forwarded between modules",
        remedy: "`sysctl net.ipv4.ip_forward=1`; find out who turned it off, for runtimed turns it on",
        run: ip_forward,
    },
    Check {
        id: "kernel.conntrack",
        title: "the connection table has room",
        remedy: "`sysctl net.netfilter.nf_conntrack_max=262144`",
        run: |facts| match facts.kernel.conntrack {
            None => Finding::skip("connections are not tracked"),
            Some((used, max)) => room(used, max, "connections tracked"),
        },
    },
    Check {
        id: "kernel.files",
        title: "files can still be opened",
        remedy: "`sysctl fs.file-max=1000000`; see who holds them with `lsof`",
        run: |facts| match facts.kernel.files {
            None => Finding::skip(NOT_SHOWN),
            Some((used, max)) => room(used, max, "files open"),
        },
    },
    Check {
        id: "kernel.memory",
        title: "there is memory for one more module (64 MiB)",
        remedy: "see who holds it with `ps -eo rss,comm --sort=-rss`, or give modules less in the deployment",
        run: memory,
    },
    Check {
        id: "kernel.entropy",
        title: "the random number generator is seeded",
        remedy: "`apt install rng-tools5`, or wait: keys made before it is seeded can be guessed",
        run: entropy,
    },
    Check {
        id: "kernel.core_dumps",
        title: "programs that changed their user leave no core file",
        remedy: "`sysctl fs.suid_dumpable=0`",
        run: |facts| match facts.kernel.suid_dumpable {
            None => Finding::skip(NOT_SHOWN),
            Some(1) => {
                Finding::fail("`fs.suid_dumpable` is 1: memory of privileged programs is left in files")
            }
            Some(value) => Finding::pass(format!("`fs.suid_dumpable` is {value}")),
        },
    },
];

fn controller(facts: &Facts, name: &str) -> Finding {
    let mode = if facts.kernel.cgroup_v2 { "cgroup v2" } else { "cgroup v1" };
    if facts.kernel.controllers.contains(name) {
        Finding::pass(mode)
    } else {
        Finding::fail(format!("{mode} has no controller `{name}`"))
    }
}

fn namespaces(facts: &Facts) -> Finding {
    let has = |kind: &&str| facts.kernel.namespaces.contains(*kind);
    let missing: Vec<&str> = NAMESPACES.into_iter().filter(|kind| !has(kind)).collect();
    if missing.is_empty() {
        Finding::pass(NAMESPACES.join(", "))
    } else {
        Finding::fail(format!("there are none of these, or none may be made: {}", missing.join(", ")))
    }
}

fn seccomp(facts: &Facts) -> Finding {
    match &facts.kernel.seccomp_actions {
        None => Finding::fail("the kernel has no seccomp filters"),
        Some(actions) => {
            // What our filters answer with.
            let missing: Vec<&str> = ["errno", "allow"]
                .into_iter()
                .filter(|wanted| !actions.split_whitespace().any(|a| a == *wanted))
                .collect();
            if missing.is_empty() {
                Finding::pass(actions.trim())
            } else {
                Finding::fail(format!("a filter cannot answer with {}", missing.join(", ")))
            }
        }
    }
}

fn landlock(facts: &Facts) -> Finding {
    match facts.kernel.landlock {
        0 => Finding::warn("the kernel has no Landlock, or it is off"),
        version @ 1..=4 => Finding::warn(format!("the kernel knows version {version} only")),
        version => Finding::pass(format!("version {version} or later")),
    }
}

fn ip_forward(facts: &Facts) -> Finding {
    if facts.daemons.runtime.is_none() {
        return not_running("runtimed");
    }
    match facts.kernel.ip_forward {
        Some(true) => Finding::pass("`net.ipv4.ip_forward` is 1"),
        Some(false) => Finding::fail("`net.ipv4.ip_forward` is 0: no module reaches another"),
        None => Finding::fail("the kernel has no `net.ipv4.ip_forward`"),
    }
}

fn room(used: u64, max: u64, what: &str) -> Finding {
    let said = format!("{used} of {max} {what}");
    if used >= max.saturating_sub(max / 20) {
        Finding::fail(said)
    } else if used >= max.saturating_sub(max / 5) {
        Finding::warn(said)
    } else {
        Finding::pass(said)
    }
}

const MEMORY_MIN: u64 = 64 << 20;

fn memory(facts: &Facts) -> Finding {
    match facts.kernel.memory_available {
        None => Finding::skip(NOT_SHOWN),
        Some(free) if free < MEMORY_MIN => Finding::warn(format!("{} are left", size(free))),
        Some(free) => Finding::pass(format!("{} are left", size(free))),
    }
}

/// Bits of entropy that an AES-256 key needs, and that Linux 5.18 and later show once seeded.
const ENTROPY_MIN: u64 = 256;

fn entropy(facts: &Facts) -> Finding {
    match facts.kernel.entropy {
        None => Finding::skip(NOT_SHOWN),
        Some(bits) if bits < ENTROPY_MIN => Finding::fail(format!("it has {bits} bits of {ENTROPY_MIN}")),
        Some(bits) => Finding::pass(format!("{bits} bits")),
    }
}
