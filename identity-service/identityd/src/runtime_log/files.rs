//! The runtime log's files: whole lines, oldest first, bounded by rotation.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use edgewarden_evidence::runtime_log::RuntimeLog;
use edgewarden_platform::durable::{self, AppendFile};

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// A full file is closed at this size, plus what is written at once.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const FILES_MAX: usize = 4;
/// Most names that are looked at.
const FILES_READ_MAX: usize = 64;

pub(super) struct Files {
    folder: PathBuf,
    file: AppendFile,
}

impl Files {
    /// Opens the log in `folder`, or begins one. A line that a crash cut off was never extended; it is removed.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, RuntimeLog)> {
        std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
        let paths = paths(folder)?;
        let last = paths.last().map_or_else(|| folder.join(name(1)), |(_, path)| path.clone());
        let bytes = read(&paths)?;
        let (lines, torn) = durable::whole_lines(&bytes);
        let log = RuntimeLog::parse(lines).map_err(io::Error::other)?;
        let mut file = AppendFile::open(&last, FILE_MODE)?;
        if !torn.is_empty() {
            file.truncate(file.length().saturating_sub(torn.len() as u64))?;
        }
        Ok((Self { folder: folder.to_owned(), file }, log))
    }

    /// All lines that are on the disk.
    pub(super) fn text(folder: &Path) -> io::Result<Vec<u8>> {
        read(&paths(folder)?)
    }

    pub(super) fn is_full(&self) -> bool {
        self.file.length() >= FILE_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.file.length() == 0
    }

    /// Puts whole lines on the disk.
    pub(super) fn append(&mut self, lines: &str) -> io::Result<()> {
        self.file.append(lines.as_bytes())
    }

    /// Begins the file of which line `first` is the first, and removes the oldest of too many.
    pub(super) fn rotate(&mut self, first: u64) -> io::Result<()> {
        self.file = AppendFile::open(&self.folder.join(name(first)), FILE_MODE)?;
        let paths = paths(&self.folder)?;
        for (_, old) in paths.iter().take(paths.len().saturating_sub(FILES_MAX)) {
            durable::remove(old)?;
        }
        Ok(())
    }
}

fn name(first: u64) -> String {
    format!("runtime-{first:020}.log")
}

/// By the numbers of their first lines, oldest first.
fn paths(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name();
        let number = file.to_str().and_then(|name| name.strip_prefix("runtime-")?.strip_suffix(".log"));
        let first = number.and_then(|number| number.parse().ok()).filter(|first| *file == *name(*first));
        if let Some(first) = first {
            found.push((first, entry.path()));
        }
        if found.len() > FILES_READ_MAX {
            return Err(io::Error::other(format!("more than {FILES_READ_MAX} files")));
        }
    }
    found.sort();
    Ok(found)
}

fn read(paths: &[(u64, PathBuf)]) -> io::Result<Vec<u8>> {
    let limit = usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX).saturating_mul(2);
    let mut bytes = Vec::new();
    for (_, path) in paths {
        bytes.extend(durable::read(path, limit)?.ok_or(io::ErrorKind::NotFound)?);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_evidence::runtime_log::{Entry, Record, Start, Why};

    #[test]
    fn a_torn_line_goes_and_files_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let (mut value, mut sequence) = ([0; 32], 0);
        let (mut files, log) = Files::open(folder.path()).unwrap();
        assert_eq!(log.end(), None);
        for _ in 0..FILES_MAX + 3 {
            sequence += 1;
            if sequence > 1 {
                files.rotate(sequence).unwrap();
            }
            let why = if sequence == 1 { Why::Boot } else { Why::Rotated };
            let start = Start { why, pcr: 15, value, previous: value, resets: 1, restarts: 0 };
            let entry = Entry::new(sequence, Record::Start(start)).unwrap();
            files.append(&entry.line()).unwrap();
            value = edgewarden_evidence::runtime_log::extend(&value, &entry.digest);
        }
        let whole = Files::text(folder.path()).unwrap();
        files.append("8 event kind=mod").unwrap();
        drop(files);
        let (_, log) = Files::open(folder.path()).unwrap();
        assert_eq!(log.end(), Some(value));
        assert_eq!(Files::text(folder.path()).unwrap(), whole);
        assert_eq!(log.entries().len(), FILES_MAX);
        // A file out of the middle is missed.
        durable::remove(&folder.path().join(name(5))).unwrap();
        assert!(Files::open(folder.path()).is_err());
    }
}
