//! Files that are there whole or not at all, after a crash or a power cut too.
//!
//! A document is written to a temporary file in its own folder, synced, renamed over its name, and the folder is
//! synced. A writer that dies leaves at most a temporary file, which nobody reads and [`sweep`] removes.
//! Trusts that nobody else may write in the folder (state folders have mode 0700).

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::crash_points::{Step, before};

const TEMPORARY_SUFFIX: &str = ".ew-tmp";

/// The lines of an appended file that are whole, and the rest that a crash or a running writer leaves without an end.
pub fn whole_lines(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at.saturating_add(1));
    bytes.split_at(end)
}

/// Puts `bytes` in the place of the file at `path`, with exactly the permissions `mode`.
///
/// When it returns, the new contents are on the disk; when it fails, the old ones are still there, or the new ones if
/// only the folder could not be synced.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_with(path, |temporary| write_new(temporary, bytes, mode).map(drop))
}

/// The same for a file that is there, which keeps its owner and its permissions: for root, who mends a daemon's file.
/// The daemon's user may change names in the folder meanwhile, so what is given away is the open file and no name.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let old = std::fs::symlink_metadata(path)?;
    if !old.is_file() {
        return Err(invalid(path, "is not a regular file"));
    }
    write_with(path, |temporary| {
        let file = write_new(temporary, bytes, old.mode() & 0o7777)?;
        // Before it has the name. The mode may be lost with the owner (chown(2)), and it is not wider than the old one.
        std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        file.sync_all()
    })
}

fn write_with(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = write(&temporary).and_then(|()| {
        before(Step::Rename { from: &temporary, to: path })?;
        std::fs::rename(&temporary, path)
    });
    if written.is_err() {
        // The first error is the one to report; what cannot be removed now is swept later.
        drop(before(Step::Remove(&temporary)).and_then(|()| std::fs::remove_file(&temporary)));
    }
    written?;
    sync_folder_of(path)
}

/// The contents of the file at `path`, or `None` when there is none. A file above `bytes_max` is an error.
pub fn read(path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    // Without O_NONBLOCK a FIFO in the file's place would hang the reader.
    let file =
        match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
    if !file.metadata()?.is_file() {
        return Err(invalid(path, "is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(invalid(path, &format!("has more than {bytes_max} bytes")));
    }
    Ok(Some(bytes))
}

/// Removes the file at `path` for good. That there is none is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    before(Step::Remove(path))?;
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder_of(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes what writers that died left in `folder`; a daemon calls it once, before it writes anything there.
/// Returns how many files went.
pub fn sweep(folder: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b".") && name.as_bytes().ends_with(TEMPORARY_SUFFIX.as_bytes()) {
            before(Step::Remove(&entry.path()))?;
            std::fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A name that no other writer of this folder uses: `.<name>.<pid>.<count>.ew-tmp`.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| invalid(path, "names no file"))?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.{count}{TEMPORARY_SUFFIX}", std::process::id()));
    Ok(path.with_file_name(temporary))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    // A writer with our pid that died may have left a file of this name.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    before(Step::Create(path))?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode & 0o600).open(path)?;
    before(Step::Write { path, bytes })?;
    file.write_all(bytes)?;
    // The umask has narrowed the mode at creation; this sets it exactly.
    file.set_permissions(Permissions::from_mode(mode))?;
    before(Step::Sync(path))?;
    file.sync_all()?;
    Ok(file)
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    before(Step::SyncFolder(folder))?;
    File::open(folder)?.sync_all()
}

/// A file that only grows, each piece on the disk before [`AppendFile::append`] returns. One writer.
#[derive(Debug)]
pub struct AppendFile {
    file: File,
    path: PathBuf,
    length: u64,
    /// Set when a failed write could not be undone: nothing is appended before somebody looks at the file anew.
    broken: bool,
}

impl AppendFile {
    /// Opens the file at `path` at its end, or makes it with permissions `mode`.
    pub fn open(path: &Path, mode: u32) -> io::Result<Self> {
        let there = path.symlink_metadata().is_ok();
        if !there {
            before(Step::Create(path))?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(mode)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(invalid(path, "is not a regular file"));
        }
        // The file's name must outlive a power cut as what is in it does. A file that is there may have been made by a
        // process that died before it got here.
        sync_folder_of(path)?;
        Ok(Self { file, path: path.to_path_buf(), length: metadata.len(), broken: false })
    }

    /// Path of the file that is appended to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes, without what could not be appended.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Puts `bytes` at the end. When this fails, the file is as it was, or nothing more is ever appended here.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed and could not be undone"));
        }
        if let Err(error) = self.append_synced(bytes) {
            self.broken = self.truncate(self.length).is_err();
            return Err(error);
        }
        self.length = self.length.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Sees to it that so many more bytes find room, as far as the file system can. Nothing shows in the file.
    pub fn allocate_ahead(&self, bytes: u64) -> io::Result<()> {
        let (Ok(from), Ok(bytes)) = (i64::try_from(self.length), i64::try_from(bytes)) else { return Ok(()) };
        Ok(fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, bytes)?)
    }

    fn append_synced(&mut self, bytes: &[u8]) -> io::Result<()> {
        before(Step::Write { path: &self.path, bytes })?;
        self.file.write_all(bytes)?;
        before(Step::Sync(&self.path))?;
        self.file.sync_data()
    }

    /// Takes off what is behind `length`.
    pub fn truncate(&mut self, length: u64) -> io::Result<()> {
        before(Step::Truncate { path: &self.path, length })?;
        self.file.set_len(length)?;
        before(Step::Sync(&self.path))?;
        self.file.sync_all()?;
        self.length = length;
        Ok(())
    }
}

fn invalid(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("`{}` {what}", path.display()))
}
