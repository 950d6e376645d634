//! A process that keeps the end of what one instance prints.
//!
//! It reads a pipe that the module cannot rewind, truncate or read the past from, and that has a reader for as long as the
//! module lives, whatever happens to `runtimed`. It reads even when it cannot write: a full disk costs lines, which are
//! counted and told of, and never makes a module wait. It gives up everything but the folder of the logs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use edgewarden_names::ModuleName;
use edgewarden_platform::capabilities::keep_only;
use edgewarden_platform::harden;
use edgewarden_platform::landlock::confine_files;
use edgewarden_platform::seccomp::{Allowed, Sockets, serve};

use crate::logs;

/// Two files of this size are a module's share of the disk.
pub const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A longer line is cut into lines.
const LINE_BYTES_MAX: usize = 16 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

/// Reads standard input to its end. Call it in a process of its own, while that has one thread.
pub fn run(folder: &Path, module: &ModuleName) -> io::Result<()> {
    // Fails for the leader of a group, who is in nobody's way.
    let _ = nix::unistd::setsid();
    harden::no_new_privs()?;
    harden::no_core_dumps()?;
    let mut log = Log::open(folder, module);
    confine_files(&[], &[folder.to_owned()], &[]).map_err(io::Error::other)?;
    keep_only(&[])?;
    serve(Allowed {
        sockets: Sockets::Unix,
        loads_code: false,
        device_requests: false,
        locks_memory: false,
        asks_clock_state: false,
    })?;
    let mut input = io::stdin().lock();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match input.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => log.keep(chunk.get(..count).ok_or(io::ErrorKind::InvalidData)?),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The two files of a module.
struct Log {
    path: PathBuf,
    older: PathBuf,
    file: Option<File>,
    length: u64,
    /// Of the line that is being written.
    column: usize,
    /// Bytes that could not be written since it was last told.
    lost: u64,
}

impl Log {
    fn open(folder: &Path, module: &ModuleName) -> Self {
        let (path, older) = (logs::path(folder, module), logs::older(folder, module));
        let mut log = Self { path, older, file: None, length: 0, column: 0, lost: 0 };
        log.reopen();
        log
    }

    fn reopen(&mut self) {
        let opened = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&self.path)
            .and_then(|file| Ok((file.metadata()?.len(), file)));
        (self.length, self.file) = opened.map_or((0, None), |(length, file)| (length, Some(file)));
    }

    /// The instance before this one may have moved the file, and an operator may have removed it.
    fn is_current(&self) -> bool {
        let of = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let held = self.file.as_ref().and_then(|file| file.metadata().ok()).map(of);
        held.is_some() && held == self.path.symlink_metadata().ok().map(of)
    }

    fn keep(&mut self, bytes: &[u8]) {
        if !self.is_current() {
            self.reopen();
        }
        if self.lost > 0 {
            let told =
                format!("(edgewarden: {} bytes are missing here, the disk did not take them)\n", self.lost);
            if self.write(told.as_bytes()) {
                self.lost = 0;
            }
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.keep_piece(piece);
        }
    }

    /// At most one line.
    fn keep_piece(&mut self, mut piece: &[u8]) {
        loop {
            let room = LINE_BYTES_MAX.saturating_sub(self.column);
            let ends = piece.ends_with(b"\n");
            if piece.len() <= room || (ends && piece.len() == room.saturating_add(1)) {
                self.put(piece);
                self.column = if ends { 0 } else { self.column.saturating_add(piece.len()) };
                return;
            }
            let (now, rest) = piece.split_at(room);
            self.put(&[now, b"\n"].concat());
            self.column = 0;
            piece = rest;
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        if !self.write(bytes) {
            self.lost = self.lost.saturating_add(bytes.len() as u64);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        let length = self.length.saturating_add(bytes.len() as u64);
        // What cannot be moved is overwritten in the end: the newest lines count.
        if length > LOG_BYTES_MAX {
            let moved = std::fs::rename(&self.path, &self.older);
            if moved.is_err() && self.file.as_ref().is_none_or(|file| file.set_len(0).is_err()) {
                return false;
            }
            self.reopen();
        }
        let Some(file) = &mut self.file else { return false };
        let written = file.write_all(bytes).is_ok();
        // Part of it may be there.
        self.length = file.metadata().map_or(self.length, |metadata| metadata.len());
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs_of(folder: &Path, last: usize) -> Vec<String> {
        logs::tail(folder, &ModuleName::parse("alerts").unwrap(), last).unwrap()
    }

    #[test]
    fn a_log_stays_below_its_cap_and_the_newest_lines_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let module = ModuleName::parse("alerts").unwrap();
        let mut log = Log::open(folder.path(), &module);
        assert!(logs_of(folder.path(), 5).is_empty());
        for line in 0..600_000 {
            log.keep(format!("line {line} of the log\n").as_bytes());
        }
        log.keep(b"after\n");
        for file in [logs::path(folder.path(), &module), logs::older(folder.path(), &module)] {
            assert!(file.metadata().unwrap().len() <= LOG_BYTES_MAX);
        }
        assert_eq!(logs_of(folder.path(), 2), ["line 599999 of the log", "after"]);
        // The next instance's, while this one still says something.
        let mut next = Log::open(folder.path(), &module);
        std::fs::remove_file(logs::path(folder.path(), &module)).unwrap();
        next.keep(b"next\n");
        log.keep(b"last words\n");
        assert_eq!(logs_of(folder.path(), 2), ["next", "last words"]);
        let other = ModuleName::parse("other").unwrap();
        assert_eq!(logs::tail(folder.path(), &other, 2).unwrap(), [""; 0]);
    }

    #[test]
    fn lines_have_a_length() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), &ModuleName::parse("alerts").unwrap());
        for chunk in
            ["x".repeat(LINE_BYTES_MAX), "\n".into(), "y".repeat(2 * LINE_BYTES_MAX + 1), "\nz".into()]
        {
            log.keep(chunk.as_bytes());
        }
        let lengths: Vec<usize> = logs_of(folder.path(), 10).iter().map(String::len).collect();
        assert_eq!(lengths, [LINE_BYTES_MAX, LINE_BYTES_MAX, LINE_BYTES_MAX, 1, 1]);
    }

    #[test]
    fn what_the_disk_does_not_take_is_counted_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), &ModuleName::parse("alerts").unwrap());
        log.keep(b"before\n");
        // A folder in the file's place: nothing can be opened there.
        std::fs::remove_file(&log.path).unwrap();
        std::fs::create_dir(&log.path).unwrap();
        log.keep(b"lost\n");
        log.keep(b"lost too\n");
        std::fs::remove_dir(&log.path).unwrap();
        log.keep(b"after\n");
        let expected = ["(edgewarden: 14 bytes are missing here, the disk did not take them)", "after"];
        assert_eq!(logs_of(folder.path(), 10), expected);
    }
}
