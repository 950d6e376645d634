//! `identityd` as a process: its start, its memory, its answers.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edgewarden_evidence::event_log::EventLog;
use edgewarden_tests::Failure;
use edgewarden_tests::process::{run, wait_for};
use edgewarden_workload_client::fetch_once;

use crate::common::{WAIT, failed, runtime};
use crate::gateway::Gateway;
use crate::modules::warm;
use crate::number::{Number, Target};

pub fn identityd() -> Result<Vec<Number>, Failure> {
    let gateway = Gateway::new()?;
    let runtime = runtime()?;
    let control = gateway.layout().control_socket();
    let mut server = gateway.start()?;
    wait_for("identityd", WAIT, || {
        std::os::unix::net::UnixStream::connect(&control).map(drop).map_err(failed)
    })?;
    runtime.block_on(gateway.join())?;
    server.stop();
    let mut first = Vec::new();
    for _ in 0..20 {
        first.push(runtime.block_on(first_certificate(&gateway))?);
    }
    let millis = |took: Duration| took.as_secs_f64() * 1e3;
    let name = "exec to the first certificate, swtpm";
    let mut numbers = vec![Number::of(name, "ms", Target::AtMost(200.0), &first, millis)];

    let mut server = gateway.start()?;
    let socket = gateway.layout().workload_socket("runtimed");
    wait_for("a certificate", WAIT, || runtime.block_on(fetch_once(&socket)).map(drop).map_err(failed))?;
    std::thread::sleep(Duration::from_secs(3));
    numbers.push(Number::of_values(
        "identityd, idle PSS",
        "MB",
        Target::AtMost(8.0),
        vec![pss(server.pid(), "Pss:")?],
    ));
    let anonymous = pss(server.pid(), "Pss_Anon:")?;
    numbers.push(Number::of_values(
        "  of it not backed by the program's file",
        "MB",
        Target::None,
        vec![anonymous],
    ));
    numbers.push(warm(&runtime, &socket)?);
    server.stop();

    let log = fs::read(gateway.tpm.event_log())?;
    let mut replays = Vec::new();
    for _ in 0..1000 {
        let begun = Instant::now();
        let parsed = EventLog::parse(std::hint::black_box(&log)).map_err(failed)?;
        std::hint::black_box(parsed.replay());
        replays.push(begun.elapsed());
    }
    let micros = |took: Duration| took.as_secs_f64() * 1e6;
    numbers.push(Number::of("event log, parse and replay", "us", Target::None, &replays, micros));
    Ok(numbers)
}

/// From exec to a certificate in the hands of a caller.
async fn first_certificate(gateway: &Gateway) -> Result<Duration, Failure> {
    let socket = gateway.layout().workload_socket("runtimed");
    // A socket file of the run before would answer with an error and cost the time to find out.
    drop(fs::remove_file(&socket));
    let begun = Instant::now();
    let mut child =
        gateway.command().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let took = loop {
        if socket.exists() && fetch_once(&socket).await.is_ok() {
            break Ok(begun.elapsed());
        }
        if begun.elapsed() > WAIT {
            break Err(Failure::new("no certificate in time"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    // As a power cut would, so that each start is the one after a crash.
    child.kill()?;
    child.wait()?;
    took
}

/// Memory of a process, with its share of what it shares (proportional set size).
pub fn pss(pid: u32, kind: &str) -> Result<f64, Failure> {
    let text = run(Command::new("cat").arg(format!("/proc/{pid}/smaps_rollup")))?.ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(kind));
    let kilobytes: Option<f64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kilobytes.map(|kilobytes| kilobytes / 1024.0).ok_or_else(|| Failure::new("no PSS in smaps_rollup"))
}
