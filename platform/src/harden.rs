//! What every daemon does first.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// No program that this process starts gains privileges (set-user-ID, file capabilities), for good.
pub fn no_new_privs() -> io::Result<()> {
    Ok(prctl::set_no_new_privs()?)
}

/// Memory, and the keys in it, goes neither into a core file nor to a debugger of the same user.
pub fn no_core_dumps() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(prctl::set_dumpable(false)?)
}

/// Whether the calling thread is the only one: what it takes from itself is then taken from the whole process. False
/// when the kernel does not say.
pub fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}
