//! A hundred modules on one `identityd`, each a process in a cgroup of its own.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use edgewarden_image_trust::sign::{SigningKey, sign};
use edgewarden_names::{Digest, ModuleName};
use edgewarden_protocol::control::{ImageEvidence, SignatureEvidence, questions};
use edgewarden_protocol::deployment::ImageReference;
use edgewarden_tests::process::{Server, wait_for};
use edgewarden_tests::{Failure, ensure};
use edgewarden_workload_client::fetch_once;
use serde_json::{Value, json};

use crate::common::{WAIT, failed, runtime};
use crate::gateway::Gateway;
use crate::identityd::pss;
use crate::number::{Number, Target};
use crate::worker::{Handshakes, WORK, Work, now_nanos};

const MODULES: u8 = 100;
const STREAMS: usize = 5;
/// Of an ordinary gateway, for what its daemons do of themselves.
const IDLE_MODULES: u8 = 10;
const IDLE: Duration = Duration::from_secs(60);
const SETTLED: Duration = Duration::from_secs(45);
/// Handshakes a second, and for how long, while every module's certificate is changed once a second.
const RATE: u32 = 1000;
const SECONDS: u64 = 10;

/// Beneath it, the cgroup of each module.
struct Cgroups(PathBuf);

impl Cgroups {
    fn new() -> Result<Self, Failure> {
        let v1 = Path::new("/sys/fs/cgroup/pids");
        let root = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
        let folder = root.join(format!("ew-bench-{}", now_nanos()));
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }

    /// A worker in the cgroup of this name.
    fn spawn(&self, name: &str, work: &Work) -> Result<Worker, Failure> {
        let folder = self.0.join(name);
        fs::create_dir_all(&folder)?;
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(folder.join("cgroup.procs"));
        shell.arg(std::env::current_exe()?).env(WORK, serde_json::to_string(work).map_err(failed)?);
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or_else(|| Failure::new("no output"))?;
        let entered = || fs::read_to_string(folder.join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty());
        while !entered() {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(Worker { child, lines: BufReader::new(out).lines() })
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let folders = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        for folder in folders.chain([self.0.clone()]).collect::<Vec<_>>() {
            let gone = || fs::remove_dir(&folder).is_ok();
            for _ in 0..100 {
                if !folder.is_dir() || gone() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    fn line(&mut self) -> Result<String, Failure> {
        Ok(self.lines.next().ok_or_else(|| Failure::new("a worker ended"))??)
    }

    fn go(&mut self) -> Result<(), Failure> {
        let stdin = self.child.stdin.as_mut().ok_or_else(|| Failure::new("no input"))?;
        Ok(stdin.write_all(b"\n")?)
    }

    fn pid(&self) -> Result<i32, Failure> {
        i32::try_from(self.child.id()).map_err(failed)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Already gone is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One image, signed, that every module runs.
struct Image {
    reference: ImageReference,
    manifest: Vec<u8>,
    config: Vec<u8>,
    signature: SignatureEvidence,
    key: SigningKey,
}

fn digest(bytes: &[u8]) -> Result<Digest, Failure> {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    Ok(Digest::from_sha256(&hash.as_ref().try_into().map_err(failed)?))
}

fn image() -> Result<Image, Failure> {
    let layer = digest(b"layer")?;
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/app"]},
                        "rootfs": {"type": "layers", "diff_ids": [layer]}});
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                   "digest": digest(&config)?, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 5}],
    });
    let manifest = manifest.to_string().into_bytes();
    let reference = format!("registry.example/bench/module:1@{}", digest(&manifest)?);
    let reference = ImageReference::parse(&reference).map_err(Failure)?;
    let key = SigningKey::generate().map_err(failed)?;
    let signed = sign(&reference, &key).map_err(failed)?;
    let signature =
        SignatureEvidence { manifest: signed.manifest.into(), payloads: vec![signed.payload.into()] };
    Ok(Image { reference, manifest, config, signature, key })
}

fn name(number: u8) -> String {
    format!("module-{number}")
}

/// Prepares the start of a module as `runtimed` does. Gives its instance.
async fn prepare(gateway: &Gateway, image: &Image, number: u8) -> Result<String, Failure> {
    let evidence = ImageEvidence {
        module: ModuleName::parse(&name(number)).map_err(failed)?,
        image: image.reference.clone(),
        manifest: image.manifest.clone().into(),
        config: image.config.clone().into(),
        signatures: vec![image.signature.clone()],
    };
    let permit = gateway.ask(questions::ImageJudge(Box::new(evidence))).await?;
    Ok(gateway.ask(questions::StartPrepare { permit: permit.permit }).await?.instance)
}

pub fn modules() -> Result<Vec<Number>, Failure> {
    let gateway = Gateway::new()?;
    let runtime = runtime()?;
    let server = gateway.start()?;
    let control = gateway.layout().control_socket();
    wait_for("identityd", WAIT, || {
        std::os::unix::net::UnixStream::connect(&control).map(drop).map_err(failed)
    })?;
    runtime.block_on(gateway.join())?;
    let image = image()?;
    let modules: Vec<Value> =
        (0..MODULES).map(|n| json!({"name": name(n), "image": image.reference.to_string()})).collect();
    runtime.block_on(gateway.deploy(&json!({
        "name": "bench", "version": 1, "trust_domain": "bench.example", "modules": modules, "policy": "",
        "image_keys": [{"name": "ci", "public_key": image.key.public_pem()}],
    })))?;

    let cgroups = Cgroups::new()?;
    let (mut workers, mut sockets) = (Vec::new(), Vec::new());
    for number in 0..MODULES {
        let instance = runtime.block_on(prepare(&gateway, &image, number))?;
        let socket = gateway.layout().workload_socket(&instance);
        let mut worker =
            cgroups.spawn(&name(number), &Work::Hold { socket: socket.clone(), streams: STREAMS })?;
        let address = Ipv4Addr::new(10, 77, 0, number.saturating_add(2));
        let started = questions::Started { instance, pid: worker.pid()?, address };
        runtime.block_on(gateway.ask(started))?;
        worker.go()?;
        worker.line()?;
        workers.push(worker);
        sockets.push(socket);
    }
    // Idle: threads for the starts have ended, and pages of the program that they needed are given back.
    thread::sleep(SETTLED);
    let memory = pss(server.pid(), "Pss:")?;
    let mut numbers = vec![Number::of_values(
        "identityd, PSS, 100 modules, 500 streams",
        "MB",
        Target::AtMost(16.0),
        vec![memory],
    )];
    let (Some(first), [own, serving, connecting, ..]) = (workers.first_mut(), sockets.as_slice()) else {
        return Err(Failure::new("too few modules"));
    };
    numbers.push(fresh(&gateway, &runtime, first)?);
    // The streams of the other modules live on, and each module's certificate changes under them.
    numbers.extend(handshakes(&gateway, &runtime, &cgroups, serving, connecting)?);
    for worker in &mut workers {
        ensure(worker.child.try_wait()?.is_none(), || "a module's streams broke".into())?;
    }
    numbers.push(beside_noise(&cgroups, own, serving)?);
    numbers.push(churn(own, &server)?);
    drop(workers);
    Ok(numbers)
}

/// Ten modules that have what they need, and nobody who wants anything: what the daemons do of themselves.
pub fn idle() -> Result<Vec<Number>, Failure> {
    let gateway = Gateway::new()?;
    gateway.configure_with(
        "[runtime]\nmodule_network = \"127.77.0.0/24\"\n[mqtt]\nleaf_listen = \"127.0.0.1:18883\"\n",
    )?;
    let runtime = runtime()?;
    let server = gateway.start()?;
    let control = gateway.layout().control_socket();
    wait_for("identityd", WAIT, || {
        std::os::unix::net::UnixStream::connect(&control).map(drop).map_err(failed)
    })?;
    runtime.block_on(gateway.join())?;
    let image = image()?;
    let modules: Vec<Value> =
        (0..IDLE_MODULES).map(|n| json!({"name": name(n), "image": image.reference.to_string()})).collect();
    runtime.block_on(gateway.deploy(&json!({
        "name": "bench", "version": 1, "trust_domain": "bench.example", "modules": modules, "policy": "",
        "image_keys": [{"name": "ci", "public_key": image.key.public_pem()}],
    })))?;
    let mut gatewayd = crate::mqtt::start_gatewayd(&gateway)?;
    let cgroups = Cgroups::new()?;
    let mut workers = Vec::new();
    for number in 0..IDLE_MODULES {
        let instance = runtime.block_on(prepare(&gateway, &image, number))?;
        let socket = gateway.layout().workload_socket(&instance);
        let mut worker = cgroups.spawn(&name(number), &Work::Hold { socket, streams: 1 })?;
        let address = Ipv4Addr::new(10, 77, 0, number.saturating_add(2));
        runtime.block_on(gateway.ask(questions::Started { instance, pid: worker.pid()?, address }))?;
        worker.go()?;
        worker.line()?;
        workers.push(worker);
    }
    thread::sleep(SETTLED);
    gatewayd.check()?;
    let before = [effort(server.pid())?, effort(gatewayd.pid())?];
    let begun = Instant::now();
    thread::sleep(IDLE);
    let after = [effort(server.pid())?, effort(gatewayd.pid())?];
    let seconds = begun.elapsed().as_secs_f64();
    let mut numbers = Vec::new();
    for (names, (before, after)) in [
        ["identityd, idle CPU, 10 modules", "  its threads wake up"],
        ["gatewayd, idle CPU, 10 modules", "  its threads wake up"],
    ]
    .into_iter()
    .zip(before.into_iter().zip(after))
    {
        let [cpu, wakes] = names;
        let percent = (after.seconds - before.seconds) / seconds * 100.0;
        numbers.push(Number::of_values(cpu, "%", Target::AtMost(0.3), vec![percent]));
        numbers.push(Number::of_values(
            wakes,
            "1/s",
            Target::None,
            vec![(after.wakes - before.wakes) / seconds],
        ));
    }
    Ok(numbers)
}

/// Processor seconds that the threads of a process have used, and the times that they have waited.
struct Effort {
    seconds: f64,
    wakes: f64,
}

fn effort(pid: u32) -> Result<Effort, Failure> {
    let mut effort = Effort { seconds: 0.0, wakes: 0.0 };
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        // A thread may end meanwhile.
        let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
        let nanos: f64 =
            read("schedstat").split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
        effort.seconds += nanos / 1e9;
        let status = read("status");
        let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        effort.wakes += waits.and_then(|text| text.trim().parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(effort)
}

/// Milliseconds of a fetch by one module while another one asks for all that it can get.
fn beside_noise(cgroups: &Cgroups, noisy: &Path, quiet: &Path) -> Result<Number, Failure> {
    let mut loud = cgroups.spawn(&name(0), &Work::Noise { socket: noisy.into() })?;
    ensure(loud.line()? == "loud", || "there is no noise".into())?;
    let mut fetching = cgroups.spawn(&name(1), &Work::Fetch { socket: quiet.into(), times: 1000 })?;
    let took = serde_json::from_str(&fetching.line()?).map_err(failed)?;
    Ok(Number::of_values(
        "connect and fetch beside a module that asks without pause",
        "ms",
        Target::WorstAtMost(10.0),
        took,
    ))
}

/// From the request for another certificate to its arrival on the module's stream.
fn fresh(
    gateway: &Gateway,
    runtime: &tokio::runtime::Runtime,
    worker: &mut Worker,
) -> Result<Number, Failure> {
    let module = ModuleName::parse(&name(0)).map_err(failed)?;
    let mut samples = Vec::new();
    for _ in 0..300 {
        let begun = now_nanos();
        runtime.block_on(gateway.ask(questions::Rotate { module: Some(module.clone()) }))?;
        let arrived: u128 = worker.line()?.parse().map_err(failed)?;
        let took = u64::try_from(arrived.saturating_sub(begun)).map_err(failed)?;
        samples.push(Duration::from_nanos(took));
    }
    let millis = |took: Duration| took.as_secs_f64() * 1e3;
    Ok(Number::of(
        "a fresh SVID, asked for to in the module's hand",
        "ms",
        Target::WorstAtMost(10.0),
        &samples,
        millis,
    ))
}

/// Two modules that meet all the time, while all certificates are changed again and again.
fn handshakes(
    gateway: &Gateway,
    runtime: &tokio::runtime::Runtime,
    cgroups: &Cgroups,
    serving: &Path,
    connecting: &Path,
) -> Result<Vec<Number>, Failure> {
    let address = "127.0.0.1:7443".parse().map_err(failed)?;
    let mut server = cgroups.spawn(&name(1), &Work::Serve { socket: serving.into(), address })?;
    server.line()?;
    let work = Work::Connect { socket: connecting.into(), address, rate: RATE, seconds: SECONDS };
    let mut client = cgroups.spawn(&name(2), &work)?;
    let begun = Instant::now();
    let mut rotations = 0;
    while begun.elapsed() < Duration::from_secs(SECONDS) {
        runtime.block_on(gateway.ask(questions::Rotate { module: None }))?;
        rotations += 1;
        thread::sleep(Duration::from_secs(1));
    }
    let told: Handshakes = serde_json::from_str(&client.line()?).map_err(failed)?;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let (good, bad) = (told.good as f64, told.failed as f64);
    if let Some(why) = told.why {
        eprintln!("the first failed handshake of {}: {why}", told.failed);
    }
    eprintln!("{rotations} rotations of every module meanwhile");
    Ok(vec![
        Number::of_values(
            "mutual TLS handshakes during rotations",
            "1/s",
            Target::Rate,
            vec![good / told.seconds],
        ),
        Number::of_values("  of them failed", "", Target::AtMost(0.0), vec![bad]),
    ])
}

/// Memory of `identityd` while a stranger is refused over and over: its slope.
fn churn(socket: &Path, server: &Server) -> Result<Number, Failure> {
    let seconds =
        std::env::var("EW_BENCH_CHURN_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let work = serde_json::to_string(&Work::Churn { socket: socket.into(), seconds }).map_err(failed)?;
    let mut child = Command::new(std::env::current_exe()?)
        .env(WORK, work)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut points = Vec::new();
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        points.push((begun.elapsed().as_secs_f64() / 60.0, pss(server.pid(), "Pss_Anon:")? * 1024.0));
        thread::sleep(Duration::from_secs(1));
    }
    let output = child.wait_with_output()?;
    ensure(output.status.success(), || "the churning caller failed".into())?;
    // What the first refusals need is there by then.
    let settled = points.split_off(points.len() / 2);
    eprintln!("{} refusals in {seconds} s", String::from_utf8_lossy(&output.stdout).trim());
    Ok(Number::of_values(
        "memory under refusals, slope",
        "kB/min",
        Target::AtMost(64.0),
        vec![slope(&settled)],
    ))
}

/// Of the line through the points with the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let count = points.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let together: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    together / spread
}

/// A certificate that is there, over a connection of its own for each.
pub fn warm(runtime: &tokio::runtime::Runtime, socket: &Path) -> Result<Number, Failure> {
    let mut samples = Vec::new();
    for _ in 0..1000 {
        let begun = Instant::now();
        runtime.block_on(fetch_once(socket)).map_err(failed)?;
        samples.push(begun.elapsed());
    }
    let millis = |took: Duration| took.as_secs_f64() * 1e3;
    Ok(Number::of("Workload API, connect and fetch", "ms", Target::WorstAtMost(2.0), &samples, millis))
}
