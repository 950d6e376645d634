//! A disk that loses power: an ext4 file system on a loop device over a file that this process serves by FUSE.
//!
//! Data that was not synced is held apart, sector by sector. A cut keeps a random part of it and forgets the rest, as
//! the cache of a real disk does; what was synced stays.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};

use super::random::Random;
use crate::process::{run, wait_for};
use crate::{Failure, ensure};

/// As disks of today write: all of it or nothing.
const SECTOR: usize = 4096;
const FILE: &str = "disk";
const FILE_INODE: INodeNo = INodeNo(2);
/// Nothing but this file changes, and nothing behind the kernel's back.
const UNCHANGED: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct Medium {
    /// Data that survives everything.
    kept: Vec<u8>,
    /// Sectors written since the last sync, by number.
    unsynced: BTreeMap<usize, [u8; SECTOR]>,
    /// The power is about to go: what is written may still arrive, but no sync ends.
    failing: bool,
    /// Without power every write is lost, and every sync fails.
    dark: bool,
}

impl Medium {
    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let end = offset.saturating_add(length).min(self.kept.len());
        let mut bytes = self.kept.get(offset..end).unwrap_or_default().to_vec();
        for (number, sector) in self.unsynced.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let start = number * SECTOR;
            for (at, byte) in sector.iter().enumerate() {
                if let Some(place) = (start + at).checked_sub(offset).and_then(|at| bytes.get_mut(at)) {
                    *place = *byte;
                }
            }
        }
        bytes
    }

    fn write(&mut self, offset: usize, data: &[u8]) -> bool {
        if offset.saturating_add(data.len()) > self.kept.len() {
            return false;
        }
        if self.dark {
            return true;
        }
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (number, within) = (at / SECTOR, at % SECTOR);
            let (now, later) = rest.split_at(rest.len().min(SECTOR - within));
            let mut sector = [0; SECTOR];
            sector.copy_from_slice(&self.read(number * SECTOR, SECTOR));
            if let Some(place) = sector.get_mut(within..within + now.len()) {
                place.copy_from_slice(now);
            }
            self.unsynced.insert(number, sector);
            at += now.len();
            rest = later;
        }
        true
    }

    fn keep(&mut self, number: usize, sector: &[u8; SECTOR]) {
        if let Some(place) = self.kept.get_mut(number * SECTOR..(number + 1) * SECTOR) {
            place.copy_from_slice(sector);
        }
    }

    fn sync(&mut self) -> bool {
        if self.dark || self.failing {
            return false;
        }
        for (number, sector) in std::mem::take(&mut self.unsynced) {
            self.keep(number, &sector);
        }
        true
    }

    /// Gives the numbers of sectors that were kept and forgotten.
    fn cut(&mut self, random: &mut Random) -> (usize, usize) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let all = unsynced.len();
        // Sometimes nearly everything, sometimes nearly nothing.
        let percent = random.below(101);
        let mut kept = 0;
        for (number, sector) in unsynced {
            if random.below(100) < percent {
                self.keep(number, &sector);
                kept += 1;
            }
        }
        self.dark = true;
        (kept, all - kept)
    }
}

type Shared = Arc<Mutex<Medium>>;

fn lock(medium: &Shared) -> MutexGuard<'_, Medium> {
    medium.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Served(Shared);

impl Served {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let folder = inode == INodeNo::ROOT;
        let size = if folder { 0 } else { lock(&self.0).kept.len() as u64 };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if folder { FileType::Directory } else { FileType::RegularFile },
            perm: if folder { 0o755 } else { 0o600 },
            nlink: if folder { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == FILE {
            reply.entry(&UNCHANGED, &self.attributes(FILE_INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&UNCHANGED, &self.attributes(inode));
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&UNCHANGED, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (Ok(offset), Ok(size)) = (usize::try_from(offset), usize::try_from(size)) else {
            return reply.error(Errno::EINVAL);
        };
        reply.data(&lock(&self.0).read(offset, size));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (Ok(offset), Ok(written)) = (usize::try_from(offset), u32::try_from(data.len())) else {
            return reply.error(Errno::EINVAL);
        };
        if lock(&self.0).write(offset, data) { reply.written(written) } else { reply.error(Errno::ENOSPC) }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if lock(&self.0).sync() { reply.ok() } else { reply.error(Errno::EIO) }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// A file system that can lose power, be full and fail. Goes with its last holder.
pub struct Disk {
    medium: Shared,
    /// Folder of the served file.
    below: PathBuf,
    mounted: PathBuf,
    session: Option<BackgroundSession>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("mounted", &self.mounted).finish_non_exhaustive()
    }
}

impl Disk {
    /// A new ext4 file system of so many MiB, mounted at `at`; `below` is a folder for the disk itself. Both are made.
    pub fn new(below: &Path, at: &Path, mebibytes: usize) -> Result<Self, Failure> {
        fs::create_dir_all(below)?;
        fs::create_dir_all(at)?;
        let medium = Shared::default();
        lock(&medium).kept = vec![0; mebibytes << 20];
        let session = fuser::spawn_mount(Served(medium.clone()), below, &Config::default())?;
        let disk = Self { medium, below: below.into(), mounted: at.into(), session: Some(session) };
        // The journal's checksums tell a torn commit from a whole one.
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]);
        run(make.arg(below.join(FILE)))?.ok()?;
        disk.mount()?;
        // A folder that is not the product's own is in the way of what wants an empty one.
        fs::remove_dir(at.join("lost+found"))?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), Failure> {
        // `loop` makes the device go with the mount.
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop,errors=remount-ro"]);
        run(mount.arg(self.below.join(FILE)).arg(&self.mounted))?.ok()?;
        fs::set_permissions(&self.mounted, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(())
    }

    /// Takes the power away: what is written from here on is lost. Gives the numbers of unsynced sectors that were
    /// kept and forgotten.
    pub fn cut(&self, random: &mut Random) -> (usize, usize) {
        lock(&self.medium).failing = true;
        // What the kernel holds in memory is on its way to the disk in that moment, in any order. It fails, of course.
        let _ = fs::File::open(&self.mounted).map(nix::unistd::syncfs);
        lock(&self.medium).cut(random)
    }

    /// Ends what is mounted, gives the power back and mounts what is left. Whoever had files open must be gone.
    pub fn power_on(&self) -> Result<(), Failure> {
        for beneath in mounts_beneath(&self.mounted)? {
            run(Command::new("umount").args(["-l"]).arg(beneath))?.ok()?;
        }
        wait_for("the disk to be let go", Duration::from_secs(20), || {
            let umount = run(Command::new("umount").arg(&self.mounted))?;
            ensure(umount.status.success() || umount.stderr.contains("not mounted"), || umount.stderr.clone())
        })?;
        wait_for("the loop device to end", Duration::from_secs(20), || {
            let loops = run(Command::new("losetup").arg("-j").arg(self.below.join(FILE)))?.ok()?;
            ensure(loops.trim().is_empty(), || loops.clone())
        })?;
        {
            let mut medium = lock(&self.medium);
            (medium.failing, medium.dark) = (false, false);
        }
        self.mount()
    }

    /// Has the kernel do as when a disk reports an error: the file system is read-only until it is mounted again.
    pub fn fail(&self) -> Result<(), Failure> {
        let mut find = Command::new("findmnt");
        let source = run(find.args(["-n", "-o", "SOURCE", "--mountpoint"]).arg(&self.mounted))?.ok()?;
        let device = source.trim().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "chaos")?;
        Ok(())
    }

    /// Fills the disk to its last block.
    pub fn fill(&self) -> Result<(), Failure> {
        use std::io::Write as _;
        let mut file = fs::File::create(self.mounted.join(FILLER))?;
        for size in [1 << 20, 4096, 1] {
            let piece = vec![0x5a; size];
            while file.write_all(&piece).is_ok() {}
        }
        Ok(())
    }

    pub fn make_room(&self) -> Result<(), Failure> {
        Ok(fs::remove_file(self.mounted.join(FILLER))?)
    }
}

const FILLER: &str = "filler";

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").args(["-R", "-l"]).arg(&self.mounted));
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

/// Mount points beneath a folder, the innermost first.
pub fn mounts_beneath(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let folder = fs::canonicalize(folder)?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut beneath: Vec<_> = points.filter(|point| point.starts_with(&folder) && *point != folder).collect();
    beneath.reverse();
    Ok(beneath)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_stays_and_the_rest_is_anybodys_guess() {
        let mut medium = Medium { kept: vec![0; 64 * SECTOR], ..Medium::default() };
        assert!(medium.write(100, &vec![1; 20_000]));
        assert_eq!(medium.read(99, 3), [0, 1, 1]);
        assert_eq!(medium.read(20_099, 2), [1, 0]);
        assert!(medium.sync());
        for number in 0..64 {
            assert!(medium.write(number * SECTOR, &[2; SECTOR]));
        }
        assert!(!medium.write(63 * SECTOR, &[3; SECTOR + 1]), "beyond the end");
        let (kept, forgotten) = medium.cut(&mut Random::new(1));
        assert_eq!(kept + forgotten, 64);
        let twos = (0..64).filter(|number| medium.read(number * SECTOR, 1) == [2]).count();
        assert_eq!(twos, kept);
        assert!(medium.write(0, &[9; SECTOR]) && !medium.sync(), "without power");
        assert_ne!(medium.read(0, 1), [9]);
        // What a cut forgot is as it was synced.
        let old: Vec<_> = (1..4).filter(|number| medium.read(number * SECTOR, 1) != [2]).collect();
        assert!(old.iter().all(|number| medium.read(number * SECTOR, 1) == [1]));
    }
}
