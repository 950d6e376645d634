//! The most connections that this machine bears, by its file descriptors and its memory.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::places::Limits;

/// Handshakes, enrolments, and whoever says nothing.
const STRANGERS: usize = 1024;
/// A line's share of them.
const LINES: usize = 4;
const OPERATORS: usize = 64;
/// A gateway's process uses a few at a time; the rest are those that it lost and the server has not missed yet.
const PER_GATEWAY: usize = 16;
/// Of the dashboard, of the command line's socket, of the bundle's endpoint.
const SMALL_LISTENERS: usize = 3;
const SMALL: usize = 256;
/// Descriptors for everything but connections: without them nothing could be stored.
const DESCRIPTORS_KEPT: usize = 256;
/// Memory of a held request with TLS, its buffers and its report, rounded up.
const CONNECTION_BYTES: u64 = 64 * 1024;
/// Memory in bytes that is taken for the machine's when `/proc/meminfo` does not say it.
const MEMORY_UNKNOWN: u64 = 1 << 30;

/// The places of the listener for gateways and operators. `asked` gateways' connections at most, if that is given.
pub fn main(asked: Option<usize>) -> Limits {
    let descriptors = descriptors();
    let gateways = gateways(descriptors, memory());
    Limits {
        strangers: strangers(descriptors),
        strangers_per_source: strangers(descriptors) / LINES,
        operators: OPERATORS,
        gateways: asked.map_or(gateways, |asked| asked.min(gateways)),
        per_gateway: PER_GATEWAY,
    }
}

/// The places of a listener that no gateway comes to. `per_source` of one line.
pub fn small(per_source: usize) -> Limits {
    Limits {
        strangers: SMALL - OPERATORS,
        strangers_per_source: per_source.min(SMALL - OPERATORS),
        operators: OPERATORS,
        gateways: 0,
        per_gateway: 0,
    }
}

fn strangers(descriptors: usize) -> usize {
    STRANGERS.min(descriptors / LINES)
}

fn gateways(descriptors: usize, memory: u64) -> usize {
    let others = strangers(descriptors) + OPERATORS + SMALL_LISTENERS * SMALL + DESCRIPTORS_KEPT;
    // The other half is the database's and the system's.
    let bears = usize::try_from(memory / 2 / CONNECTION_BYTES).unwrap_or(usize::MAX);
    descriptors.saturating_sub(others).min(bears).max(PER_GATEWAY)
}

/// Raises the limit on open files as far as this process may.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, hard)| {
        if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft }
    });
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// The memory of the machine, or of the control group when that is less.
fn memory() -> u64 {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let info = read("/proc/meminfo");
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let all = kilobytes.map_or(MEMORY_UNKNOWN, |kilobytes| kilobytes.saturating_mul(1024));
    let own = read("/proc/self/cgroup");
    let group = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let most = read(&format!("/sys/fs/cgroup{}/memory.max", group.trim_end_matches('/')));
    most.trim().parse().map_or(all, |most: u64| most.min(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_bears_what_its_descriptors_and_its_memory_bear() {
        for (descriptors, memory, expected) in [
            (1 << 20, 16 << 30, 131_072),
            (1 << 20, 1 << 30, 8192),
            (524_288, 256 << 30, 524_288 - 2112),
            (4096, 16 << 30, 4096 - 2112),
            (2048, 16 << 30, 448),
            (1024, 16 << 30, PER_GATEWAY),
            (1 << 20, 0, PER_GATEWAY),
        ] {
            assert_eq!(gateways(descriptors, memory), expected, "{descriptors} {memory}");
        }
        assert!(main(Some(3)).gateways <= 3);
        assert!(main(None).gateways > 0 && descriptors() > 0 && memory() > 0);
    }
}
