//! The root file system of an instance: the unpacked image, which all its instances share and nobody writes, and over it
//! what this instance writes, in memory, until its end (overlayfs).
//!
//! ```text
//! <run>/roots/<instance>/image    the image, mounted for the module's users, read-only
//!                       /written  tmpfs: what the overlay keeps
//!                       /root     both together; the module's user 0 owns the folders above it
//! ```
//!
//! The OCI runtime enters it as the module's own user, so every folder above must let others pass; nobody but root and
//! that user passes the last one.

use std::fs::{DirBuilder, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use edgewarden_platform::mounts::mount_for_users;
use edgewarden_platform::user_namespace::{UserNamespace, UserRange};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

use crate::error::RunError;

/// Room for mount points, `/run` and what an image declares as written, beside what the deployment allows.
const OWN_BYTES: u64 = 16 * 1024 * 1024;
/// Files that may be written.
const FILES_MAX: u64 = 65_536;
/// Parts below an instance's folder, in the order of mounting.
const PARTS: [&str; 3] = ["image", "written", "root"];

/// Mounts the root file system; what an earlier attempt left under this name is replaced. Blocks.
pub fn make(folder: &Path, image: &Path, users: UserRange, writable_bytes: u64) -> Result<PathBuf, RunError> {
    remove(folder)?;
    passable(folder)?;
    let what = || RunError::io(format!("mount the root file system in `{}`", folder.display()));
    DirBuilder::new().mode(0o700).create(folder).map_err(what())?;
    chown(folder, Some(users.first), Some(users.first)).map_err(what())?;
    let [image_at, written, root] = PARTS.map(|part| folder.join(part));
    for part in [&image_at, &written, &root] {
        DirBuilder::new().mode(0o700).create(part).map_err(what())?;
    }
    let namespace = UserNamespace::of(users).map_err(RunError::io("make the module's user namespace"))?;
    mount_for_users(image, &image_at, &namespace, true).map_err(|error| match error.raw_os_error() {
        Some(nix::libc::EINVAL | nix::libc::ENOSYS) => RunError::Runtime(format!(
            "the kernel cannot mount `{}` for a module's users: it takes Linux 5.19, and a file system such as ext4, XFS or \
             btrfs",
            image.display()
        )),
        _ => what()(error),
    })?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let size = format!("size={},nr_inodes={FILES_MAX},mode=700", writable_bytes.saturating_add(OWN_BYTES));
    mount(Some("tmpfs"), &written, Some("tmpfs"), flags, Some(size.as_str()))
        .map_err(|error| what()(error.into()))?;
    let (upper, work) = (written.join("upper"), written.join("work"));
    for part in [&upper, &work] {
        DirBuilder::new().mode(0o755).create(part).map_err(what())?;
        // The umask must not decide whether the module gets in.
        std::fs::set_permissions(part, Permissions::from_mode(0o755)).map_err(what())?;
        chown(part, Some(users.first), Some(users.first)).map_err(what())?;
    }
    let mut options = Vec::new();
    for (key, path) in [("lowerdir", &image_at), ("upperdir", &upper), ("workdir", &work)] {
        let separator: &[u8] = if options.is_empty() { b"" } else { b"," };
        options.extend([separator, key.as_bytes(), b"="].concat());
        options.extend(escaped(path));
    }
    mount(Some("overlay"), &root, Some("overlay"), flags, Some(options.as_slice()))
        .map_err(|error| what()(error.into()))?;
    Ok(root)
}

/// Makes a folder of a mounted root file system, and those above it that are missing, for the module's user 0. Links lead
/// where they lead in the container.
pub fn make_folder(root: &Path, place: &str, users: UserRange) -> std::io::Result<()> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let root = std::fs::File::open(root)?;
    let mut above = openat2(&root, ".", how)?;
    let mut so_far = PathBuf::new();
    for part in Path::new(place.trim_start_matches('/')).components() {
        so_far.push(part);
        above = match openat2(&root, &so_far, how) {
            Ok(found) => found,
            Err(Errno::ENOENT) => {
                mkdirat(&above, part.as_os_str(), Mode::from_bits_truncate(0o755))?;
                let made = openat2(&root, &so_far, how)?;
                let path = format!("/proc/self/fd/{}", made.as_raw_fd());
                chown(&path, Some(users.first), Some(users.first))?;
                std::fs::set_permissions(&path, Permissions::from_mode(0o755))?;
                made
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(())
}

/// Commas and colons mean something in the options of an overlay.
fn escaped(path: &Path) -> Vec<u8> {
    let escape = |byte: &u8| if b",:\\".contains(byte) { vec![b'\\', *byte] } else { vec![*byte] };
    path.as_os_str().as_bytes().iter().flat_map(escape).collect()
}

/// Lets others pass through the folder of all root file systems, and refuses when they cannot reach it.
fn passable(folder: &Path) -> Result<(), RunError> {
    for above in folder.ancestors().skip(1) {
        let mode = above.metadata().map_err(RunError::io(format!("look at `{}`", above.display())))?;
        if mode.permissions().mode() & 0o001 == 0 {
            return Err(RunError::Config(format!(
                "modules run as users of their own, who must be able to pass through `{0}`: run `chmod o+x {0}`",
                above.display()
            )));
        }
    }
    Ok(())
}

/// Unmounts and removes what [`make`] made; that there is nothing is no error. Blocks.
pub fn remove(folder: &Path) -> Result<(), RunError> {
    let what = || RunError::io(format!("unmount what is in `{}`", folder.display()));
    for part in PARTS.iter().rev() {
        // More than one mount lies here when a crash came between two attempts.
        while umount2(&folder.join(part), MntFlags::MNT_DETACH).is_ok() {}
        match std::fs::remove_dir(folder.join(part)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(what()(error)),
            _ => {}
        }
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(what()(error)),
        _ => Ok(()),
    }
}
