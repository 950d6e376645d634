//! `./ew bench`: measures the numbers of docs/specification.md, and says on what machine and of which commit.
//!
//! Each number is many samples; printed are the median and the worst of a hundred (p99). What needs a TPM or a network
//! runs in a sandbox: a simulated TPM, loopback, and no way out.

mod common;
mod fleet;
mod gateway;
mod identityd;
mod modules;
mod mqtt;
mod number;
mod pure;
mod queue;
mod tpm;
mod worker;

use std::fs;
use std::process::{Command, ExitCode};

use clap::{Parser, ValueEnum};
use edgewarden_tests::{Failure, sandbox};
use serde_json::{Value, json};

use crate::number::Number;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Parser)]
#[command(name = "ew bench", about = "Measures the numbers of docs/specification.md.")]
struct Arguments {
    #[arg(short = 'o', long, default_value = "text")]
    output: Format,
    /// Only numbers whose names contain this.
    filter: Option<String>,
}
fn main() -> ExitCode {
    if let Ok(work) = std::env::var(worker::WORK) {
        return match worker::work(&work) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("error: {failure}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::parse();
    match if sandbox::is_inside() { inside(&arguments) } else { outside() } {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn outside() -> Result<ExitCode, Failure> {
    let program = std::env::current_exe()?;
    let commit = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let mut command = sandbox::command(&program);
    command.args(std::env::args_os().skip(1)).env("EW_BENCH_COMMIT", commit.unwrap_or_default());
    let status = command.status()?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

fn inside(arguments: &Arguments) -> Result<ExitCode, Failure> {
    sandbox::prepare_network()?;
    let wanted = |name: &str| arguments.filter.as_ref().is_none_or(|filter| name.contains(filter));
    let (mut numbers, mut failed) = (Vec::new(), false);
    // One group that fails must not cost the numbers of the others.
    let mut take = |group: &str, measure: &mut dyn FnMut() -> Result<Vec<Number>, Failure>| {
        if wanted(group) {
            eprintln!("measuring {group}");
            match measure() {
                Ok(measured) => numbers.extend(measured),
                Err(failure) => {
                    eprintln!("error: {group}: {failure}");
                    failed = true;
                }
            }
        }
    };
    take("certificates", &mut || Ok(vec![pure::certificates()?]));
    take("tokens", &mut pure::tokens);
    take("policy", &mut pure::policy);
    take("policy-compile", &mut pure::policy_compile);
    take("queue", &mut || Ok(vec![queue::queue()?]));
    take("fleet", &mut fleet::fleet);
    take("identityd", &mut identityd::identityd);
    take("modules", &mut modules::modules);
    take("idle", &mut modules::idle);
    take("mqtt", &mut mqtt::mqtt);
    take("tpm", &mut tpm::tpm);
    let machine = machine();
    if arguments.output == Format::Json {
        let one = |number: &Number| {
            json!({"name": number.name, "unit": number.unit, "median": number.median, "p99": number.p99,
                   "samples": number.samples, "target": number.target_text(), "met": number.met(),
                   "missing": number.missing})
        };
        let numbers: Vec<Value> = numbers.iter().map(one).collect();
        println!("{}", json!({"machine": machine, "numbers": numbers}));
    } else {
        println!(
            "{:<44} {:>12} {:>12} {:<6} {:>8} {:>9}",
            "number", "median", "p99", "unit", "target", "samples"
        );
        for number in &numbers {
            if let Some(why) = number.missing {
                println!("{:<44} not measured: {why}", number.name);
                continue;
            }
            let met = match number.met() {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            println!(
                "{:<44} {:>12.1} {:>12.1} {:<6} {:>8} {:>9} {met}",
                number.name,
                number.median,
                number.p99,
                number.unit,
                number.target_text(),
                number.samples
            );
        }
        println!("machine: {machine}");
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let load = read("/proc/loadavg");
    json!({
        "cpu": model.map_or("unknown", |(_, model)| model.trim()),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": load.split(' ').next().unwrap_or_default(),
        "commit": std::env::var("EW_BENCH_COMMIT").unwrap_or_default(),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}
