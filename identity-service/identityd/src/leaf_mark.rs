//! Number of changes of the leaf tokens in this boot, kept where no backup reaches: in `/run`, which ends with the
//! boot.
//!
//! An older copy of the state has tokens that were used since. Put back in the same boot, it is behind this mark; put back
//! in another, it names another boot ([`edgewarden_decisions::leaves::LeafTokens::of_run`]).

use std::io;
use std::path::PathBuf;

use edgewarden_platform::durable;

const FILE: &str = "leaf-tokens";
const FILE_BYTES_MAX: usize = 128;
const FILE_MODE: u32 = 0o600;

/// The mark's file, for one boot.
#[derive(Debug)]
pub struct LeafMark {
    path: PathBuf,
    boot: String,
}

impl LeafMark {
    /// The mark in the folder `run`, for the boot with this name.
    pub fn new(run: &std::path::Path, boot: &str) -> Self {
        Self { path: run.join(FILE), boot: boot.into() }
    }

    /// `None` when nothing is known of this boot.
    pub fn read(&self) -> Option<u64> {
        let bytes = durable::read(&self.path, FILE_BYTES_MAX).ok()??;
        let (boot, changes) = std::str::from_utf8(&bytes).ok()?.trim_end().split_once(' ')?;
        if boot == self.boot { changes.parse().ok() } else { None }
    }

    /// Puts the number of changes on the disk.
    pub fn write(&self, changes: u64) -> io::Result<()> {
        durable::write(&self.path, format!("{} {changes}\n", self.boot).as_bytes(), FILE_MODE)
    }
}
