//! `identityd` as a process of its own: what it cannot do, how it ends, and what survives when it is killed.

use crate::common;

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use common::container::{Container, Job};
use common::image::{Image, document_with};
use common::iotedge::Site;
use common::{Gateway, ask, until};
use edgewarden_appraisal::{ReferenceValues, VendorRoots, appraise, challenge};
use edgewarden_evidence::runtime_log::{ReplayError, Replayed, RuntimeLog};
use edgewarden_identityd::{Daemon, RunError};
use edgewarden_image_trust::sign::SigningKey;
use edgewarden_names::{LeafName, UnixTime};
use edgewarden_protocol::config::Config;
use edgewarden_protocol::control::{ExportedQuote, Reply, Request, questions};
use edgewarden_protocol::enrol::{Challenge, Enrolled};
use edgewarden_protocol::layout::Layout;
use edgewarden_simulator_tpm::{Scenario, SimulatedTpm};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

/// A user of the tests.
const IDENTITY_UID: u32 = 64_903;
const SERVE: &str = "EW_TEST_SERVE";
const LINE: &str = "EW_TEST_LINE ";

#[derive(Serialize, Deserialize)]
struct Serve {
    root: PathBuf,
    config: Config,
    /// Try what a confined process must not be able to do, once it serves.
    probe: bool,
}

/// The other process: this very program, run again.
#[test]
fn serve() {
    let Ok(serve) = std::env::var(SERVE) else { return };
    let serve: Serve = serde_json::from_str(&serve).unwrap();
    let layout = Layout::new(serve.root);
    let control = layout.control_socket();
    let probe = serve.probe.then(|| std::thread::spawn(move || probe(&control)));
    edgewarden_identityd::run(&layout, serve.config).unwrap();
    if let Some(probe) = probe {
        probe.join().unwrap();
    }
    println!("\n{LINE}ended");
}

fn probe(control: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(until("the service", async || {
        let mut client = edgewarden_exchange::client::Client::connect(control).await.ok()?;
        client.ask(questions::Status).await.ok()
    }));
    let tried = [
        ("tcp", TcpListener::bind("127.0.0.1:0").map(drop)),
        ("tcp6", TcpListener::bind("[::1]:0").map(drop)),
        ("udp", UdpSocket::bind("127.0.0.1:0").map(drop)),
        ("connection", std::net::TcpStream::connect("127.0.0.1:1").map(drop)),
        ("exec", Command::new("/bin/true").status().map(drop)),
    ];
    for (what, outcome) in tried {
        println!("\n{LINE}{what} {}", outcome.map_or_else(|e| e.kind().to_string(), |()| "possible".into()));
    }
    println!("\n{LINE}probed");
}

/// A process that is killed when the test ends, however it ends.
struct Process(Child);

impl Process {
    fn start(gateway: &Gateway, probe: bool) -> Self {
        Self::start_as(gateway, probe, 0)
    }

    fn start_as(gateway: &Gateway, probe: bool, uid: u32) -> Self {
        let serve = Serve { root: gateway.folder.path().into(), config: gateway.config.clone(), probe };
        // As systemd and shells start programs: with a low limit that they may raise.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -Sn 1024 && exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
        command
            .args(["--exact", "process::serve", "--nocapture"])
            .env(SERVE, serde_json::to_string(&serve).unwrap());
        command.uid(uid).gid(uid);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn status_line(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn ready(gateway: &Gateway) {
    until("the service", async || {
        let mut client = edgewarden_exchange::client::Client::connect(&gateway.control()).await.ok()?;
        client.ask(questions::Status).await.ok()
    })
    .await;
}

/// The sockets that the process has open, by the kernel's tables of its network namespace: their kinds.
fn open_sockets(pid: u32) -> Vec<String> {
    let tables = ["tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "icmp6", "packet", "netlink", "unix"];
    let tables = tables
        .map(|kind| (kind, std::fs::read_to_string(format!("/proc/{pid}/net/{kind}")).unwrap_or_default()));
    let descriptors =
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap().path());
    descriptors
        .filter_map(|path| std::fs::read_link(path).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .map(|inode| {
            let found = tables.iter().find(|(_, text)| text.split_whitespace().any(|word| *word == inode));
            found.map_or_else(|| format!("socket {inode} of no known kind"), |(kind, _)| (*kind).to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn identityd_opens_no_network_socket() {
    // What is looked for is found where it is.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(open_sockets(std::process::id()).contains(&"tcp".to_owned()));
    drop(listener);
    let gateway = Gateway::new();
    let process = Process::start(&gateway, false);
    ready(&gateway).await;
    gateway.join().await;
    gateway.deploy(&common::document(1)).await;
    let _connection = edgewarden_exchange::client::Client::connect(&gateway.control()).await.unwrap();
    let socket = gateway.layout().workload_socket("runtimed");
    edgewarden_workload_client::fetch_once(&socket).await.unwrap();
    let sockets = open_sockets(process.0.id());
    assert!(sockets.len() >= 3, "control and two workload sockets: {sockets:?}");
    assert!(sockets.iter().all(|kind| kind == "unix"), "{sockets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_no_network_starts_nothing_and_ends_on_sigterm() {
    let gateway = Gateway::new();
    let mut process = Process::start(&gateway, true);
    ready(&gateway).await;
    assert_eq!(process.status_line("NoNewPrivs:"), "1");
    assert_eq!(process.status_line("Seccomp:"), "2");
    // What it is for works under confinement.
    gateway.join().await;
    gateway.deploy(&common::document(1)).await;
    assert!(matches!(gateway.ask(Request::StorageKey).await.unwrap(), Reply::StorageKey(_)));
    let socket = gateway.layout().workload_socket("runtimed");
    edgewarden_workload_client::fetch_once(&socket).await.unwrap();

    let output = process.0.stdout.take().unwrap();
    let (lines, said) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        use std::io::BufRead as _;
        for line in std::io::BufReader::new(output).lines().map_while(Result::ok) {
            if let Some((_, line)) = line.split_once(LINE) {
                drop(lines.send(line.to_owned()));
            }
        }
    });
    let mut said = said;
    for expected in [
        "tcp permission denied",
        "tcp6 permission denied",
        "udp permission denied",
        "connection permission denied",
        "exec permission denied",
        "probed",
    ] {
        assert_eq!(said.recv().await.as_deref(), Some(expected));
    }
    let client = spiffe::WorkloadApiClient::connect_to(format!("unix:{}", socket.display())).await.unwrap();
    let mut stream = client.stream_x509_contexts().await.unwrap();
    stream.next().await.unwrap().unwrap();
    let pid = nix::unistd::Pid::from_raw(process.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    // Who is served is told, also by the stock client.
    let why = format!("{:?}", stream.next().await.unwrap().unwrap_err());
    assert!(why.contains("identity.unavailable: the service is stopping"), "{why}");
    assert_eq!(said.recv().await.as_deref(), Some("ended"));
    assert!(process.0.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_needs_no_privileges_and_grants_its_own_user_none() {
    let gateway = Gateway::new();
    // As the supervisor sets it up: the folders and files of `identityd` belong to its user.
    let layout = gateway.layout();
    let owned = [layout.identity_state(), layout.identity_run()];
    for folder in &owned {
        std::fs::create_dir_all(folder).unwrap();
    }
    for file in ["root.pem", "operator.pem", "passphrase"] {
        chown(gateway.folder.path().join(file), Some(IDENTITY_UID), Some(IDENTITY_UID)).unwrap();
    }
    for folder in &owned {
        chown(folder, Some(IDENTITY_UID), Some(IDENTITY_UID)).unwrap();
    }
    let process = Process::start_as(&gateway, false, IDENTITY_UID);
    ready(&gateway).await;
    assert!(process.status_line("Uid:").starts_with("64903"));
    gateway.join().await;
    let key = SigningKey::generate().unwrap();
    let image = Image::new("alerts", "one").signed(&key);
    gateway.deploy(&document_with(1, &key, &[("alerts", &image)])).await;
    let judge = Request::ImageJudge(Box::new(image.evidence("alerts")));
    let Reply::Permit(permit) = gateway.ask(judge).await.unwrap() else { panic!() };
    gateway.ask(Request::StartPrepare { permit: permit.permit }).await.unwrap();
    let container = Container::new();
    let address = std::net::Ipv4Addr::new(10, 77, 0, 2);
    gateway
        .ask(Request::Started { instance: permit.instance.clone(), pid: container.pid(), address })
        .await
        .unwrap();
    let fetch = Job::Fetch { socket: layout.workload_socket(&permit.instance) };
    assert!(container.call(&fetch).identity().ends_with("/module/alerts"));
    assert!(fetch.by_user(0).failure().contains("caller.not_module"));

    // Its own user has no rights, neither on the control socket nor on the sockets of others.
    let status = Job::Ask { socket: gateway.control(), request: Box::new(Request::Status) };
    let Reply::Refused(refusal) = status.by_user(IDENTITY_UID).reply() else { panic!() };
    assert_eq!(refusal.reason, edgewarden_names::Reason::PeerUnauthorized);
    let runtimed = Job::Fetch { socket: layout.workload_socket("runtimed") };
    assert!(runtimed.by_user(IDENTITY_UID).failure().contains("caller.not_module"));
    assert!(runtimed.by_user(0).identity().ends_with("/module/runtimed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_iot_edge_api_works_under_confinement_and_its_keys_survive_a_kill() {
    let gateway = Gateway::new();
    let mut process = Process::start(&gateway, false);
    ready(&gateway).await;
    assert_eq!(process.status_line("Seccomp:"), "2");
    let site = Site::of(gateway).await;
    let alerts = site.start("alerts").await;
    let (digest, sealed) = (alerts.sign("primary", "aGk="), alerts.encrypt("aGk=", "aXY="));
    assert_eq!(digest.0, 200, "{}", digest.1);
    assert_eq!(alerts.own("certificate/server", &serde_json::json!({"commonName": "alerts"})).0, 201);
    process.kill();
    let _process = Process::start(&site.gateway, false);
    ready(&site.gateway).await;
    assert_eq!(alerts.sign("primary", "aGk="), digest);
    assert_eq!(alerts.decrypt(&sealed, "aXY=").0, 200);
}

/// The fleet's part in an enrolment, with the TPM's vendor and this very boot as references.
async fn join_by_tpm(gateway: &Gateway, tpm: &SimulatedTpm) {
    let vendors = VendorRoots::from_pem(&std::fs::read(tpm.vendor_ca()).unwrap()).unwrap();
    let references = [ReferenceValues::learn("normal", &std::fs::read(tpm.event_log()).unwrap()).unwrap()];
    let now = UnixTime::now();
    let Reply::DeviceKeys(keys) = gateway.ask(Request::EnrolKeys).await.unwrap() else { panic!() };
    let (parts, pending) = challenge(&keys, &vendors, now).unwrap();
    let challenge =
        Challenge { session: "1".into(), nonce: parts.nonce, pcrs: parts.pcrs, credential: parts.credential };
    let Reply::Proof(proof) = gateway.ask(Request::EnrolProve(challenge)).await.unwrap() else { panic!() };
    let appraised = appraise(&pending, &proof, &references, now).unwrap();
    let issued = gateway
        .root
        .certify_gateway_ca(appraised.ca_public_point(), &common::gateway_name(), 30 * common::DAY, now)
        .unwrap();
    let enrolled = Enrolled {
        gateway_ca: issued.chain_der[0].clone().into(),
        root: gateway.root.certificate_der().into(),
        verdict: appraised.verdict().clone(),
    };
    gateway.ask(Request::EnrolAccept(Box::new(enrolled))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_is_used_under_confinement_and_after_a_kill() {
    let mut gateway = Gateway::new();
    let tpm = SimulatedTpm::start(&gateway.folder.path().join("tpm"), Scenario::Normal).unwrap();
    gateway.config.keystore = edgewarden_protocol::config::Keystore::DangerousSimulatedTpm {
        address: ([127, 0, 0, 1], tpm.port()).into(),
    };
    gateway.config.attestation.event_log = tpm.event_log();
    let mut process = Process::start(&gateway, false);
    ready(&gateway).await;
    assert_eq!(process.status_line("Seccomp:"), "2");
    let status = gateway.status().await;
    assert!(status.dangerous && status.keystore.contains("dangerous"), "{}", status.keystore);
    join_by_tpm(&gateway, &tpm).await;
    let key = gateway.ask(Request::StorageKey).await.unwrap();
    let socket = gateway.layout().workload_socket("runtimed");
    edgewarden_workload_client::fetch_once(&socket).await.unwrap();

    process.kill();
    let _process = Process::start(&gateway, false);
    ready(&gateway).await;
    edgewarden_workload_client::fetch_once(&socket).await.unwrap();
    assert_eq!(gateway.ask(Request::StorageKey).await.unwrap(), key);
    let nonce = vec![9; 32];
    let Reply::Quote(quote) = gateway.ask(Request::AttestQuote { nonce: nonce.into() }).await.unwrap() else {
        panic!()
    };
    assert_eq!(quote.event_log.as_slice(), std::fs::read(tpm.event_log()).unwrap());
    assert!(quote.ak_public.starts_with("-----BEGIN PUBLIC KEY-----") && quote.pcrs.len() == 11);
}

fn runtime_log_of(quote: &ExportedQuote) -> Result<Replayed, ReplayError> {
    let pcr = quote.runtime_pcr.unwrap();
    let (_, value) = quote.pcrs.iter().find(|(index, _)| *index == pcr).unwrap();
    RuntimeLog::parse(quote.runtime_log.as_slice()).unwrap().replay(pcr, value.as_slice())
}

async fn exported(gateway: &Gateway) -> ExportedQuote {
    match gateway.ask(Request::AttestQuote { nonce: vec![9; 32].into() }).await.unwrap() {
        Reply::Quote(quote) => *quote,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_log_is_proven_by_the_quote_over_kills_and_boots() {
    let mut gateway = Gateway::new();
    let mut tpm = SimulatedTpm::start(&gateway.folder.path().join("tpm"), Scenario::Normal).unwrap();
    gateway.config.keystore = edgewarden_protocol::config::Keystore::DangerousSimulatedTpm {
        address: ([127, 0, 0, 1], tpm.port()).into(),
    };
    gateway.config.attestation.event_log = tpm.event_log();
    let mut process = Process::start(&gateway, false);
    ready(&gateway).await;
    join_by_tpm(&gateway, &tpm).await;
    let quote = exported(&gateway).await;
    assert_eq!(quote.runtime_pcr, Some(15));
    let first = runtime_log_of(&quote).unwrap();
    assert_eq!((first.boots, first.unexplained), (1, 0));
    assert!(String::from_utf8_lossy(quote.runtime_log.as_slice()).contains("kind=enrol.accepted"));
    let shorter: Vec<u8> = {
        let text = String::from_utf8(quote.runtime_log.as_slice().to_vec()).unwrap();
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        lines[..lines.len() - 1].concat().into()
    };
    let cut = ExportedQuote { runtime_log: shorter.into(), ..quote };
    assert_eq!(runtime_log_of(&cut), Err(ReplayError::NotQuoted));

    process.kill();
    let mut process = Process::start(&gateway, false);
    ready(&gateway).await;
    let again = runtime_log_of(&exported(&gateway).await).unwrap();
    assert!(again.entries >= first.entries && again.boots == 1 && again.unexplained == 0, "{again:?}");

    // Another boot: PCR 15 is at its beginning again, and what the fleet judges is as it was.
    process.kill();
    tpm.power_cut().unwrap();
    tpm.reboot(Scenario::Normal).unwrap();
    let _process = Process::start(&gateway, false);
    ready(&gateway).await;
    join_by_tpm(&gateway, &tpm).await;
    let booted = runtime_log_of(&exported(&gateway).await).unwrap();
    assert!(booted.entries > again.entries && booted.boots == 2 && booted.unexplained == 0, "{booted:?}");
    let status = gateway.status().await;
    assert!(status.runtime_log.starts_with("PCR 15, "), "{}", status.runtime_log);
    assert!(!status.refusals.iter().any(|(_, refusal)| refusal.subject == "runtime log"));
}

/// A connection takes three descriptors, and 128 modules have thousands of them.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_files_may_be_open_as_the_hard_limit_allows() {
    let gateway = Gateway::new();
    let process = Process::start(&gateway, false);
    ready(&gateway).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.0.id())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let [soft, hard] =
        line.split_whitespace().take(2).map(|most| most.parse::<u64>().unwrap()).collect::<Vec<_>>()[..]
    else {
        panic!("{line}")
    };
    assert_eq!(soft, hard.min(65_536), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_state_has_one_identityd_and_without_a_tpm_there_is_no_runtime_log() {
    let gateway = Gateway::new();
    let mut process = Process::start(&gateway, false);
    ready(&gateway).await;
    assert_eq!(gateway.status().await.runtime_log, "none: the keystore has no PCRs");
    let second = Daemon::open(gateway.layout(), gateway.config.clone(), None).await;
    let error = second.err().unwrap();
    assert!(matches!(error, RunError::InUse(_)), "{error}");
    assert!(error.to_string().contains("another identityd"), "{error}");
    // The first one is not disturbed, and its end gives the state back, however it ends.
    gateway.status().await;
    process.kill();
    let _again = Process::start(&gateway, false);
    ready(&gateway).await;
}

/// As on hardware: the kernel's event log is root's, and who starts `identityd` leaves it a copy.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_log_that_only_root_reads_is_read_from_its_copy() {
    let mut gateway = Gateway::new();
    let tpm = SimulatedTpm::start(&gateway.folder.path().join("tpm"), Scenario::Normal).unwrap();
    gateway.config.keystore = edgewarden_protocol::config::Keystore::DangerousSimulatedTpm {
        address: ([127, 0, 0, 1], tpm.port()).into(),
    };
    let log = std::fs::read(tpm.event_log()).unwrap();
    let kernel = gateway.folder.path().join("securityfs");
    std::fs::create_dir(&kernel).unwrap();
    gateway.config.attestation.event_log = kernel.join("binary_bios_measurements");
    std::fs::write(&gateway.config.attestation.event_log, &log).unwrap();
    std::fs::set_permissions(
        &gateway.config.attestation.event_log,
        std::os::unix::fs::PermissionsExt::from_mode(0o400),
    )
    .unwrap();
    let layout = gateway.layout();
    for folder in [layout.identity_state(), layout.identity_run()] {
        std::fs::create_dir_all(&folder).unwrap();
        chown(&folder, Some(IDENTITY_UID), Some(IDENTITY_UID)).unwrap();
    }
    for file in ["root.pem", "operator.pem"] {
        chown(gateway.folder.path().join(file), Some(IDENTITY_UID), Some(IDENTITY_UID)).unwrap();
    }
    let _process = Process::start_as(&gateway, false, IDENTITY_UID);
    ready(&gateway).await;
    let quote = || Request::AttestQuote { nonce: vec![9; 32].into() };
    assert_eq!(
        gateway.refused(quote()).await,
        edgewarden_names::Reason::AttestLogMissing,
        "there is no copy"
    );
    std::fs::write(layout.event_log_copy(), &log).unwrap();
    chown(layout.event_log_copy(), Some(IDENTITY_UID), Some(IDENTITY_UID)).unwrap();
    join_by_tpm(&gateway, &tpm).await;
    let Reply::Quote(quote) = gateway.ask(quote()).await.unwrap() else { panic!() };
    assert_eq!(quote.event_log.as_slice(), log);
}

fn die(sides: u64) -> u64 {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes) % sides
}

/// Acknowledged state, which must be there after any crash.
#[derive(Default)]
struct Acknowledged {
    version: u64,
    generation: u64,
    audited: u64,
    token: Option<String>,
}

/// Writes state as fast as it is acknowledged, until the process is gone.
async fn write_until_killed(
    gateway: &Gateway,
    key: &SigningKey,
    image: &Image,
    known: &mut Acknowledged,
) -> Option<()> {
    let socket = gateway.control();
    loop {
        let mut client = edgewarden_exchange::client::Client::connect(&socket).await.ok()?;
        let envelope = gateway.operator.sign(&document_with(known.version + 1, key, &[("alerts", image)]));
        let deployment = client.ask(questions::DeploymentAccept(envelope)).await.ok()?;
        known.version = deployment.deployment.version;
        let judge = questions::ImageJudge(Box::new(image.evidence("alerts")));
        let permit = client.ask(judge).await.ok()?;
        assert!(permit.generation.0 > known.generation, "generation {} was used before", permit.generation);
        known.generation = permit.generation.0;
        known.token = None;
        let leaf = LeafName::parse("sensor-1").unwrap();
        let allow = questions::LeafAllow { leaf, lifetime_seconds: 600 };
        known.token = Some(client.ask(allow).await.ok()?.token.reveal().to_owned());
        known.audited = client.ask(questions::Audit { last: 1 }).await.ok()?[0].sequence;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_fifty_kills() {
    let gateway = Gateway::new();
    let key = SigningKey::generate().unwrap();
    let image = Image::new("alerts", "one").signed(&key);
    let mut known = Acknowledged::default();
    let mut process = Process::start(&gateway, false);
    ready(&gateway).await;
    gateway.join().await;
    for round in 0..50 {
        let socket = gateway.control();
        match ask(&socket, &Request::Deployment).await.unwrap() {
            Reply::Done => assert_eq!(known.version, 0, "round {round}: the deployment is lost"),
            Reply::Deployment(found) => {
                let version = found.deployment.version;
                assert!((known.version..=known.version + 1).contains(&version), "round {round}: {version}");
                known.version = version;
            }
            other => panic!("{other:?}"),
        }
        let Reply::Audit(entries) = ask(&socket, &Request::Audit { last: 1 }).await.unwrap() else {
            panic!()
        };
        assert!(entries[0].sequence > known.audited, "round {round}: the audit log lost lines");
        assert!(gateway.status().await.verdict.is_some(), "round {round}: the enrolment is lost");

        let working = write_until_killed(&gateway, &key, &image, &mut known);
        let moment = Duration::from_micros(die(40_000));
        let killing = async {
            tokio::time::sleep(moment).await;
            process.kill();
        };
        tokio::join!(working, killing);
        if die(2) == 0 {
            // And once more while it starts.
            process = Process::start(&gateway, false);
            tokio::time::sleep(Duration::from_micros(die(60_000))).await;
            process.kill();
        }
        process = Process::start(&gateway, false);
        ready(&gateway).await;
    }
    assert!(known.version > 0 && known.generation > 0);
    let old = gateway.operator.sign(&document_with(known.version, &key, &[]));
    assert_eq!(
        gateway.refused(Request::DeploymentAccept(old)).await,
        edgewarden_names::Reason::DeploymentRollback
    );
}
