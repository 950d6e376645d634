//! Running the programs, and what they say: libtest's JSON, one event a line.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::problem::Problem;
use crate::programs::Program;

/// Longest that one program may take before it is ended: a test that hangs must not cost the whole run.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(40 * 60);
/// Longest wait for the output of a program that has ended: a process that it left behind may hold it for ever.
const OUTPUT_DEADLINE: Duration = Duration::from_secs(10);
/// Most bytes that are kept of a program's own standard error, from its end.
const STDERR_BYTES_MAX: usize = 64 * 1024;

/// One event about a test, of libtest's JSON.
#[derive(Debug, Deserialize)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, rename = "event")]
    pub outcome: String,
    #[serde(default)]
    pub name: String,
    /// Seconds.
    #[serde(default)]
    pub exec_time: f64,
    #[serde(default)]
    pub stdout: String,
}

/// Outcome of one test program, with the time that it took.
#[derive(Debug)]
pub struct Finished {
    pub tests: Vec<Event>,
    pub took: Duration,
    /// Failure of the program itself, beside its tests'.
    pub died: Option<String>,
    pub stderr: String,
}

/// Runs all programs, at most `jobs` at a time, and tells of each when it has ended.
pub fn run_all(
    programs: &[Program],
    filter: Option<&str>,
    jobs: usize,
    mut ended: impl FnMut(&Program, Finished),
) -> Result<(), Problem> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(program) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if sender.send((program, run(program, filter))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (program, finished) in receiver {
            ended(program, finished?);
        }
        Ok(())
    })
}

fn run(program: &Program, filter: Option<&str>) -> Result<Finished, Problem> {
    let failed = |source| Problem::Run { program: program.path.display().to_string(), source };
    let start = Instant::now();
    let mut command = Command::new(&program.path);
    // The events are libtest's own format, which it gives only to those who ask for what may change.
    command.args(["-Z", "unstable-options", "--format", "json", "--report-time", "--show-output"]);
    command.args(filter).env("RUSTC_BOOTSTRAP", "1").env("CARGO_MANIFEST_DIR", &program.folder);
    command.current_dir(&program.folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let stderr = read(child.stderr.take(), last_of);
    let tests = read(child.stdout.take(), tests_of);
    let status = wait(&mut child, start + PROGRAM_DEADLINE).map_err(failed)?;
    let until = Instant::now() + OUTPUT_DEADLINE;
    let rest = || until.saturating_duration_since(Instant::now());
    let (tests, stderr) = (tests.recv_timeout(rest()), stderr.recv_timeout(rest()));
    let left_behind = tests.is_err() || stderr.is_err();
    let tests = tests.unwrap_or_default();
    let died = match status {
        None => Some(format!("it did not end within {} minutes", PROGRAM_DEADLINE.as_secs() / 60)),
        Some(_) if left_behind => {
            Some("it ended, and a process that it left behind holds its output".to_owned())
        }
        Some(status) if !status.success() && tests.iter().all(|test| test.outcome != "failed") => {
            Some(format!("it ended with {status}, and no test says why"))
        }
        Some(_) => None,
    };
    Ok(Finished { tests, took: start.elapsed(), died, stderr: stderr.unwrap_or_default() })
}

/// Reads to the end on a thread of its own.
fn read<S: Read + Send + 'static, T: Send + 'static>(
    stream: Option<S>,
    to_end: fn(Option<S>) -> T,
) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(to_end(stream)));
    receiver
}

/// `None`: it had to be killed.
fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    const POLL: Duration = Duration::from_millis(20);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn tests_of(stdout: Option<impl Read>) -> Vec<Event> {
    let lines =
        stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).split(b'\n')).map_while(Result::ok);
    lines
        .filter_map(|line| serde_json::from_slice::<Event>(&line).ok())
        // Others say that it started, or that it takes longer than a minute.
        .filter(|event| event.kind == "test" && matches!(event.outcome.as_str(), "ok" | "failed" | "ignored"))
        .collect()
}

fn last_of(stream: Option<impl Read>) -> String {
    let mut kept = Vec::new();
    let mut part = [0; 8192];
    if let Some(mut stream) = stream {
        while let Ok(length @ 1..) = stream.read(&mut part) {
            kept.extend_from_slice(part.get(..length).unwrap_or_default());
            let over = kept.len().saturating_sub(STDERR_BYTES_MAX);
            kept.drain(..over);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn outcome(script: &str) -> Finished {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        run(&Program { name: "one/program".into(), path, folder: folder.path().to_owned() }, None).unwrap()
    }

    #[test]
    fn a_test_that_takes_long_has_not_failed() {
        let said = r#"echo '{"type":"test","event":"timeout","name":"slow"}'
            echo '{"type":"test","event":"ok","name":"slow","exec_time":61.0}'"#;
        let finished = outcome(said);
        assert_eq!(finished.tests.len(), 1);
        assert_eq!((finished.tests[0].outcome.as_str(), finished.died), ("ok", None));
    }

    #[test]
    fn a_program_that_dies_without_a_word_has_failed() {
        assert!(outcome("kill -SEGV $$").died.is_some());
        assert!(outcome("exit 3").died.unwrap().contains("no test says why"));
    }

    #[test]
    fn a_process_that_is_left_behind_holds_up_nobody() {
        let finished = outcome("sleep 20 & exit 0");
        assert!(finished.died.unwrap().contains("left behind"));
    }
}
