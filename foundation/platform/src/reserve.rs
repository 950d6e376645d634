//! Disk space that is set aside while there is some, for what must still be written when there is none.
//!
//! A file of zeros whose blocks are allocated. When a write finds the disk full, as much as it needs is given up and the
//! write is tried again at once. Another writer may snatch what was given up: then more is given up, as long as there is
//! any. It is filled up again when the disk has room.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;

const NAME: &str = ".reserve";
/// Bytes given up beyond those to be written: blocks are whole, and names and trees take some too.
const SLACK_BYTES: u64 = 32 * 1024;
/// Space that must be left to others after a refill.
const LEFT_TO_OTHERS_BYTES: u64 = 8 * 1024 * 1024;
const BLOCK_BYTES: u64 = 512;

/// The reserve of one folder. One owner.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    bytes: u64,
    file: Mutex<Option<File>>,
}

impl Reserve {
    /// Sets `bytes` aside in `folder`, or as many as there are. An error is no reason not to start: without a reserve
    /// everything works until the disk is full.
    pub fn claim(folder: &Path, bytes: u64) -> (Self, io::Result<()>) {
        let reserve = Self { path: folder.join(NAME), bytes, file: Mutex::new(None) };
        let claimed = reserve.fill(0);
        (reserve, claimed)
    }

    /// Fills up what was given up, unless others need the room.
    pub fn refill(&self) -> io::Result<()> {
        self.fill(LEFT_TO_OTHERS_BYTES)
    }

    /// Bytes that are set aside now, and how many are meant to be.
    pub fn state(&self) -> (u64, u64) {
        let held = self.held();
        let left =
            held.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |metadata| allocated(&metadata));
        (left.min(self.bytes), self.bytes)
    }

    fn held(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, left_to_others: u64) -> io::Result<()> {
        let mut held = self.held();
        if held.is_none() {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(false).mode(0o600);
            *held = Some(options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&self.path)?);
        }
        let Some(file) = held.as_ref() else { return Ok(()) };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{}` is no file", self.path.display()),
            ));
        }
        let missing = self.bytes.saturating_sub(allocated(&metadata));
        if missing == 0 {
            return Ok(());
        }
        let room = fstatvfs(file)?;
        let free = room.blocks_available().saturating_mul(room.fragment_size());
        // What there is, when it is not all that is wanted: the next refill goes on.
        let take = missing.min(free.saturating_sub(left_to_others));
        let until = allocated(&metadata).saturating_add(take).min(self.bytes);
        let length = i64::try_from(until).map_err(io::Error::other)?;
        if take > 0 && length > 0 {
            fallocate(file, FallocateFlags::empty(), 0, length)?;
            file.sync_all()?;
        }
        Ok(())
    }

    /// Gives up room for `bytes`. False when there is nothing left to give up.
    fn give_up(&self, bytes: u64) -> bool {
        let held = self.held();
        let Some(file) = held.as_ref() else { return false };
        let Ok(metadata) = file.metadata() else { return false };
        let left = allocated(&metadata).min(metadata.len());
        if left == 0 {
            return false;
        }
        let keep = left.saturating_sub(bytes.saturating_add(SLACK_BYTES));
        // The blocks are free for others when the file system has put it down, which fsync(2) waits for.
        file.set_len(keep).and_then(|()| file.sync_all()).is_ok()
    }

    /// Writes, with the reserve's room when the disk has none.
    pub fn write<T>(&self, bytes: usize, mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let wanted = u64::try_from(bytes).unwrap_or(u64::MAX);
        loop {
            match write() {
                Err(error) if is_full(&error) && self.give_up(wanted) => {}
                written => return written,
            }
        }
    }
}

/// Is it the disk that has no room?
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Is it, at the bottom of an error, a disk that has no room or takes no writes?
pub fn is_behind(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An error that answers many callers is shared.
        let shared = error.downcast_ref::<Arc<io::Error>>().map(AsRef::as_ref);
        let io = error.downcast_ref::<io::Error>().or(shared);
        if io.is_some_and(|io| is_full(io) || io.kind() == io::ErrorKind::ReadOnlyFilesystem) {
            return true;
        }
        next = error.source();
    }
    false
}

fn allocated(metadata: &std::fs::Metadata) -> u64 {
    metadata.blocks().saturating_mul(BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_allocated_given_up_and_filled_again() {
        let folder = tempfile::tempdir().unwrap();
        let (reserve, claimed) = Reserve::claim(folder.path(), 1024 * 1024);
        claimed.unwrap();
        assert_eq!(reserve.state(), (1024 * 1024, 1024 * 1024));
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let mut tries = 0;
        let written = reserve.write(100_000, || {
            tries += 1;
            if tries < 3 { Err(full()) } else { Ok(tries) }
        });
        assert_eq!(written.unwrap(), 3);
        let (left, _) = reserve.state();
        assert!((400_000..900_000).contains(&left), "{left}");
        // A write that never succeeds takes all of it, and ends.
        assert!(is_full(&reserve.write(4096, || Err::<(), _>(full())).unwrap_err()));
        assert_eq!(reserve.state().0, 0);
        // Another error costs nothing.
        reserve.refill().unwrap();
        assert_eq!(reserve.state().0, 1024 * 1024);
        let denied = reserve.write(1, || Err::<(), _>(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(denied.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(reserve.state().0, 1024 * 1024);
        drop(reserve);
        let (again, claimed) = Reserve::claim(folder.path(), 1024 * 1024);
        claimed.unwrap();
        assert_eq!(again.state().0, 1024 * 1024, "a later process takes the same file");
    }
}
