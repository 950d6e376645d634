//! Output of modules: read by a process for each instance (`log_pump`) that outlives this daemon, and kept in two files
//! of bounded size. The module has a pipe and no way to the files.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use edgewarden_names::ModuleName;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tokio::process::Command;

use edgewarden_protocol::runtime_console::LOG_REPLY_BYTES_MAX;

/// The file that a module's output is written to.
pub fn path(folder: &Path, module: &ModuleName) -> PathBuf {
    folder.join(format!("{module}.log"))
}

/// The file that the text goes to when the first is full.
pub fn older(folder: &Path, module: &ModuleName) -> PathBuf {
    folder.join(format!("{module}.log.1"))
}

/// The command line by which this very program becomes a [`crate::log_pump`].
#[derive(Debug, Clone)]
pub struct LogPump(Vec<OsString>);

impl LogPump {
    /// `arguments` come before folder and module.
    pub fn new(arguments: impl IntoIterator<Item = &'static str>) -> Self {
        Self(arguments.into_iter().map(Into::into).collect())
    }

    /// Starts one. What is written to the pipe that it gives is kept; when nobody has it open any more, the process ends.
    pub fn start(&self, folder: &Path, module: &ModuleName) -> std::io::Result<File> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        // The program that runs, also when its file has been replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.args(&self.0).arg(folder).arg(module.as_str()).env_clear();
        command.stdin(Stdio::from(read)).stdout(Stdio::null()).stderr(Stdio::inherit());
        // It is nobody's to wait for: it ends by itself, and what collects dead children collects it.
        drop(command.spawn()?);
        Ok(File::from(write))
    }
}

/// The newest `last` lines, from at most [`LOG_REPLY_BYTES_MAX`] bytes.
pub fn tail(folder: &Path, module: &ModuleName, last: usize) -> std::io::Result<Vec<String>> {
    let mut text = end_of(&path(folder, module))?;
    if (text.len() as u64) < LOG_REPLY_BYTES_MAX {
        let mut earlier = end_of(&older(folder, module))?;
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
