//! A daemon as a process: its user, its program, and the rights that it took away from itself.

use std::path::{Path, PathBuf};

use super::{Read, text};

/// Process at the other end of a Unix socket (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub pid: i32,
    pub uid: u32,
}

/// One daemon's process, from /proc. `None` where the kernel does not say.
#[derive(Debug, Clone, Default)]
pub struct Daemon {
    /// Reason for which it does not answer; `None` when it does.
    pub error: Option<String>,
    /// The process that listens on its socket, by the kernel's word.
    pub peer: Option<Peer>,
    /// `/proc/<pid>/exe`; the kernel adds ` (deleted)` for a file that was replaced.
    pub program: Option<PathBuf>,
    /// Its groups, supplementary ones too.
    pub groups: Vec<u32>,
    pub no_new_privs: Option<bool>,
    /// 2 under a filter.
    pub seccomp: Option<u32>,
    /// Largest core file in bytes; `u64::MAX` without a limit.
    pub core_bytes: Option<u64>,
}

impl Daemon {
    /// Reads the `exe`, `status` and `limits` of `peer` beneath `proc`; empty without a peer.
    pub fn look(proc: &Path, peer: Option<Peer>) -> Self {
        let Some(peer) = peer else { return Self::default() };
        let folder = proc.join(peer.pid.to_string());
        let status = text(&folder.join("status"));
        let limits = text(&folder.join("limits"));
        let value = |key: &str| field(&status, key);
        let groups = value("Groups:").unwrap_or_default();
        let gid = value("Gid:").and_then(|words| words.split_whitespace().nth(1)).unwrap_or_default();
        Self {
            error: None,
            peer: Some(peer),
            program: std::fs::read_link(folder.join("exe")).ok(),
            groups: groups.split_whitespace().chain([gid]).filter_map(|group| group.parse().ok()).collect(),
            no_new_privs: value("NoNewPrivs:").map(|value| value.trim() == "1"),
            seccomp: value("Seccomp:").and_then(|value| value.trim().parse().ok()),
            core_bytes: field(&limits, "Max core file size").and_then(|words| {
                match words.split_whitespace().next()? {
                    "unlimited" => Some(u64::MAX),
                    number => number.parse().ok(),
                }
            }),
        }
    }
}

fn field<'a>(table: &'a Read<String>, key: &str) -> Option<&'a str> {
    table.as_ref().ok()?.lines().find_map(|line| line.strip_prefix(key))
}
