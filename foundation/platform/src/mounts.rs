//! A container's mounts: whether each is still what it was ([`MountTable`]), and writing to a file system that it has
//! mounted read-only ([`writable_view`]); a folder mounted for the users of a container ([`mount_for_users`]).
//!
//! The mount is the container's: it lives and dies with it, whatever becomes of the process that made it, and of that
//! process's own mount namespace. What is written goes through a second mount of the same file system, which is in no
//! namespace and so can be seen by nobody but who holds its descriptor (open_tree(2), `OPEN_TREE_CLONE`; Linux 5.12 for
//! mount_setattr(2)).
//!
//! Trusts the kernel. Distrusts the container: the place must lie in a mount namespace that is not ours.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::process::Process;
use crate::user_namespace::UserNamespace;

/// linux/mount.h
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
/// linux/magic.h; `libc` does not name it.
const RAMFS_MAGIC: libc::c_long = 0x8584_58f6;

/// linux/mount.h: `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Mounts of one container are a few dozen lines.
const TABLE_BYTES_MAX: u64 = 1024 * 1024;

/// The mounts of a process's namespace (proc_pid_mountinfo(5)), and the news that they changed.
#[derive(Debug)]
pub struct MountTable {
    file: AsyncFd<File>,
}

impl MountTable {
    /// Must be called in a tokio runtime.
    pub fn of(process: &Process) -> io::Result<Self> {
        let table = Self::open(&format!("/proc/{}/mountinfo", process.pid()))?;
        // Opened while it lived, so it is not that of another process with its number.
        if process.is_alive() {
            Ok(table)
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "the process is gone"))
        }
    }

    /// Of this process.
    pub fn own() -> io::Result<Self> {
        Self::open("/proc/self/mountinfo")
    }

    fn open(path: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the registration owns the file, which stays open and the same until it is dropped.
        #[expect(unsafe_code, reason = "tokio has no other way to watch a descriptor that is not a socket")]
        let file = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY | Interest::ERROR) }?;
        Ok(Self { file })
    }

    /// Returns when something was mounted, unmounted or remounted since the last time. Cancel-safe.
    pub async fn changed(&self) -> io::Result<()> {
        self.file.ready(Interest::PRIORITY | Interest::ERROR).await?.clear_ready();
        Ok(())
    }

    /// A line for each mount, sorted: what of the file system, where, how, and its type. The rest differs from boot to
    /// boot, or is the file system's own.
    pub fn read(&self) -> io::Result<String> {
        let mut file = self.file.get_ref();
        file.rewind()?;
        let mut text = String::new();
        file.take(TABLE_BYTES_MAX).read_to_string(&mut text)?;
        let mut lines: Vec<String> = text.lines().filter_map(mount_line).collect();
        lines.sort();
        Ok(lines.join("\n"))
    }
}

/// `36 35 98:0 /root /place rw,noatime shared:1 - ext4 /dev/root rw,errors=continue`
fn mount_line(line: &str) -> Option<String> {
    let (before, after) = line.split_once(" - ")?;
    let fields: Vec<&str> = before.split(' ').collect();
    let (root, place, options) = (fields.get(3)?, fields.get(4)?, fields.get(5)?);
    Some(format!("{place} {options} {root} {}", after.split(' ').next()?))
}

/// The root folder of the file system in memory that the process has mounted at `place`, open for writing beneath. Blocks.
pub fn writable_view(process: &Process, place: &Path) -> io::Result<OwnedFd> {
    let namespace = File::open(format!("/proc/{}/ns/mnt", process.pid()))?;
    // Opened while it lived, so it is not that of another process with its number.
    if !process.is_alive() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the process is gone"));
    }
    let (theirs, ours) = (namespace.metadata()?, std::fs::metadata("/proc/self/ns/mnt")?);
    if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
        return Err(io::Error::other("the process has no mount namespace of its own"));
    }
    let place = CString::new(place.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // A thread of its own, which ends there: it cannot come back.
    let entered = std::thread::scope(|scope| scope.spawn(|| enter_and_clone(&namespace, &place)).join());
    let view = entered.unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))?;
    let kind = fstatfs(&view)?.filesystem_type();
    if kind != TMPFS_MAGIC && kind != FsType(RAMFS_MAGIC as _) {
        return Err(io::Error::other("what is mounted there is not in memory"));
    }
    make_writable(&view)?;
    Ok(view)
}

fn enter_and_clone(namespace: &File, place: &CString) -> io::Result<OwnedFd> {
    // Threads share root and working folder, and who shares them cannot enter another mount namespace.
    unshare(CloneFlags::CLONE_FS)?;
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    clone_of(place)
}

/// A mount of what is at `place`, in no namespace.
fn clone_of(place: &CStr) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: open_tree(2) takes integers and one string, which lives until the call returns.
    #[expect(unsafe_code, reason = "neither nix nor libc has open_tree")]
    let result = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, place.as_ptr(), flags) };
    let fd = RawFd::try_from(Errno::result(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us; nothing else owns it.
    #[expect(unsafe_code, reason = "takes ownership of a descriptor that came from a raw system call")]
    let view = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(view)
}

fn make_writable(view: &OwnedFd) -> io::Result<()> {
    set_attributes(view, &MountAttr { set: 0, clear: MOUNT_ATTR_RDONLY, propagation: 0, user_namespace: 0 })
}

/// Mounts the folder `source` at the folder `target` so that user and group n of its file system are n of `users`.
/// Without set-user-ID bits and devices; `read_only` as asked. Linux 5.12 for ext4, XFS and btrfs, 6.3 for tmpfs.
pub fn mount_for_users(
    source: &Path,
    target: &Path,
    users: &UserNamespace,
    read_only: bool,
) -> io::Result<()> {
    let path = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (source, target) = (path(source)?, path(target)?);
    let tree = clone_of(&source)?;
    let namespace = u64::try_from(users.0.as_raw_fd()).map_err(io::Error::other)?;
    let read_only = if read_only { MOUNT_ATTR_RDONLY } else { 0 };
    let set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | read_only;
    set_attributes(
        &tree,
        &MountAttr { set, clear: 0, propagation: libc::MS_PRIVATE, user_namespace: namespace },
    )?;
    // SAFETY: move_mount(2) takes integers and two strings, which live until the call returns.
    #[expect(unsafe_code, reason = "neither nix nor libc has move_mount")]
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop)?;
    Ok(())
}

fn set_attributes(view: &OwnedFd, attributes: &MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: mount_setattr(2) reads an empty string and a structure of the size that is given; both outlive the call.
    #[expect(unsafe_code, reason = "neither nix nor libc has mount_setattr")]
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            view.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    Errno::result(result).map(drop)?;
    Ok(())
}
