//! `./ew demo`: tells the whole story in a sandbox, one line a step.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use edgewarden_tests::process::run;
use edgewarden_tests::site::{Keys, Site, WEB};
use edgewarden_tests::story::STEPS;
use edgewarden_tests::{Failure, relay, sandbox};
use serde_json::json;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    Tpm,
    Software,
}

#[derive(Debug, Parser)]
#[command(
    name = "ew demo",
    about = "A gateway proves itself, verifies a signed image, starts it, and gives it a certificate."
)]
struct Arguments {
    /// Leaves everything running at the end.
    #[arg(long)]
    keep: bool,
    /// Ends what an earlier --keep left running.
    #[arg(long)]
    stop: bool,
    #[arg(short = 'o', long, default_value = "text")]
    output: Format,
    /// Shows the page of a kept story on the host (started by --keep).
    #[arg(long, hide = true)]
    relay: bool,
    /// Store of the gateway's keys.
    #[arg(long, default_value = "tpm")]
    keys: Store,
    /// Folder of the story; made anew.
    #[arg(long, default_value = ".ew/story")]
    story: PathBuf,
}

const GATEWAY: &str = "gw-1";
/// Printed inside when all is told and kept running.
const KEPT: &str = "edgewarden-story-kept";
const PAGE_SOCKET: &str = "page.sock";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let told = if sandbox::is_inside() { inside(&arguments) } else { outside(&arguments) };
    match told {
        Ok(code) => code,
        Err(Failure(why)) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the story in a sandbox and passes on what it prints.
fn outside(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if arguments.relay {
        return show_page(&arguments.story);
    }
    stop(&arguments.story)?;
    if arguments.stop {
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.story.exists() {
        fs::remove_dir_all(&arguments.story)?;
    }
    fs::create_dir_all(&arguments.story)?;
    let story = fs::canonicalize(&arguments.story)?;
    let mut command = sandbox::command(&std::env::current_exe()?);
    command.args(std::env::args().skip(1)).stdin(Stdio::null()).stdout(Stdio::piped());
    if arguments.keep {
        // Its own session, so that the terminal's end is not the story's.
        let mut detached = Command::new("setsid");
        detached.arg(command.get_program()).args(command.get_args()).env("EDGEWARDEN_SANDBOX", "1");
        command = detached;
        // Not this terminal's: whoever reads our output would wait for the story's end.
        let log = fs::File::create(story.join("story.log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    }
    let mut child = command.spawn()?;
    let output = child.stdout.take().ok_or_else(|| Failure::new("no output of the story"))?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line == KEPT {
            fs::write(story.join("pid"), first_process(child.id())?.to_string())?;
            fs::write(story.join("sandbox"), child.id().to_string())?;
            let page = start_page(&story)?;
            if arguments.output == Format::Text {
                println!("the fleet's page: {page}");
            }
            return Ok(ExitCode::SUCCESS);
        }
        println!("{line}");
    }
    let status = child.wait()?;
    sandbox::remove_cgroups(GATEWAY);
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The first process of the sandbox, as the host numbers it: the child of `unshare`.
fn first_process(unshare: u32) -> Result<u32, Failure> {
    let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
    let first = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
    first.ok_or_else(|| Failure::new("the sandbox has no process"))
}

fn stop(story: &Path) -> Result<(), Failure> {
    for name in ["relay", "sandbox"] {
        let file = story.join(name);
        let Ok(pid) = fs::read_to_string(&file) else { continue };
        // The number may be another's by now: only what we started is ended.
        let ours = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim()));
        if let Ok(pid) = pid.trim().parse()
            && ours.is_ok_and(|command| command.contains("ew-demo"))
        {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            std::thread::sleep(Duration::from_millis(300));
        }
        fs::remove_file(file)?;
    }
    sandbox::remove_cgroups(GATEWAY);
    Ok(())
}

/// Starts the host's end of the window to the page, and gives the page's address on the host.
fn start_page(story: &Path) -> Result<String, Failure> {
    let mut relay = Command::new("setsid");
    relay.arg(std::env::current_exe()?).arg("--relay").arg("--story").arg(story);
    let mut child = relay.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    fs::write(story.join("relay"), child.id().to_string())?;
    let mut address = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut address)?;
    }
    let url = fs::read_to_string(story.join("page"))?;
    Ok(url.trim().replace(WEB, address.trim()))
}

fn show_page(story: &Path) -> Result<ExitCode, Failure> {
    let listener = relay::listen_outside(WEB)?;
    println!("{}", listener.local_addr()?);
    relay::serve_outside(&listener, &story.join(PAGE_SOCKET));
    Ok(ExitCode::SUCCESS)
}

fn inside(arguments: &Arguments) -> Result<ExitCode, Failure> {
    sandbox::prepare_network()?;
    let keys = match arguments.keys {
        Store::Tpm => Keys::SimulatedTpm,
        Store::Software => Keys::Software,
    };
    let mut site = Site::new(&fs::canonicalize(&arguments.story)?, GATEWAY, keys)?;
    let begin = Instant::now();
    for (number, step) in STEPS.iter().enumerate() {
        let start = Instant::now();
        let shown = (step.run)(&mut site);
        let elapsed = start.elapsed();
        if arguments.output == Format::Json {
            tell_json(step.name, &shown, elapsed);
        } else {
            tell_text(number + 1, step.name, &shown, elapsed);
        }
        if shown.is_err() {
            return Ok(ExitCode::FAILURE);
        }
    }
    if arguments.output == Format::Text {
        println!("\nall {} steps in {:.1} s", STEPS.len(), begin.elapsed().as_secs_f64());
        if arguments.keep {
            println!(
                "it is still running: `./ew in edgewarden status`, `./ew in edgewarden policy explain analytics alerts:9443`,"
            );
            println!("`./ew in edgewarden logs alerts`; end it with `./ew demo --stop`");
        } else {
            println!(
                "look further: `./ew demo --keep` leaves it running; docs/quickstart.md goes on from here"
            );
        }
    }
    if arguments.keep {
        relay::serve_inside(&site.path(PAGE_SOCKET), WEB)?;
        fs::write(site.path("page"), run(&mut site.operator(&["web", "url"]))?.ok()?)?;
        println!("{KEPT}");
        loop {
            std::thread::park();
        }
    }
    site.down()?;
    Ok(ExitCode::SUCCESS)
}

fn tell_json(name: &str, shown: &Result<Vec<String>, Failure>, elapsed: Duration) {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let line = match shown {
        Ok(lines) => json!({"step": name, "ok": true, "ms": millis, "shown": lines}),
        Err(Failure(why)) => json!({"step": name, "ok": false, "ms": millis, "error": why}),
    };
    println!("{line}");
}

fn tell_text(number: usize, name: &str, shown: &Result<Vec<String>, Failure>, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    match shown {
        Ok(lines) => {
            let (first, details) = lines.split_first().map_or(("", [].as_slice()), |(f, d)| (f.as_str(), d));
            println!("✓ {number:>2} {name:<11} {first} ({seconds:.1} s)");
            for detail in details {
                println!("     {detail}");
            }
        }
        Err(Failure(why)) => println!("✗ {number:>2} {name:<11} ({seconds:.1} s)\n{why}"),
    }
}
