//! Commands with a deadline, and servers that are killed when their handle is dropped.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;

/// Longest that any single command of a test may take.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct Finished {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The output, if the command succeeded.
    pub fn ok(self) -> Result<String, Failure> {
        if self.status.success() { Ok(self.stdout) } else { Err(self.failure("failed")) }
    }

    /// The words of a command that had to be refused (exit code 3) with this reason code.
    pub fn refused(self, reason: &str) -> Result<String, Failure> {
        let said = format!("{}{}", self.stdout, self.stderr);
        if self.status.code() == Some(3) && said.contains(reason) {
            Ok(said)
        } else {
            Err(self.failure(&format!("was not refused with `{reason}`")))
        }
    }

    fn failure(&self, what: &str) -> Failure {
        Failure(format!("`{}` {what} ({})\n{}{}", self.command, self.status, self.stdout, self.stderr))
    }
}

/// Runs a command to its end, at most [`COMMAND_DEADLINE`].
pub fn run(command: &mut Command) -> Result<Finished, Failure> {
    let shown = format!("{command:?}").replace('"', "");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure(format!("cannot start `{shown}`: {error}")))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let deadline = Instant::now() + COMMAND_DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Failure(format!("`{shown}` did not end within {COMMAND_DEADLINE:?}")));
        }
        thread::sleep(POLL);
    };
    let text = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_default();
    Ok(Finished { command: shown, status, stdout: text(stdout), stderr: text(stderr) })
}

fn collect(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A program that runs until it is stopped. What it prints goes to a file.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self, Failure> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|error| Failure(format!("cannot start {name}: {error}")))?;
        Ok(Self { name: name.into(), child, log: log.into() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it printed so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Fails with the end of its log when it has ended by itself.
    pub fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                Err(Failure(format!("{} ended ({status}):\n{}", self.name, tail(&self.output(), 30))))
            }
        }
    }

    /// Power loss, as far as this process can tell.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and kills it when it has not within ten seconds.
    pub fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(POLL);
        }
        self.kill();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// Waits for a server of ours to answer; its end is told at once, with the end of its log.
pub fn wait_for_server<T>(
    server: &mut Server,
    within: Duration,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + within;
    loop {
        server.check()?;
        match attempt() {
            Ok(value) => return Ok(value),
            Err(Failure(problem)) if Instant::now() > deadline => {
                let log = tail(&server.output(), 20);
                return Err(Failure(format!(
                    "{} did not answer within {within:?}: {problem}\n{log}",
                    server.name
                )));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Asks again and again until there is an answer. The last problem is told when there is none in time.
pub fn wait_for<T>(
    what: &str,
    within: Duration,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + within;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(Failure(problem)) if Instant::now() > deadline => {
                return Err(Failure(format!("waited {within:?} for {what}: {problem}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}
