//! `./ew chaos`: breaks a site in every way that is known, again and again, and counts.

use std::fs;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use edgewarden_tests::chaos::faults::Fault;
use edgewarden_tests::chaos::{self, Options, Report, Struck};
use edgewarden_tests::{Failure, sandbox};
use serde_json::json;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Parser)]
#[command(
    name = "ew chaos",
    about = "Kills, cuts the power, fills disks, moves clocks, flushes rules, and counts what was acknowledged against what arrived."
)]
struct Arguments {
    /// For so long; each fault strikes once at least.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Repeats the order and the moments of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these faults.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Fault>,
    #[arg(short = 'o', long, default_value = "text")]
    output: Format,
    /// Folder of the site; made anew.
    #[arg(long, default_value = ".ew/chaos")]
    folder: PathBuf,
}

const GATEWAY: &str = "gw-chaos";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if sandbox::is_inside() { inside(&arguments) } else { outside(&arguments) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure(why)) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn outside(arguments: &Arguments) -> Result<bool, Failure> {
    if arguments.folder.exists() {
        fs::remove_dir_all(&arguments.folder)?;
    }
    fs::create_dir_all(&arguments.folder)?;
    let mut command = sandbox::command(&std::env::current_exe()?);
    command.args(std::env::args().skip(1)).stdin(Stdio::null());
    let status = command.status()?;
    sandbox::remove_cgroups(GATEWAY);
    Ok(status.success())
}

fn inside(arguments: &Arguments) -> Result<bool, Failure> {
    sandbox::prepare_network()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let options = Options {
        duration: Duration::from_secs(arguments.minutes * 60),
        seed: arguments.seed.unwrap_or(now.as_secs()),
        faults: if arguments.only.is_empty() { Fault::ALL.to_vec() } else { arguments.only.clone() },
    };
    let folder = fs::canonicalize(&arguments.folder)?.join("site");
    match arguments.output {
        Format::Text => println!("seed {}", options.seed),
        Format::Json => println!("{}", json!({"seed": options.seed})),
    }
    let report = chaos::run(&folder, GATEWAY, &options, |struck| tell(arguments.output, struck))?;
    conclude(arguments.output, &report);
    Ok(report.is_good())
}

fn tell(format: Format, struck: &Result<Struck, Failure>) {
    match (format, struck) {
        (Format::Text, Ok(struck)) => println!(
            "✓ {:<16} all works again after {:.1} s  {}",
            struck.fault.name(),
            struck.healed_in.as_secs_f64(),
            struck.remark
        ),
        (Format::Text, Err(Failure(why))) => println!("✗ {why}"),
        (Format::Json, Ok(struck)) => {
            let millis = u64::try_from(struck.healed_in.as_millis()).unwrap_or(u64::MAX);
            let line = json!({"fault": struck.fault.name(), "ok": true, "healed_ms": millis, "remark": struck.remark});
            println!("{line}");
        }
        (Format::Json, Err(Failure(why))) => println!("{}", json!({"ok": false, "error": why})),
    }
}

fn conclude(format: Format, report: &Report) {
    let struck: u32 = report.struck.values().map(|(count, _)| count).sum();
    if format == Format::Json {
        let line = json!({
            "faults": struck, "acknowledged": report.acknowledged, "lost": report.lost,
            "failures": report.failures, "leftovers": report.leftovers, "ok": report.is_good(),
        });
        println!("{line}");
        return;
    }
    println!("\n{:<16} {:>6} {:>22}", "FAULT", "STRUCK", "LONGEST UNTIL ALL WORK");
    for (name, (count, longest)) in &report.struck {
        println!("{name:<16} {count:>6} {:>20.1} s", longest.as_secs_f64());
    }
    println!("\n{struck} faults, {} messages acknowledged", report.acknowledged);
    for (what, found) in
        [("lost", &report.lost), ("failed", &report.failures), ("left behind", &report.leftovers)]
    {
        for line in found {
            println!("{what}: {line}");
        }
    }
    println!("{}", if report.is_good() { "nothing lost, nothing left behind" } else { "NOT GOOD" });
}
