//! Report for the person who waits: a line for each program, what failed in full, then the slowest and the skipped.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::events::Finished;
use crate::problem::Problem;
use crate::programs::Program;

const SLOWEST: usize = 15;
/// Prefix of the line that a test prints that cannot run here; the reason follows.
const SKIPPED: &str = "skipped: ";

/// Counts and times of the tests so far.
#[derive(Debug)]
pub struct Report {
    started: Instant,
    programs: usize,
    done: usize,
    passed: usize,
    ignored: usize,
    failed: Vec<String>,
    skipped: BTreeMap<String, String>,
    times: Vec<(Duration, String)>,
}

/// The tests that a machine may be unable to run, from lines `name: what it needs`.
#[derive(Debug)]
pub struct MaySkip(Vec<String>);

impl MaySkip {
    /// Reads a file with a line for each name, `#` for comments. A name that ends with `*` stands for all that begin
    /// so.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let text =
            fs::read_to_string(path).map_err(|source| Problem::Read { path: path.to_owned(), source })?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Ok(Self(lines.filter_map(|line| line.split_once(": ")).map(|(name, _)| name.to_owned()).collect()))
    }

    fn allows(&self, test: &str) -> bool {
        self.0.iter().any(|name| match name.strip_suffix('*') {
            Some(start) => test.starts_with(start),
            None => test == name,
        })
    }
}

impl Report {
    /// An empty report on so many programs.
    pub fn new(programs: usize) -> Self {
        Self {
            started: Instant::now(),
            programs,
            done: 0,
            passed: 0,
            ignored: 0,
            failed: Vec::new(),
            skipped: BTreeMap::new(),
            times: Vec::new(),
        }
    }

    /// Counts one program's tests, and prints those that failed in full.
    pub fn add(&mut self, program: &Program, finished: Finished) {
        self.done += 1;
        let (mut passed, mut failed) = (0, 0);
        for test in finished.tests {
            // `mqtt/broker::…` for a file of the package's tests, `mqtt/edgewarden_mqtt::…` for a test in the library.
            let joint = if program.name.contains('/') { "::" } else { "/" };
            let name = format!("{}{joint}{}", program.name, test.name);
            match test.outcome.as_str() {
                "ok" => passed += 1,
                "ignored" => self.ignored += 1,
                _ => {
                    failed += 1;
                    println!("\nFAILED {name}\n{}", test.stdout.trim_end());
                    self.failed.push(name.clone());
                }
            }
            if let Some(reason) = test.stdout.lines().find_map(|line| line.strip_prefix(SKIPPED)) {
                self.skipped.insert(name.clone(), reason.to_owned());
            }
            if let Ok(took) = Duration::try_from_secs_f64(test.exec_time) {
                self.times.push((took, name));
            }
        }
        self.passed += passed;
        if let Some(why) = &finished.died {
            println!("\nFAILED {}: {why}", program.name);
            self.failed.push(program.name.clone());
        }
        if (failed > 0 || finished.died.is_some()) && !finished.stderr.trim().is_empty() {
            println!(
                "--- what {} wrote to its standard error, from the end:\n{}",
                program.name,
                finished.stderr.trim_end()
            );
        }
        // A program without a test of the name that was asked for is not worth a line.
        if passed + failed > 0 || finished.died.is_some() {
            let failures = if failed > 0 { format!(", {failed} FAILED") } else { String::new() };
            println!(
                "[{:>width$}/{}] {}: {passed} passed{failures} in {:.1} s",
                self.done,
                self.programs,
                program.name,
                finished.took.as_secs_f64(),
                width = self.programs.to_string().len(),
            );
        }
    }

    /// Prints the end. Whether all is well; with `may_skip`, only these may be skipped.
    pub fn finish(mut self, may_skip: Option<&MaySkip>) -> bool {
        self.times.sort_by(|one, other| other.cmp(one));
        println!("\nslowest:");
        for (took, name) in self.times.iter().take(SLOWEST) {
            println!("  {:6.1} s  {name}", took.as_secs_f64());
        }
        if !self.skipped.is_empty() {
            println!("skipped:");
        }
        let mut forbidden = 0;
        for (name, reason) in &self.skipped {
            let allowed = may_skip.is_none_or(|may_skip| may_skip.allows(name));
            forbidden += usize::from(!allowed);
            let mark = if allowed {
                ""
            } else {
                "  FAILED: nothing may be skipped here that .ci/may-skip does not name"
            };
            println!("  {name}: {reason}{mark}");
        }
        if !self.failed.is_empty() {
            println!("failed:");
            for name in &self.failed {
                println!("  {name}");
            }
        }
        let none = self.passed == 0 && self.failed.is_empty();
        println!(
            "\n{}: {} passed, {} failed, {} skipped, {} ignored in {:.0} s",
            if self.failed.is_empty() && forbidden == 0 && !none { "ok" } else { "FAILED" },
            self.passed.saturating_sub(self.skipped.len()),
            self.failed.len(),
            self.skipped.len(),
            self.ignored,
            self.started.elapsed().as_secs_f64(),
        );
        self.failed.is_empty() && forbidden == 0 && !none
    }
}
