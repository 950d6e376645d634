//! The program that uses the files: one that runs already, found by its PID file, or one that this command starts.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use edgewarden_platform::durable;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::exit::Problem;

/// A PID file is one number.
const PID_FILE_BYTES_MAX: usize = 64;
/// Exit status that a shell gives a program that a signal ended, less the signal's number.
const SIGNAL_STATUS: i32 = 128;

/// Options of `svid watch` about the program that uses the files.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Sent after each change, such as SIGHUP. To the program of the PID file, or to the one that is started here.
    #[arg(long, value_parser = signal_name)]
    signal: Option<Signal>,
    /// File with the process number of a program that runs already. Read at each change.
    #[arg(long, requires = "signal", conflicts_with = "command")]
    pid_file: Option<PathBuf>,
    /// Started when the first files are there. This command ends as it ends, with its status.
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// The program that uses the files, with its process when this command has started it.
#[derive(Debug)]
pub struct Program {
    options: Options,
    child: Option<Child>,
}

impl Program {
    /// Starts nothing yet. Fails for a signal without a program to send it to.
    pub fn new(options: Options) -> Result<Self, Problem> {
        if options.signal.is_some() && options.pid_file.is_none() && options.command.is_empty() {
            return Err(Problem::Usage("a signal needs `--pid-file` or `-- COMMAND…` to be sent to".into()));
        }
        Ok(Self { options, child: None })
    }

    /// Tells the program that the files have changed. Fails only when the command cannot be started.
    pub fn tell(&mut self) -> Result<(), Problem> {
        match (&self.options, &mut self.child) {
            (Options { signal: Some(signal), pid_file: Some(file), .. }, _) => {
                match read_pid(file).and_then(|pid| Ok(kill(pid, *signal)?)) {
                    Ok(()) => tracing::info!(signal = signal.as_str(), "the program was told"),
                    // It may be between two starts, and then reads the new files anyway.
                    Err(error) => {
                        tracing::warn!(file = %file.display(), %error, "the program could not be told");
                    }
                }
            }
            (Options { signal: Some(signal), .. }, Some(child)) => send(child, *signal),
            (Options { command, .. }, child @ None) => {
                let Some((program, arguments)) = command.split_first() else { return Ok(()) };
                let started = Command::new(program).args(arguments).spawn().map_err(|error| {
                    Problem::text(format!("cannot start `{}`: {error}", Path::new(program).display()))
                })?;
                *child = Some(started);
            }
            // It looks at its files by itself.
            (_, Some(_)) => {}
        }
        Ok(())
    }

    /// Hands a signal on to the program that was started here. False when there is none.
    pub fn hand_on(&self, signal: Signal) -> bool {
        self.child.as_ref().inspect(|child| send(child, signal)).is_some()
    }

    /// The end of the program that was started here. Waits for ever when there is none. Cancel-safe.
    pub async fn ended(&mut self) -> Problem {
        let Some(child) = &mut self.child else { return std::future::pending().await };
        match child.wait().await {
            Ok(status) => Problem::Ended(status_code(status)),
            Err(error) => Problem::failed(error),
        }
    }
}

fn send(child: &Child, signal: Signal) {
    // Has a number for as long as nobody has waited for it, so the number is its own.
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(Err(error)) = pid.map(|pid| kill(Pid::from_raw(pid), signal)) {
        tracing::warn!(%error, signal = signal.as_str(), "the program could not be told");
    }
}

fn status_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| SIGNAL_STATUS.saturating_add(signal)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn read_pid(file: &Path) -> std::io::Result<Pid> {
    let bytes = durable::read(file, PID_FILE_BYTES_MAX)?.ok_or(std::io::ErrorKind::NotFound)?;
    // 0 and negative numbers mean groups of processes, 1 is whoever started everything.
    let pid =
        str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse::<i32>().ok()).filter(|pid| *pid > 1);
    pid.map(Pid::from_raw).ok_or_else(|| std::io::Error::other("it holds no process's number"))
}

fn signal_name(text: &str) -> Result<Signal, String> {
    let name = if text.starts_with("SIG") { text.to_owned() } else { format!("SIG{text}") };
    name.parse().map_err(|_| "write a signal's name, such as SIGHUP".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_holds_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        assert!(read_pid(&file).is_err());
        for (text, pid) in [
            ("4711\n", Some(4711)),
            (" 2 ", Some(2)),
            ("1", None),
            ("0", None),
            ("-1", None),
            ("", None),
            ("12 13", None),
            ("99999999999", None),
            (&"1".repeat(100), None),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read_pid(&file).ok(), pid.map(Pid::from_raw), "{text}");
        }
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(signal_name("SIGHUP"), Ok(Signal::SIGHUP));
        assert_eq!(signal_name("USR1"), Ok(Signal::SIGUSR1));
        assert!(signal_name("1").is_err() && signal_name("sighup").is_err() && signal_name("").is_err());
    }
}
