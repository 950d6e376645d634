//! Volumes: folders of a module that outlive its instances, each a file system of its own in one file, so that it can take
//! no more of the disk than it may, whatever the disk's own file system is.
//!
//! ```text
//! <state>/volumes/<module>/<name>.ext4    users and groups in it are the container's own numbers
//! ```
//!
//! A new one is made beside, filled with what the image has at its path, and renamed, so one that is there is whole. The
//! kernel keeps a second mount of the same file on the same loop device, so an old and a new instance may have it at once.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt as _, MetadataExt as _, PermissionsExt as _, lchown, symlink,
};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edgewarden_names::{ModuleName, Reason, Refusal, VolumeName};
use edgewarden_platform::mounts::mount_for_users;
use edgewarden_platform::programs;
use edgewarden_platform::user_namespace::UserNamespace;
use edgewarden_protocol::container::Volume;
use edgewarden_protocol::runtime_console::VolumeStatus;
use nix::mount::{MntFlags, umount2};

use crate::error::RunError;

const SUFFIX: &str = "ext4";
const NEW: &str = ".new-";
const DEPTH_MAX: usize = 64;
/// Wait for an instance that has ended to let its volume go. One that is held longer grows at the next start.
const LET_GO: Duration = Duration::from_secs(5);
const SAID_CHARS_MAX: usize = 500;

/// Folder with the volumes of all modules.
#[derive(Debug, Clone)]
pub struct Volumes {
    folder: PathBuf,
}

impl Volumes {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn of(&self, module: &ModuleName) -> PathBuf {
        self.folder.join(module.as_str())
    }

    fn file(&self, module: &ModuleName, volume: &Volume) -> PathBuf {
        self.of(module).join(format!("{}.{SUFFIX}", volume.name))
    }

    /// All of them, by module and name. Blocks.
    pub fn list(&self) -> Result<Vec<VolumeStatus>, RunError> {
        let what = || RunError::io(format!("read `{}`", self.folder.display()));
        let mut found = Vec::new();
        for module in entries(&self.folder).map_err(what())? {
            let Some(name) = module.file_name().and_then(|name| name.to_str()) else { continue };
            let Ok(module_name) = ModuleName::parse(name) else { continue };
            for file in entries(&module).map_err(what())? {
                let stem =
                    file.extension().is_some_and(|end| end == SUFFIX).then(|| file.file_stem()).flatten();
                let name = stem.and_then(|stem| stem.to_str()).and_then(|stem| VolumeName::parse(stem).ok());
                if let (Some(name), Ok(metadata)) = (name, file.metadata()) {
                    found.push(VolumeStatus {
                        module: module_name.clone(),
                        name,
                        bytes_max: metadata.len(),
                        bytes: metadata.blocks().saturating_mul(512),
                        in_use: is_in_use(&file),
                    });
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes a volume that no instance has. Blocks.
    pub fn remove(&self, module: &ModuleName, volume: &VolumeName) -> Result<Result<(), Refusal>, RunError> {
        let file = self.of(module).join(format!("{volume}.{SUFFIX}"));
        let subject = format!("{module}/{volume}");
        if file.symlink_metadata().is_err() {
            return Ok(Err(Refusal::new(Reason::RequestInvalid, subject, "there is no such volume")));
        }
        if is_in_use(&file) {
            let rule = "a module has it: take the volume or the module out of the deployment first";
            return Ok(Err(Refusal::new(Reason::RequestInvalid, subject, rule)));
        }
        std::fs::remove_file(&file).map_err(RunError::io(format!("remove `{}`", file.display())))?;
        // The folder goes with its last volume.
        drop(std::fs::remove_dir(self.of(module)));
        Ok(Ok(()))
    }

    /// Mounts a volume at `place` for the module's users; a new one has what is in `first`. Blocks.
    pub fn mount(
        &self,
        module: &ModuleName,
        volume: &Volume,
        first: Option<&Path>,
        users: &UserNamespace,
        place: &Path,
    ) -> Result<(), RunError> {
        let file = self.file(module, volume);
        let base = place.with_extension("base");
        let what = || RunError::io(format!("mount the volume `{}`", volume.name));
        for folder in [place, &base] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(what())?;
        }
        if file.symlink_metadata().is_err() {
            self.make(module, volume, first, &base)?;
        } else if !is_in_use(&file) {
            mend(&file)?;
            grow(&file, volume.bytes_max)?;
        }
        mount_file(&file, &base)?;
        let mounted = mount_for_users(&base, place, users, volume.read_only).map_err(what());
        umount2(&base, MntFlags::MNT_DETACH).map_err(|error| what()(error.into()))?;
        std::fs::remove_dir(&base).map_err(what())?;
        mounted
    }

    /// Mounts a volume anew that is smaller than it may be, once the instance is gone that had it when it was mounted. Blocks.
    pub fn mount_larger(
        &self,
        module: &ModuleName,
        volume: &Volume,
        users: &UserNamespace,
        place: &Path,
    ) -> Result<(), RunError> {
        let file = self.file(module, volume);
        if file_system_bytes(&file).map_err(RunError::io(format!("read `{}`", file.display())))?
            >= volume.bytes_max
        {
            return Ok(());
        }
        while umount2(place, MntFlags::MNT_DETACH).is_ok() {}
        let until = Instant::now() + LET_GO;
        // The kernel lets a loop device go a moment after its last mount.
        while is_in_use(&file) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.mount(module, volume, None, users, place)
    }

    fn make(
        &self,
        module: &ModuleName,
        volume: &Volume,
        first: Option<&Path>,
        base: &Path,
    ) -> Result<(), RunError> {
        let what = || RunError::io(format!("make the volume `{}`", volume.name));
        let folder = self.of(module);
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(what())?;
        let new = folder.join(format!("{NEW}{}", volume.name));
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(what()(error)),
            _ => {}
        }
        let file = File::create_new(&new).map_err(what())?;
        file.set_len(volume.bytes_max).map_err(what())?;
        let options = ["-q", "-F", "-m", "0", "-E", "root_owner=0:0"];
        run("mkfs.ext4", "e2fsprogs", &[&options[..], &[&new.to_string_lossy()]].concat(), 0)?;
        mount_file(&new, base)?;
        let filled = fill(base, first);
        umount2(base, MntFlags::empty()).map_err(|error| what()(error.into()))?;
        filled.map_err(what())?;
        file.sync_all().map_err(what())?;
        std::fs::rename(&new, self.file(module, volume)).map_err(what())?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(what())
    }
}

/// What is in a folder; nothing where there is none.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Copies what the image has into a new volume, with its owners.
fn fill(base: &Path, first: Option<&Path>) -> io::Result<()> {
    // A program that finds it in its data folder takes it for somebody's data.
    drop(std::fs::remove_dir(base.join("lost+found")));
    match first {
        Some(first) => copy(first, base, DEPTH_MAX),
        None => std::fs::set_permissions(base, std::fs::Permissions::from_mode(0o755)),
    }
}

fn copy(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    let depth = depth.checked_sub(1).ok_or_else(|| io::Error::other("folders are nested too deeply"))?;
    let own = from.symlink_metadata()?;
    for entry in std::fs::read_dir(from)? {
        let (source, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        let Some(name) = source.file_name() else { continue };
        let target = to.join(name);
        let metadata = source.symlink_metadata()?;
        if kind.is_dir() {
            DirBuilder::new().mode(0o700).create(&target)?;
            copy(&source, &target, depth)?;
        } else if kind.is_symlink() {
            symlink(std::fs::read_link(&source)?, &target)?;
            lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
        } else if kind.is_file() {
            std::fs::copy(&source, &target)?;
            lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
            std::fs::set_permissions(&target, metadata.permissions())?;
        }
    }
    lchown(to, Some(own.uid()), Some(own.gid()))?;
    std::fs::set_permissions(to, own.permissions())
}

/// The same file on the same loop device, however often: `mount` looks for one that has it.
fn mount_file(file: &Path, place: &Path) -> Result<(), RunError> {
    let (file, place) = (file.to_string_lossy(), place.to_string_lossy());
    run("mount", "mount", &["-t", "ext4", "-o", "loop,nosuid,nodev,discard", &file, &place], 0)
}

/// Replays the journal after a power cut, and repairs what can be repaired without asking.
fn mend(file: &Path) -> Result<(), RunError> {
    run("e2fsck", "e2fsprogs", &["-p", &file.to_string_lossy()], 1)
}

/// Gives a volume that nobody has more room. What is cut off in between, the next mount does.
fn grow(file: &Path, bytes_max: u64) -> Result<(), RunError> {
    let what = || RunError::io(format!("let `{}` grow", file.display()));
    if file_system_bytes(file).map_err(what())? >= bytes_max {
        return Ok(());
    }
    if file.metadata().map_err(what())?.len() < bytes_max {
        File::options().write(true).open(file).and_then(|file| file.set_len(bytes_max)).map_err(what())?;
    }
    let path = file.to_string_lossy();
    run("e2fsck", "e2fsprogs", &["-f", "-p", &path], 1)?;
    run("resize2fs", "e2fsprogs", &[&path], 0)
}

/// Size that the file system has in its file, up to one block more (ext4's superblock: `s_blocks_count_lo`,
/// `s_log_block_size`).
fn file_system_bytes(file: &Path) -> io::Result<u64> {
    let mut superblock = [0; 32];
    File::open(file)?.read_exact_at(&mut superblock, 1024)?;
    let number = |at: usize| {
        let bytes = superblock.get(at..at.saturating_add(4)).and_then(|bytes| bytes.try_into().ok());
        u64::from(bytes.map_or(0, u32::from_le_bytes))
    };
    let block = 1024_u64.checked_shl(u32::try_from(number(24)).unwrap_or(0)).unwrap_or(0);
    Ok(number(4).saturating_add(1).saturating_mul(block))
}

/// True while an instance has the file: while a loop device has it (loop(4)).
fn is_in_use(file: &Path) -> bool {
    let blocks = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backing =
        |block: std::fs::DirEntry| std::fs::read_to_string(block.path().join("loop/backing_file")).ok();
    blocks.filter_map(backing).any(|backing| Path::new(backing.trim_end_matches('\n')) == file)
}

fn run(program: &str, package: &str, args: &[&str], status_max: i32) -> Result<(), RunError> {
    let output = Command::new(programs::resolve(program))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| RunError::program(program, package, error))?;
    if output.status.code().is_some_and(|code| code <= status_max) {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said: String = String::from_utf8_lossy(&said).trim().chars().take(SAID_CHARS_MAX).collect();
    Err(RunError::Volume(format!("`{program}` says: {said}")))
}
