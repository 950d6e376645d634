//! The file systems beneath the state folders.
//!
//! Only writing tells that one can be written: a disk that has failed is often not mounted read-only until somebody
//! writes. So a few bytes go into a file without a name (`O_TMPFILE`), which is gone when it is closed; where the
//! file system has no such files, into one with a name, which is removed.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use edgewarden_protocol::layout::Layout;
use nix::sys::statfs::statfs;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::Read;

const LOG_FILES_MAX: usize = 4096;

/// One file system, by statfs(2) and a write. `bytes` and `inodes` are the totals.
#[derive(Debug, Clone)]
pub struct Volume {
    pub folder: PathBuf,
    pub bytes_free: u64,
    pub bytes: u64,
    pub inodes_free: u64,
    /// 0 for a file system that counts none.
    pub inodes: u64,
    pub read_only: bool,
    /// Outcome of writing a few bytes to the disk.
    pub written: Read<()>,
    /// `statfs(2)`'s `f_type`.
    pub kind: i64,
}

/// Facts about the file systems beneath the state folders.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// Of each state folder, or of what it will be made in.
    pub volumes: Vec<Read<Volume>>,
    /// Bytes of all logs of modules.
    pub log_bytes: u64,
}

/// Looks at each state folder's file system, writing a few bytes to it. Nothing of them stays.
pub async fn gather(layout: &Layout) -> Disk {
    let layout = layout.clone();
    // A file system that hangs must not hang the rest.
    let gathered = tokio::task::spawn_blocking(move || {
        let folders =
            [layout.identity_state(), layout.gateway_state(), layout.runtime_state(), layout.logs()];
        Disk {
            volumes: folders.iter().map(|folder| volume(folder)).collect(),
            log_bytes: logs(&layout.logs()),
        }
    });
    gathered.await.unwrap_or_default()
}

fn volume(folder: &Path) -> Read<Volume> {
    let place = folder.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("/"));
    let failed =
        |error: nix::Error| format!("cannot look at the file system of `{}`: {error}", place.display());
    let space = statvfs(place).map_err(failed)?;
    let kind = statfs(place).map_err(failed)?.filesystem_type().0;
    let block = space.fragment_size();
    Ok(Volume {
        folder: folder.to_path_buf(),
        bytes_free: space.blocks_available().saturating_mul(block),
        bytes: space.blocks().saturating_mul(block),
        inodes_free: space.files_available(),
        inodes: space.files(),
        read_only: space.flags().contains(FsFlags::ST_RDONLY),
        written: probe(place).map_err(|error| format!("what is written does not come to the disk: {error}")),
        kind: kind as i64,
    })
}

fn probe(folder: &Path) -> io::Result<()> {
    const PROBE: [u8; 4096] = [0x65; 4096];
    let mut options = File::options();
    options.write(true).mode(0o600).custom_flags(nix::libc::O_TMPFILE);
    let (mut file, named) = match options.open(folder) {
        Ok(file) => (file, None),
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::EOPNOTSUPP | nix::libc::EISDIR)) => {
            let path = folder.join(format!(".edgewarden-doctor-{}", std::process::id()));
            (File::options().write(true).create_new(true).mode(0o600).open(&path)?, Some(path))
        }
        Err(error) => return Err(error),
    };
    let written = file.write_all(&PROBE).and_then(|()| file.sync_all());
    named.map_or(Ok(()), std::fs::remove_file).and(written)
}

fn logs(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().take(LOG_FILES_MAX);
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}
