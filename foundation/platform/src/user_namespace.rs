//! User namespaces: one that no process lives in, as the map of users for a mount (mount_setattr(2), `MOUNT_ATTR_IDMAP`),
//! and limits in that of another process.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sched::{CloneFlags, clone};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};

use crate::process::Process;

/// A range of users and groups of this machine, as the 0 and up of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserRange {
    pub first: u32,
    pub count: u32,
}

/// The namespace; it lives as long as its descriptor or a mount that goes by it.
#[derive(Debug)]
pub struct UserNamespace(pub(crate) OwnedFd);

const STACK_BYTES: usize = 64 * 1024;

/// A number of the kernel's objects that the users of a namespace may have together, by its file in /proc/sys/user.
#[derive(Debug, Clone, Copy)]
pub struct ObjectLimit {
    pub file: &'static CStr,
    /// Decimal.
    pub value: &'static [u8],
}

/// Sets limits in the user namespace of a process. What its users have counts for whoever made the namespace too, so that
/// without a limit of its own one namespace can use up what all others have. Blocks for a moment.
pub fn limit_objects(process: &Process, limits: &[ObjectLimit]) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{}/ns/user", process.pid()))?;
    // Opened while it lived, so it is not that of another process with its number.
    if !process.is_alive() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the process is gone"));
    }
    let (number, limits) = (namespace.as_raw_fd(), limits.to_vec());
    let mut stack = vec![0; STACK_BYTES];
    let child = Box::new(move || {
        #[expect(
            unsafe_code,
            clippy::multiple_unsafe_ops_per_block,
            reason = "a child of many threads may make system calls only"
        )]
        // SAFETY: plain system calls on numbers and on memory that this process has a copy of.
        unsafe {
            if libc::setns(number, libc::CLONE_NEWUSER) != 0 {
                return 1;
            }
            for limit in &limits {
                let file = libc::open(limit.file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                let written = libc::write(file, limit.value.as_ptr().cast(), limit.value.len());
                if usize::try_from(written) != Ok(limit.value.len()) {
                    return 1;
                }
            }
        }
        0
    });
    // SAFETY: the child makes system calls on its copy of our memory and ends; the stack outlives the call.
    #[expect(unsafe_code, reason = "a process with threads cannot enter a user namespace by itself")]
    let pid = unsafe { clone(child, &mut stack, CloneFlags::empty(), Some(Signal::SIGCHLD as i32)) }?;
    match waitpid(pid, None) {
        // Whoever adopts orphans may have seen its end first.
        Ok(WaitStatus::Exited(_, 0)) | Err(_) => Ok(()),
        Ok(_) => Err(io::Error::other("the limits of a user namespace cannot be set")),
    }
}

impl UserNamespace {
    /// Users and groups of `range`. Needs CAP_SETUID and CAP_SETGID. Blocks for a moment.
    pub fn of(range: UserRange) -> io::Result<Self> {
        let (mut wait, release) = io::pipe()?;
        let mut stack = vec![0; STACK_BYTES];
        let (waiting, releasing) = (wait.as_raw_fd(), release.as_raw_fd());
        let child = Box::new(move || {
            // Its copy of the other end would keep it waiting for ever.
            #[expect(
                unsafe_code,
                clippy::multiple_unsafe_ops_per_block,
                reason = "a child of many threads may make system calls only"
            )]
            // SAFETY: plain system calls on numbers, in a process of its own whose memory is a copy.
            unsafe {
                libc::close(releasing);
                let mut byte = 0u8;
                libc::read(waiting, (&raw mut byte).cast(), 1);
                libc::_exit(0)
            }
        });
        // SAFETY: the child makes three system calls on its copy of our memory and ends; the stack outlives the call.
        #[expect(unsafe_code, reason = "a process with threads cannot enter a new user namespace by itself")]
        let pid =
            unsafe { clone(child, &mut stack, CloneFlags::CLONE_NEWUSER, Some(Signal::SIGCHLD as i32)) }?;
        let namespace = Self::map(pid.as_raw(), range);
        drop(release);
        // Whoever adopts orphans may have seen its end first.
        let _ended = waitpid(pid, None);
        // Nobody writes: it is there to be read by the child.
        drop(wait.read(&mut []));
        namespace.map(Self)
    }

    fn map(pid: i32, range: UserRange) -> io::Result<OwnedFd> {
        for table in ["uid_map", "gid_map"] {
            let mut file = File::options().write(true).open(format!("/proc/{pid}/{table}"))?;
            file.write_all(format!("0 {} {}\n", range.first, range.count).as_bytes())?;
        }
        File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::mount_for_users;
    use nix::sched::unshare;
    use std::os::unix::fs::{MetadataExt as _, chown};

    #[test]
    fn files_of_a_folder_belong_to_the_range() {
        let (source, target) = (tempfile::tempdir_in("/var/tmp").unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(source.path().join("web"), "").unwrap();
        chown(source.path().join("web"), Some(33), Some(33)).unwrap();
        let range = UserRange { first: 0x7000_0000, count: 65_536 };
        let users = UserNamespace::of(range).unwrap();
        let seen = std::thread::scope(|scope| {
            let mounted = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
                let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
                nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
                mount_for_users(source.path(), target.path(), &users, true).unwrap();
                let refused = std::fs::write(target.path().join("new"), "").unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
                std::fs::metadata(target.path().join("web")).map(|found| (found.uid(), found.gid())).unwrap()
            });
            mounted.join().unwrap()
        });
        assert_eq!(seen, (0x7000_0021, 0x7000_0021));
    }
}
