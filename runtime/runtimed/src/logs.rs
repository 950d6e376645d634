//! What modules print: appended by the module itself to a file, so that it neither waits for this daemon nor ends with
//! it. The daemon keeps the file small: above the cap the text moves to `<module>.log.1`, whose text is dropped.
//!
//! Between the moment of copying and that of cutting, a line may be lost; while the daemon is away nothing is cut.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use edgewarden_names::ModuleName;

use crate::control::LOG_REPLY_BYTES_MAX;

/// Two files of this size are a module's share of the disk.
pub const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;

pub fn path(folder: &Path, module: &ModuleName) -> PathBuf {
    folder.join(format!("{module}.log"))
}

/// The end of the file that a container writes to.
pub fn open(folder: &Path, module: &ModuleName) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path(folder, module))
}

/// Cuts the file when it is over the cap.
pub fn rotate(folder: &Path, module: &ModuleName) -> std::io::Result<()> {
    let path = path(folder, module);
    if path.metadata().is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        let mut old = path.clone().into_os_string();
        old.push(".1");
        // The module appends to whatever the end is: it goes on at the beginning after the cut.
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let start = file.metadata()?.len().saturating_sub(LOG_BYTES_MAX);
        (&file).seek(SeekFrom::Start(start))?;
        let mut kept = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(old)?;
        std::io::copy(&mut (&file).take(LOG_BYTES_MAX), &mut kept)?;
        file.set_len(0)?;
    }
    Ok(())
}

/// The newest `last` lines, from at most [`LOG_REPLY_BYTES_MAX`] bytes.
pub fn tail(folder: &Path, module: &ModuleName, last: usize) -> std::io::Result<Vec<String>> {
    let current = path(folder, module);
    let mut old = current.clone().into_os_string();
    old.push(".1");
    let mut text = end_of(&current)?;
    if (text.len() as u64) < LOG_REPLY_BYTES_MAX {
        let mut earlier = end_of(Path::new(&old))?;
        let room = usize::try_from(LOG_REPLY_BYTES_MAX).unwrap_or(usize::MAX).saturating_sub(text.len());
        earlier.drain(..earlier.len().saturating_sub(room));
        earlier.append(&mut text);
        text = earlier;
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines.iter().skip(lines.len().saturating_sub(last)).map(|line| (*line).to_owned()).collect())
}

fn end_of(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_REPLY_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(LOG_REPLY_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_log_stays_below_its_cap_and_the_newest_lines_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let module = ModuleName::parse("alerts").unwrap();
        let mut writer = open(folder.path(), &module).unwrap();
        assert!(tail(folder.path(), &module, 5).unwrap().is_empty());
        for line in 0..300_000 {
            writeln!(writer, "line {line} of the log").unwrap();
            if line % 10_000 == 0 {
                rotate(folder.path(), &module).unwrap();
            }
        }
        rotate(folder.path(), &module).unwrap();
        writeln!(writer, "after").unwrap();
        assert!(path(folder.path(), &module).metadata().unwrap().len() <= LOG_BYTES_MAX);
        assert_eq!(tail(folder.path(), &module, 2).unwrap(), ["line 299999 of the log", "after"]);
        assert_eq!(tail(folder.path(), &ModuleName::parse("other").unwrap(), 2).unwrap(), [""; 0]);
    }
}
