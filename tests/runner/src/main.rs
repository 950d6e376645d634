//! `./ew test`: every test of the workspace, or those of a name, with progress, the slowest and the skipped.
//!
//! Cargo builds; this program runs what was built. A name builds only what it needs ([`choice`]). Each test program
//! writes events ([`events`]), so that what it says is shown only where it failed ([`report`]).

mod choice;
mod events;
mod problem;
mod programs;
mod report;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::choice::Choice;
use crate::problem::Problem;
use crate::report::{MaySkip, Report};

#[derive(Debug, Parser)]
#[command(name = "./ew test")]
struct Arguments {
    /// A package (edgewarden-mqtt, mqtt), a file of tests (broker) or a part of a test's name; all tests without it.
    name: Option<String>,
    /// A skipped test is a failure, unless .ci/may-skip names it.
    #[arg(long)]
    ci: bool,
    /// Test programs that run at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments, Path::new(".")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("error: {problem}");
            if matches!(problem, Problem::Unknown(_)) {
                eprintln!("hint: ./ew test without a name runs all of them");
            }
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments, root: &Path) -> Result<bool, Problem> {
    let may_skip = if arguments.ci { Some(MaySkip::read(&root.join(".ci/may-skip"))?) } else { None };
    let choice = match &arguments.name {
        Some(name) => Choice::named(name, root)?,
        None => Choice::all(),
    };
    let programs = programs::build(&choice)?;
    let mut report = Report::new(programs.len());
    let jobs = usize::from(arguments.jobs);
    events::run_all(&programs, choice.filter.as_deref(), jobs, |program, finished| {
        report.add(program, finished);
    })?;
    Ok(report.finish(may_skip.as_ref()))
}
