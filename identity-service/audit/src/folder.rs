//! The files of a log in their folder, or in a copy of it.

use std::io;
use std::path::{Path, PathBuf};

use edgewarden_platform::durable;
use edgewarden_protocol::control::AuditEntry;

use crate::chain::Chain;
use crate::query::Query;
use crate::verify::{Broken, Report, Verifier};

/// A full file is closed at this size, plus the line that fills it.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
pub const FILES_MAX: usize = 4;
/// Most files that are looked at: a running writer has one more than it keeps, and an operator may keep copies.
const FILES_READ_MAX: usize = 1024;
/// Files may be rotated away while they are read.
const ATTEMPTS: usize = 3;

/// Error of reading a folder's log.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot read `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("there is no audit log in `{}`", .0.display())]
    None(PathBuf),
    #[error(transparent)]
    Broken(#[from] Broken),
}

pub(super) fn file_name(first: u64) -> String {
    format!("audit-{first:020}.jsonl")
}

fn first_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    let digits = number.len() == 20 && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| digits)
}

/// The log's files by the numbers of their first entries, oldest first.
pub(super) fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(first) = entry.file_name().to_str().and_then(first_of) {
            found.push((first, entry.path()));
        }
        if found.len() > FILES_READ_MAX {
            return Err(io::Error::other(format!("more than {FILES_READ_MAX} audit files")));
        }
    }
    found.sort();
    Ok(found)
}

/// One file's bytes; `None` when it is gone.
pub(super) fn read(path: &Path, file_bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    // One line longer than the mark is let in before a file is closed.
    durable::read(path, usize::try_from(file_bytes_max).unwrap_or(usize::MAX).saturating_mul(2))
}

/// Gives each file to `take`, oldest first; again from the start with a fresh `T` when one was rotated away meanwhile.
fn walk<T>(
    folder: &Path,
    start: impl Fn() -> T,
    mut take: impl FnMut(&mut T, &str, u64, &[u8]) -> Result<(), Broken>,
) -> Result<T, FolderError> {
    let io_error = |path: &Path, source| FolderError::Io { path: path.into(), source };
    for _ in 0..ATTEMPTS {
        let mut state = start();
        let paths = files(folder).map_err(|source| io_error(folder, source))?;
        if paths.is_empty() {
            return Err(FolderError::None(folder.into()));
        }
        let mut whole = true;
        for (first, path) in &paths {
            let bytes = read(path, FILE_BYTES_MAX).map_err(|source| io_error(path, source))?;
            let Some(bytes) = bytes else {
                whole = false;
                break;
            };
            take(&mut state, &file_name(*first), *first, &bytes)?;
        }
        if whole {
            return Ok(state);
        }
    }
    Err(io_error(folder, io::Error::other("its files are rotated away faster than they can be read")))
}

/// Judges the log in a folder.
pub fn verify(folder: &Path, verifier: impl Fn() -> Verifier) -> Result<Report, FolderError> {
    let verifier = walk(folder, verifier, Verifier::file)?;
    Ok(verifier.finish()?)
}

/// The newest entries that a query picks, oldest first. Checks the chain and not the signatures.
pub fn query(folder: &Path, query: &Query) -> Result<Vec<AuditEntry>, FolderError> {
    let start = || (Chain::default(), query.picked());
    let (_, picked) = walk(folder, start, |(chain, picked), name, _, bytes| {
        let (lines, _) = durable::whole_lines(bytes);
        for (index, text) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let broken = |problem| Broken { file: name.to_owned(), line: index.saturating_add(1), problem };
            picked.offer(chain.follow(text).map_err(broken)?);
        }
        Ok(())
    })?;
    Ok(picked.into_entries())
}
