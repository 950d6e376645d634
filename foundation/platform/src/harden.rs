//! Limits that every daemon puts on its own process at its start.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that connections do not take: those of the process's own files.
const RESERVED_FILES: u64 = 256;

static OPEN_FILES: OnceLock<u64> = OnceLock::new();

/// No program that this process starts gains privileges (set-user-ID, file capabilities), for good.
pub fn no_new_privs() -> io::Result<()> {
    Ok(prctl::set_no_new_privs()?)
}

/// Memory, and the keys in it, goes neither into a core file nor to a debugger of the same user.
pub fn no_core_dumps() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(prctl::set_dumpable(false)?)
}

/// Lets the process have `wanted` files open, or as many as its hard limit allows. Returns how many.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = wanted.min(hard).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, most, hard)?;
    Ok(*OPEN_FILES.get_or_init(|| most))
}

/// `true` when a new connection's descriptor is one of the last `RESERVED_FILES`, which are for the process's own
/// files: the kernel gives the lowest number that is free, so all others are in use. A process that is out of
/// descriptors can write no state.
pub fn is_reserved(connection: &impl AsRawFd) -> bool {
    // Looked up once: a daemon may ask for its limits only before it is confined.
    let most =
        *OPEN_FILES.get_or_init(|| getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft));
    let reserved = RESERVED_FILES.min(most / 4);
    u64::try_from(connection.as_raw_fd()).is_ok_and(|number| number >= most.saturating_sub(reserved))
}

/// `true` when the calling thread is the only one: what it takes from itself is then taken from the whole process.
/// `false` when the kernel does not say.
pub fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}
