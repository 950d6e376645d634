//! `./ew bench`: measures the numbers of docs/specification.md, and says on what machine and of which commit.
//!
//! Each number is many samples; printed are the median and the worst of a hundred (p99). What needs a TPM or a network
//! runs in a sandbox: a simulated TPM, loopback, and no way out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use clap::{Parser, ValueEnum};
use edgewarden_appraisal::{ReferenceValues, VendorRoots, appraise, challenge};
use edgewarden_ca::{CaSigner, IssuingCa, RootCa, SignError, pem, spki};
use edgewarden_evidence::event_log::EventLog;
use edgewarden_names::{Epoch, GatewayName, LeafName, ModuleName, SpiffeId, TrustDomain, UnixTime};
use edgewarden_policy::{Principal, compile};
use edgewarden_protocol::client::Client;
use edgewarden_protocol::control::{Reply, Request};
use edgewarden_protocol::deployment::Deployment;
use edgewarden_protocol::enrol::{Challenge, Enrolled};
use edgewarden_protocol::layout::Layout;
use edgewarden_queue::Queue;
use edgewarden_simulator_tpm::{Scenario, SimulatedTpm};
use edgewarden_tests::process::{Server, run, wait_for};
use edgewarden_tests::{Failure, ensure, sandbox};
use edgewarden_workload_api::client::fetch_once;
use serde_json::{Value, json};
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(86400);
const WAIT: Duration = Duration::from_secs(20);

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

/// What a number must be.
#[derive(Debug, Clone, Copy)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// More is better.
    Rate,
    None,
}

struct Number {
    name: &'static str,
    unit: &'static str,
    target: Target,
    median: f64,
    p99: f64,
    samples: usize,
}

impl Number {
    /// `samples` are durations; `per` turns one into the number's unit.
    fn of(
        name: &'static str,
        unit: &'static str,
        target: Target,
        samples: &[Duration],
        per: impl Fn(Duration) -> f64,
    ) -> Self {
        let values = samples.iter().map(|sample| per(*sample)).collect();
        // The worst of a rate is a low one.
        Self::of_values(name, unit, target, values)
    }

    fn of_values(name: &'static str, unit: &'static str, target: Target, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        if matches!(target, Target::AtLeast(_) | Target::Rate) {
            values.reverse();
        }
        let at = |part: usize| {
            let index = values.len().saturating_mul(part).div_ceil(100).saturating_sub(1);
            values.get(index).copied().unwrap_or(f64::NAN)
        };
        Self { name, unit, target, median: at(50), p99: at(99), samples: values.len() }
    }

    fn met(&self) -> Option<bool> {
        match self.target {
            Target::AtLeast(least) => Some(self.median >= least),
            Target::AtMost(most) => Some(self.median <= most),
            Target::Rate | Target::None => None,
        }
    }

    fn target_text(&self) -> String {
        match self.target {
            Target::AtLeast(least) => format!("\u{2265} {least}"),
            Target::AtMost(most) => format!("\u{2264} {most}"),
            Target::Rate | Target::None => String::new(),
        }
    }
}

fn main() -> ExitCode {
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
    let mut numbers = Vec::new();
    let mut take = |group: &str, measure: &mut dyn FnMut() -> Result<Vec<Number>, Failure>| {
        if wanted(group) {
            eprintln!("measuring {group}");
            numbers.extend(measure()?);
        }
        Ok::<_, Failure>(())
    };
    take("certificates", &mut || Ok(vec![certificates()?]))?;
    take("policy", &mut || Ok(vec![policy()?]))?;
    take("queue", &mut || Ok(vec![queue()?]))?;
    take("identityd", &mut identityd)?;
    let machine = machine();
    if arguments.output == Format::Json {
        let one = |number: &Number| {
            json!({"name": number.name, "unit": number.unit, "median": number.median, "p99": number.p99,
                   "samples": number.samples, "target": number.target_text(), "met": number.met()})
        };
        let numbers: Vec<Value> = numbers.iter().map(one).collect();
        println!("{}", json!({"machine": machine, "numbers": numbers}));
    } else {
        println!(
            "{:<44} {:>12} {:>12} {:<6} {:>8} {:>9}",
            "number", "median", "p99", "unit", "target", "samples"
        );
        for number in &numbers {
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
    Ok(ExitCode::SUCCESS)
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

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string())
}

fn domain() -> Result<TrustDomain, Failure> {
    TrustDomain::parse("bench.example").map_err(failed)
}

fn gateway() -> Result<GatewayName, Failure> {
    GatewayName::parse("gw-bench").map_err(failed)
}

struct Key(EcdsaKeyPair);

impl CaSigner for Key {
    fn public_point(&self) -> Result<Vec<u8>, SignError> {
        Ok(self.0.public_key().as_ref().to_vec())
    }
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| SignError::new(Failure::new("no signature")))?.as_ref().to_vec())
    }
}

/// Fresh key and certificate for each, on one core, as modules get them.
fn certificates() -> Result<Number, Failure> {
    const BATCH: u32 = 100;
    let (domain, gateway, now) = (domain()?, gateway()?, UnixTime::now());
    let root = RootCa::create(&domain, 365 * DAY, now).map_err(failed)?;
    let key = Key(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?);
    let point = key.public_point().map_err(failed)?;
    let ca = root.certify_gateway_ca(&point, &gateway, 30 * DAY, now).map_err(failed)?;
    let ca = ca.chain_der.first().ok_or_else(|| Failure::new("no certificate"))?;
    let issuing = IssuingCa::create(&key, ca, &domain, &gateway, 8 * DAY, now).map_err(failed)?;
    let id = SpiffeId::module(&domain, &gateway, &ModuleName::parse("analytics").map_err(failed)?);
    let dns = vec!["analytics".to_owned()];
    let mut samples = Vec::new();
    for _ in 0..120 {
        let begun = Instant::now();
        for _ in 0..BATCH {
            issuing.issue_svid(&id, &dns, DAY / 24, now).map_err(failed)?;
        }
        samples.push(begun.elapsed());
    }
    let rate = |batch: Duration| f64::from(BATCH) / batch.as_secs_f64();
    Ok(Number::of("fresh P-256 certificates, one core", "1/s", Target::AtLeast(5000.0), &samples, rate))
}

const POLICY: &str = r#"
@id("broker") permit (principal, action == Action::"connect", resource);
@id("own-topics")
permit (principal in LeafGroup::"sensors", action == Action::"publish", resource in TopicFilter::"reading")
when { resource has owner && resource.owner == principal };
@id("reads")
permit (principal == Module::"analytics", action in [Action::"subscribe", Action::"receive"],
        resource == TopicFilter::"all-readings");
"#;

/// May this leaf publish on this topic? A hundred leaves, each with its own topic.
fn policy() -> Result<Number, Failure> {
    const BATCH: u32 = 1000;
    let leaves: Vec<Value> =
        (0..100).map(|n| json!({"name": format!("leaf-{n}"), "groups": ["sensors"]})).collect();
    let document = json!({
        "name": "bench", "version": 1, "trust_domain": "bench.example",
        "image_keys": [{"name": "ci", "public_key": public_pem()?}],
        "modules": [{"name": "analytics", "image": format!("registry.example/a@sha256:{}", "0".repeat(64))}],
        "leaves": leaves,
        "topics": [{"name": "reading", "filter": "leaf/{leaf}/reading"}, {"name": "all-readings", "filter": "leaf/+/reading"}],
        "policy": POLICY,
    });
    let deployment = Deployment::parse(document.to_string().as_bytes()).map_err(failed)?;
    let epoch = compile(&deployment, &gateway()?, Epoch(1)).map_err(failed)?;
    let principal = Principal::Leaf(LeafName::parse("leaf-42").map_err(failed)?);
    let mut samples = Vec::new();
    for _ in 0..500 {
        let begun = Instant::now();
        for n in 0..BATCH {
            let topic = if n % 2 == 0 { "leaf/leaf-42/reading" } else { "leaf/leaf-43/reading" };
            let decision = epoch.may_publish(&principal, std::hint::black_box(topic));
            if decision.allowed != (n % 2 == 0) {
                return Err(Failure::new("the policy decides wrongly"));
            }
        }
        samples.push(begun.elapsed());
    }
    let each = |batch: Duration| batch.as_secs_f64() * 1e9 / f64::from(BATCH);
    Ok(Number::of("policy decision", "ns", Target::None, &samples, each))
}

fn public_pem() -> Result<String, Failure> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
    spki::to_pem(key.public_key().as_ref()).map_err(failed)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Messages of 256 bytes, each on disk before it counts, 64 at a time.
fn queue() -> Result<Number, Failure> {
    const AT_A_TIME: u32 = 64;
    let folder = tempfile::tempdir()?;
    let rates = runtime()?.block_on(async {
        let queue =
            Queue::open(folder.path(), Zeroizing::new([3; 32]), 256 * 1024 * 1024).await.map_err(failed)?;
        let mut samples = Vec::new();
        for _ in 0..200 {
            let begun = Instant::now();
            let mut appending = Vec::new();
            for _ in 0..AT_A_TIME {
                appending.push(queue.submit(vec![7; 256]).await.map_err(failed)?);
            }
            for append in appending {
                append.done().await.map_err(failed)?;
            }
            samples.push(begun.elapsed());
        }
        queue.close().await;
        Ok::<_, Failure>(samples)
    })?;
    let rate = |batch: Duration| f64::from(AT_A_TIME) / batch.as_secs_f64();
    let values = rates.into_iter().map(rate).collect();
    Ok(Number::of_values("queue, durable appends, 64 at a time", "1/s", Target::Rate, values))
}

/// A gateway with a simulated TPM, joined to a fleet that this program is.
struct Gateway {
    folder: tempfile::TempDir,
    tpm: SimulatedTpm,
    program: PathBuf,
    root: RootCa,
}

impl Gateway {
    fn new() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let tpm = SimulatedTpm::start(&folder.path().join("tpm"), Scenario::Normal).map_err(failed)?;
        let root = RootCa::create(&domain()?, 365 * DAY, UnixTime::now()).map_err(failed)?;
        let program = std::env::current_exe()?.with_file_name("edgewarden");
        ensure(program.exists(), || format!("`{}` is not built", program.display()))?;
        let gateway = Self { folder, tpm, program, root };
        gateway.configure()?;
        Ok(gateway)
    }

    fn layout(&self) -> Layout {
        Layout::new(self.folder.path())
    }

    fn configure(&self) -> Result<(), Failure> {
        let path = |name: &str| self.folder.path().join(name);
        fs::write(path("root.pem"), pem::encode(pem::CERTIFICATE, self.root.certificate_der()))?;
        fs::write(path("operator.pem"), public_pem()?)?;
        let config = format!(
            "[gateway]\nname = \"gw-bench\"\ntrust_domain = \"bench.example\"\n\
             [fleet]\nurl = \"https://127.0.0.1:1\"\nroot = \"{}\"\noperator_keys = [\"{}\"]\n\
             [keystore]\nkind = \"dangerous-simulated-tpm\"\naddress = \"127.0.0.1:{}\"\n\
             [attestation]\nevent_log = \"{}\"\n",
            path("root.pem").display(),
            path("operator.pem").display(),
            self.tpm.port(),
            self.tpm.event_log().display()
        );
        let file = self.layout().config_file();
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        Ok(fs::write(file, config)?)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.folder.path()).arg("identityd").env("TSS2_LOG", "all+NONE");
        command
    }

    fn start(&self) -> Result<Server, Failure> {
        Server::start("identityd", &mut self.command(), &self.folder.path().join("identityd.log"))
    }

    async fn ask(&self, request: Request) -> Result<Reply, Failure> {
        let mut client = Client::connect(&self.layout().control_socket()).await.map_err(failed)?;
        client.ask(&request).await.map_err(failed)
    }

    async fn join(&self) -> Result<(), Failure> {
        let now = UnixTime::now();
        let vendors = VendorRoots::from_pem(&fs::read(self.tpm.vendor_ca())?).map_err(failed)?;
        let log = fs::read(self.tpm.event_log())?;
        let references = [ReferenceValues::learn("normal", &log).map_err(failed)?];
        let Reply::DeviceKeys(keys) = self.ask(Request::EnrolKeys).await? else {
            return Err(Failure::new("no device keys"));
        };
        let (parts, pending) = challenge(&keys, &vendors, now).map_err(failed)?;
        let asked = Challenge {
            session: "1".into(),
            nonce: parts.nonce,
            pcrs: parts.pcrs,
            credential: parts.credential,
        };
        let Reply::Proof(proof) = self.ask(Request::EnrolProve(asked)).await? else {
            return Err(Failure::new("no proof"));
        };
        let appraised =
            appraise(&pending, &proof, &references, now).map_err(|failure| failed(failure.refusal))?;
        let issued = self.root.certify_gateway_ca(appraised.ca_public_point(), &gateway()?, 30 * DAY, now);
        let chain = issued.map_err(failed)?.chain_der;
        let enrolled = Enrolled {
            gateway_ca: chain.first().cloned().unwrap_or_default().into(),
            root: self.root.certificate_der().into(),
            verdict: appraised.verdict().clone(),
        };
        self.ask(Request::EnrolAccept(Box::new(enrolled))).await.map(drop)
    }
}

fn identityd() -> Result<Vec<Number>, Failure> {
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
    let mut warm = Vec::new();
    for _ in 0..1000 {
        let begun = Instant::now();
        runtime.block_on(fetch_once(&socket)).map_err(failed)?;
        warm.push(begun.elapsed());
    }
    let micros = |took: Duration| took.as_secs_f64() * 1e6;
    numbers.push(Number::of("Workload API, connect and fetch", "us", Target::None, &warm, micros));
    server.stop();

    let log = fs::read(gateway.tpm.event_log())?;
    let mut replays = Vec::new();
    for _ in 0..1000 {
        let begun = Instant::now();
        let parsed = EventLog::parse(std::hint::black_box(&log)).map_err(failed)?;
        std::hint::black_box(parsed.replay());
        replays.push(begun.elapsed());
    }
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
fn pss(pid: u32, kind: &str) -> Result<f64, Failure> {
    let text = run(Command::new("cat").arg(format!("/proc/{pid}/smaps_rollup")))?.ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(kind));
    let kilobytes: Option<f64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kilobytes.map(|kilobytes| kilobytes / 1024.0).ok_or_else(|| Failure::new("no PSS in smaps_rollup"))
}
