//! A Unix socket's file, and whether it is still there: who removes it leaves a listener that nobody finds.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// The file that a socket was bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl SocketFile {
    /// The file that is at `path` now, just bound by the caller.
    pub fn bound(path: &Path) -> io::Result<Self> {
        let found = path.symlink_metadata()?;
        if !found.file_type().is_socket() {
            return Err(io::Error::other("it is not a socket"));
        }
        Ok(Self { path: path.to_owned(), file: (found.dev(), found.ino()) })
    }

    /// False when the path names nothing, or something else. What cannot be looked at counts as there.
    pub fn is_there(&self) -> bool {
        match self.path.symlink_metadata() {
            Ok(found) => (found.dev(), found.ino()) == self.file,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_file_that_was_removed_or_replaced_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _first = UnixListener::bind(&path).unwrap();
        let file = SocketFile::bound(&path).unwrap();
        assert!(file.is_there());
        let moved = folder.path().join("moved");
        std::fs::rename(&path, &moved).unwrap();
        assert!(!file.is_there());
        let _second = UnixListener::bind(&path).unwrap();
        assert!(!file.is_there(), "another socket");
        std::fs::rename(&moved, &path).unwrap();
        assert!(file.is_there());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(!file.is_there(), "no socket");
        assert!(SocketFile::bound(&path).is_err());
    }
}
