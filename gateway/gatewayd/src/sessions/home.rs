//! Detection of sessions that are not where they were written, but an older copy that somebody unpacked: then their
//! clients may have subscribed to more since.
//!
//! A file that names itself, by its inode and when that was made: a copy of it names the original. What resumes a whole
//! disk, as a snapshot of a virtual machine does, keeps both; the fleet may find that out.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::UNIX_EPOCH;

use edgewarden_platform::durable;

const NAME: &str = "home";
const BYTES_MAX: usize = 128;

fn name_of(file: &File) -> io::Result<String> {
    let found = file.metadata()?;
    // Not every file system knows it.
    let made = found.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    Ok(format!("v1 {} {}\n", found.ino(), made.map_or(0, |made| made.as_nanos())))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    Original,
    Copy,
    /// It says nothing of itself.
    Unmarked,
}

impl Home {
    /// Blocks.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let path = folder.join(NAME);
        let Some(written) = durable::read(&path, BYTES_MAX)? else { return Ok(Self::Unmarked) };
        let original = written == name_of(&File::open(&path)?)?.into_bytes();
        Ok(if original { Self::Original } else { Self::Copy })
    }
}

/// Says that this is the original from now on. On disk when it returns.
pub(super) fn settle(folder: &Path) -> io::Result<()> {
    let (path, new) = (folder.join(NAME), folder.join("home.new"));
    durable::remove(&new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let name = name_of(&file)?;
    file.write_all(name.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_from_the_original() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        std::fs::create_dir(&one).unwrap();
        assert_eq!(Home::of(&one).unwrap(), Home::Unmarked);
        settle(&one).unwrap();
        std::fs::rename(&one, &other).unwrap();
        assert_eq!(Home::of(&other).unwrap(), Home::Original, "moved");
        std::fs::create_dir(&one).unwrap();
        std::fs::copy(other.join(NAME), one.join(NAME)).unwrap();
        assert_eq!(Home::of(&one).unwrap(), Home::Copy);
        settle(&one).unwrap();
        settle(&one).unwrap();
        assert_eq!((Home::of(&one).unwrap(), Home::of(&other).unwrap()), (Home::Original, Home::Original));
        std::fs::write(one.join(NAME), "").unwrap();
        assert_eq!(Home::of(&one).unwrap(), Home::Copy, "damaged");
    }
}
