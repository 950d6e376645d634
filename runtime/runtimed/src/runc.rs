//! Drives the OCI runtime as a program: runc, or one with the same command line.
//!
//! Each gateway has a state folder of its own for it. A call has a deadline: a runtime that hangs must not stop the rest.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use edgewarden_platform::programs;
use serde::Deserialize;
use tokio::process::Command;

use crate::error::RunError;

const DEADLINE: Duration = Duration::from_secs(60);
const SAID_CHARS_MAX: usize = 500;

/// The OCI runtime's program and the folder of its state.
#[derive(Debug, Clone)]
pub struct Runc {
    program: PathBuf,
    state: PathBuf,
}

/// `runc list`
#[derive(Debug, Deserialize)]
pub struct Container {
    pub id: String,
    pub pid: i32,
    pub status: String,
}

impl Runc {
    /// `program` is a path, or a name that is looked for among the system's programs.
    pub fn new(program: &Path, state: PathBuf) -> Self {
        Self { program: programs::find(program).unwrap_or_else(|| program.into()), state }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn wait(&self, what: &str, mut command: Command) -> Result<std::process::Output, RunError> {
        let failed = || RunError::io(format!("run `{}`", self.program.display()));
        let child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => RunError::Missing(format!(
                "there is no `{}`; install the package `runc`, or set `runtime.oci_runtime` to where it is",
                self.program.display()
            )),
            _ => failed()(error),
        })?;
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
            .await
            .map_err(|_| RunError::Runtime(format!("`{what}` does not end")))?
            .map_err(failed())?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.trim().chars().take(SAID_CHARS_MAX).collect();
        Err(RunError::Runtime(format!("`{what}` failed: {said}")))
    }

    /// Makes the container up to the point before its first instruction. Its output goes to `log`, and there what the
    /// runtime itself has to say until then.
    pub async fn create(&self, id: &str, bundle: &Path, log: File) -> Result<i32, RunError> {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let pid_file = bundle.join("pid");
        let said = bundle.join("runc.log");
        let stderr = log.try_clone().map_err(RunError::io("share the log"))?;
        let mut command = self.command();
        command
            .arg("--log")
            .arg(&said)
            .args(["create", "--bundle"])
            .arg(bundle)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(id);
        command.stdout(log).stderr(stderr);
        if let Err(error) = self.wait("create", command).await {
            let said: String = read(&said).trim().chars().take(SAID_CHARS_MAX).collect();
            return Err(if said.is_empty() { error } else { RunError::Runtime(said) });
        }
        read(&pid_file).trim().parse().map_err(|_| RunError::Runtime("`create` named no process".into()))
    }

    async fn simple(&self, what: &str, args: &[&str]) -> Result<std::process::Output, RunError> {
        let mut command = self.command();
        command.arg(what).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.wait(what, command).await
    }

    /// Lets the first instruction of a created container run.
    pub async fn start(&self, id: &str) -> Result<(), RunError> {
        self.simple("start", &[id]).await.map(drop)
    }

    /// `signal` as `TERM` or `KILL`.
    pub async fn kill(&self, id: &str, signal: &str) -> Result<(), RunError> {
        self.simple("kill", &[id, signal]).await.map(drop)
    }

    /// Kills what still runs, removes cgroups and state. That there is none is no error.
    pub async fn delete(&self, id: &str) -> Result<(), RunError> {
        self.simple("delete", &["--force", id]).await.map(drop)
    }

    /// Containers under this state folder, those that have ended too.
    pub async fn list(&self) -> Result<Vec<Container>, RunError> {
        if !self.state.exists() {
            return Ok(Vec::new());
        }
        let output = self.simple("list", &["--format", "json"]).await?;
        // No containers are `null`.
        let list: Option<Vec<Container>> = serde_json::from_slice(&output.stdout)
            .map_err(|error| RunError::Runtime(format!("`list` cannot be read: {error}")))?;
        Ok(list.unwrap_or_default())
    }
}
