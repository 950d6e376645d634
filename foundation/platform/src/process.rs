//! One process, held by its pidfd, so that its number cannot come to mean another one unnoticed.
//!
//! Everything read from `/proc/<pid>` counts only when the pidfd says that the process was alive before *and* after:
//! as long as it lives, its number cannot be given to another.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `/proc` files that are read here are lines of the kernel's making; a cgroup path is the longest part.
const PROC_BYTES_MAX: u64 = 64 * 1024;

/// A process that was alive when this value was made. Cloning shares the pidfd.
#[derive(Debug, Clone)]
pub struct Process {
    pid: i32,
    started: u64,
    held: Arc<Pidfd>,
}

/// The pidfd of a process, shared by all clones of its [`Process`].
#[derive(Debug)]
struct Pidfd {
    pidfd: OwnedFd,
    /// One for all who wait for its end: however many there are, they cost one descriptor.
    watched: OnceLock<AsyncFd<OwnedFd>>,
}

impl Process {
    /// The process that has the number `pid` now.
    pub fn open(pid: i32) -> io::Result<Self> {
        // Read on both sides of pidfd_open: a process that was replaced in between shows by its start time.
        let before = read_started(pid)?;
        let process = Self::of_pidfd(pid, pidfd_open(pid)?)?;
        if process.started == before { Ok(process) } else { Err(gone(pid)) }
    }

    /// The process that `pidfd` holds, whose number the kernel says is `pid`.
    pub(crate) fn of_pidfd(pid: i32, pidfd: OwnedFd) -> io::Result<Self> {
        if pid <= 0 {
            // The kernel says 0 for a process outside our pid namespace, which has no `/proc` entry here.
            return Err(gone(pid));
        }
        let held = Pidfd { pidfd, watched: OnceLock::new() };
        let mut process = Self { pid, started: 0, held: Arc::new(held) };
        process.started = process.while_alive(read_started)?;
        Ok(process)
    }

    /// Number of the process, which is its own while it lives.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Start time: field 22 of `/proc/<pid>/stat` (clock ticks after boot).
    pub fn started(&self) -> u64 {
        self.started
    }

    /// False once it has exited, also while it waits for its parent (a zombie).
    pub fn is_alive(&self) -> bool {
        let mut polled = [PollFd::new(self.held.pidfd.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut polled, PollTimeout::ZERO) {
                Err(Errno::EINTR) => {}
                // Ready means exited (pidfd_open(2)). Anything unexpected counts as gone.
                ready => return ready == Ok(0),
            }
        }
    }

    /// Its cgroup now: the path in the hierarchy that counts processes (`pids` on v1 and hybrid, else the unified one).
    pub fn cgroup(&self) -> io::Result<String> {
        self.while_alive(read_cgroup)
    }

    /// Returns when it has exited; at once when it has already. Dropping the future has no effect on the process.
    ///
    /// All clones wait in the runtime that the first one waited in; when that one ends, waiting fails.
    pub async fn exited(&self) -> io::Result<()> {
        let watched = if let Some(watched) = self.held.watched.get() {
            watched
        } else {
            let watched = watch(&self.held.pidfd)?;
            self.held.watched.get_or_init(|| watched)
        };
        watched.readable().await.map(drop)
    }

    fn while_alive<T>(&self, read: impl FnOnce(i32) -> io::Result<T>) -> io::Result<T> {
        if !self.is_alive() {
            return Err(gone(self.pid));
        }
        let value = read(self.pid)?;
        if self.is_alive() { Ok(value) } else { Err(gone(self.pid)) }
    }
}

/// Start time (clock ticks after boot) of the process with the number `pid`. For a number that cannot be reused
/// meanwhile (a child not yet waited for); else [`Process::open`].
pub fn started(pid: i32) -> io::Result<u64> {
    Process::open(pid).map(|process| process.started)
}

/// The cgroup of the process with the number `pid`; see [`Process::cgroup`].
pub fn cgroup(pid: i32) -> io::Result<String> {
    Process::open(pid)?.cgroup()
}

/// The kernel's name of this boot, random and never the same (`random(4)`).
pub fn boot() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|name| name.trim().to_owned())
}

fn watch(pidfd: &OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // A descriptor of its own: one descriptor can be watched only once at a time.
    let pidfd = pidfd.try_clone()?;
    // SAFETY: the registration owns the descriptor, which stays open and the same until it is dropped.
    #[expect(unsafe_code, reason = "tokio has no other way to watch a descriptor that is not a socket")]
    let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
    Ok(watched)
}

fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    let no_flags: libc::c_uint = 0;
    // SAFETY: pidfd_open(2) takes two integers and no pointer.
    #[expect(unsafe_code, reason = "neither nix nor std opens a pidfd by number")]
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, no_flags) };
    let fd = RawFd::try_from(Errno::result(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us; nothing else owns it.
    #[expect(unsafe_code, reason = "takes ownership of a descriptor that came from a raw system call")]
    let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(pidfd)
}

fn read_proc(pid: i32, file: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{file}"))
        .map_err(|error| if error.kind() == io::ErrorKind::NotFound { gone(pid) } else { error })?
        .take(PROC_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_started(pid: i32) -> io::Result<u64> {
    // A process chooses its command's bytes (prctl(2), PR_SET_NAME) and must not hide by them.
    let stat = read_proc(pid, "stat")?;
    parse_started(&String::from_utf8_lossy(&stat)).ok_or_else(|| malformed(pid, "stat"))
}

fn read_cgroup(pid: i32) -> io::Result<String> {
    // Two paths that are no UTF-8 could be shown alike, so none is shown.
    let cgroup = String::from_utf8(read_proc(pid, "cgroup")?);
    cgroup.ok().as_deref().and_then(parse_cgroup).ok_or_else(|| malformed(pid, "cgroup"))
}

/// Field 22 (proc_pid_stat(5)). Field 2 is the command in parentheses and may itself hold spaces and parentheses, so
/// fields are counted from the last `)`.
fn parse_started(stat: &str) -> Option<u64> {
    let (_, after_command) = stat.rsplit_once(") ")?;
    after_command.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// Lines are `hierarchy:controllers:path` (cgroups(7)); a path may hold colons.
fn parse_cgroup(text: &str) -> Option<String> {
    let mut unified = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        if controllers.split(',').any(|controller| controller == "pids") {
            return Some(path.to_owned());
        }
        if hierarchy == "0" && controllers.is_empty() {
            unified = Some(path.to_owned());
        }
    }
    unified
}

fn gone(pid: i32) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("process {pid} is gone"))
}

fn malformed(pid: i32, file: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("cannot read `/proc/{pid}/{file}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_counted_from_the_last_parenthesis() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        for (stat, expected) in [
            (format!("7 (sh) {fields}"), Some(4242)),
            (format!("7 (a) S 1 (b c) {fields}"), Some(4242)),
            (format!("7 (x\n) {fields}"), Some(4242)),
            ("7 (sh) S 1 2".to_owned(), None),
            (format!("7 sh {fields}"), None),
            (String::new(), None),
        ] {
            assert_eq!(parse_started(&stat), expected, "{stat:?}");
        }
    }

    #[test]
    fn the_cgroup_is_the_one_that_counts_processes() {
        for (text, expected) in [
            ("0::/a/b\n", Some("/a/b")),
            ("8:pids:/p\n4:memory:/m\n0::/u\n", Some("/p")),
            ("0::/u\n8:cpu,pids:/p\n", Some("/p")),
            ("1:name=systemd:/s\n0::/u:with:colons\n", Some("/u:with:colons")),
            ("3:pidsx:/p\n", None),
            ("1:name=systemd:/s\n", None),
            ("nonsense\n", None),
            ("", None),
        ] {
            assert_eq!(parse_cgroup(text).as_deref(), expected, "{text:?}");
        }
    }
}
