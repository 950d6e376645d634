//! A file system of its own, to be filled.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

const BLOCK: u64 = 4096;
const ZEROS: [u8; 4096] = [0; 4096];

/// Unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// At `folder`, which is made.
    pub fn new(folder: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let options = format!("size={bytes}");
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(folder.to_owned())
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Leaves `blocks` blocks of 4 KiB free.
    pub fn fill(&self, blocks: u64) {
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        let mut length = 0;
        while let Ok(written) = file.write(&ZEROS) {
            length += written as u64;
        }
        file.set_len((length / BLOCK * BLOCK).saturating_sub(blocks * BLOCK)).unwrap();
    }

    /// Gives the space back.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
