//! Running the programs, and what they say: libtest's JSON, one event a line.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::Problem;
use crate::programs::Program;
use crate::report::Report;

/// Longest that one program may take before it is ended: a test that hangs must not cost the whole run.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(20 * 60);
/// What is kept of a program's own standard error, from its end.
const STDERR_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub event: String,
    #[serde(default)]
    pub name: String,
    /// Seconds.
    #[serde(default)]
    pub exec_time: f64,
    #[serde(default)]
    pub stdout: String,
}

/// One program's end.
#[derive(Debug)]
pub struct Finished {
    pub tests: Vec<Event>,
    pub took: Duration,
    /// Why the program itself failed, beside its tests.
    pub died: Option<String>,
    pub stderr: String,
}

/// Runs all programs, at most `jobs` at a time. Their order is the report's.
pub fn run_all(
    programs: &[Program],
    filter: Option<&str>,
    jobs: usize,
    report: &mut Report,
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
            report.add(program, finished?);
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
    let stderr = child.stderr.take();
    let stdout = child.stdout.take();
    let stderr = thread::spawn(move || last_of(stderr));
    let tests = thread::spawn(move || tests_of(stdout));
    let status = wait(&mut child, start + PROGRAM_DEADLINE).map_err(failed)?;
    let tests = tests.join().unwrap_or_default();
    let died = match status {
        None => Some(format!("it did not end within {} minutes", PROGRAM_DEADLINE.as_secs() / 60)),
        Some(status) if !status.success() && tests.iter().all(|test| test.event != "failed") => {
            Some(format!("it ended with {status}, and no test says why"))
        }
        Some(_) => None,
    };
    Ok(Finished { tests, took: start.elapsed(), died, stderr: stderr.join().unwrap_or_default() })
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
        .filter(|event| event.kind == "test" && matches!(event.event.as_str(), "ok" | "failed" | "ignored"))
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
