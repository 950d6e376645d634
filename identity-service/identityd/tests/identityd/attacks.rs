//! Attempts at another's identity. Each works against a check that believes numbers, which shows that it is one, and
//! not against ours.

use crate::attacker;
use crate::common;
use crate::guest;

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use attacker::{Line, Moment, Role, Speech, receive, said, serve_naively, wait_until};
use common::Gateway;
use common::container::Container;
use common::image::{Image, document_with};
use edgewarden_image_trust::sign::SigningKey;
use edgewarden_protocol::control::{Prepared, Reply, Request};

#[tokio::test]
async fn role() {
    attacker::play().await;
}

const ALERTS: &str = "spiffe://plant.example/gateway/gw-1/module/alerts";

/// A joined gateway on which the module `alerts` runs in a container.
struct Target {
    gateway: Gateway,
    image: Image,
    container: Container,
    prepared: Prepared,
}

impl Target {
    async fn new() -> Self {
        let gateway = Gateway::started().await;
        gateway.join().await;
        let key = SigningKey::generate().unwrap();
        let image = Image::new("alerts", "one").signed(&key);
        gateway.deploy(&document_with(1, &key, &[("alerts", &image)])).await;
        let container = Container::new();
        let prepared = start(&gateway, &image, &container, 2).await;
        Self { gateway, image, container, prepared }
    }

    fn socket(&self) -> PathBuf {
        self.prepared.workload_folder.join("api.sock")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.gateway.folder.path().join(name)
    }

    /// A naive server's socket.
    fn naive(
        &self,
        moment: Moment,
        check: impl Fn(attacker::Credentials) -> bool + Clone + Send + 'static,
    ) -> PathBuf {
        let socket = self.file("naive.sock");
        serve_naively(&socket, moment, check);
        socket
    }

    /// The attack on both: what the naive server gives, and what ours refuses.
    fn against_both(&self, naive: PathBuf, attack: impl Fn(PathBuf, Speech) -> Vec<Result<String, String>>) {
        let taken_in = attack(naive, Speech::Byte);
        assert_eq!(taken_in.last(), Some(&Ok("the module's".into())), "this is no attack: {taken_in:?}");
        let ours = attack(self.socket(), Speech::WorkloadApi);
        refused(ours.last().unwrap());
    }
}

fn refused(answer: &Result<String, String>) {
    let why = answer.as_ref().unwrap_err();
    assert!(why.starts_with("caller."), "{why}");
}

async fn start(gateway: &Gateway, image: &Image, container: &Container, last: u8) -> Prepared {
    let Reply::Permit(permit) =
        gateway.ask(Request::ImageJudge(Box::new(image.evidence("alerts")))).await.unwrap()
    else {
        panic!("no permit")
    };
    let Reply::Prepared(prepared) =
        gateway.ask(Request::StartPrepare { permit: permit.permit.clone() }).await.unwrap()
    else {
        panic!("not prepared")
    };
    let address = Ipv4Addr::new(10, 77, 0, last);
    let instance = prepared.instance.clone();
    gateway.ask(Request::Started { instance, pid: container.pid(), address }).await.unwrap();
    prepared
}

fn runs(pid: i32, program: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|running| running == program)
}

fn cgroup_of(pid: i32) -> String {
    edgewarden_platform::process::cgroup(pid).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_fork_and_exec_of_a_trusted_program() {
    let target = Target::new().await;
    // The same file for both, so that path and content are what they should be.
    let trusted = std::fs::canonicalize("/bin/sleep").unwrap();
    let believed = trusted.clone();
    let naive = target.naive(Moment::EachCall, move |caller| runs(caller.pid, &believed));
    target.against_both(naive, |socket, speech| {
        said(Role::ConnectForkExec { socket, speech, become_program: trusted.clone() }.start())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_passed_on_by_a_process_that_is_gone() {
    let target = Target::new().await;
    let cgroup = target.container.cgroup.clone();
    let naive = target.naive(Moment::Accept, move |caller| cgroup_of(caller.pid) == cgroup);
    for (number, (socket, speech)) in
        [(naive, Speech::Byte), (target.socket(), Speech::WorkloadApi)].into_iter().enumerate()
    {
        let (to, go) = (target.file(&format!("to-{number}")), target.file(&format!("go-{number}")));
        let listener = UnixListener::bind(&to).unwrap();
        let mut giver =
            target.container.spawn(&Role::ConnectAndGive { socket, to, go: go.clone() }.command());
        let mut line = Line::over(receive(&listener), speech).await;
        // As long as its maker lives and speaks for the module, so does the connection.
        assert!(line.ask().await.is_ok());
        std::fs::write(go, "").unwrap();
        giver.wait().unwrap();
        let answer = line.ask().await;
        match speech {
            Speech::Byte => assert_eq!(answer, Ok("the module's".into()), "this is no attack"),
            Speech::WorkloadApi => refused(&answer),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_left_its_cgroup() {
    let target = Target::new().await;
    let elsewhere = Container::new();
    let cgroup = target.container.cgroup.clone();
    let naive = target.naive(Moment::Accept, move |caller| cgroup_of(caller.pid) == cgroup);
    target.against_both(naive, |socket, speech| {
        let (asked, go) = (target.file(&format!("asked-{speech:?}")), target.file(&format!("go-{speech:?}")));
        let role = Role::AskTwice { socket, speech, asked: asked.clone(), go: go.clone() };
        let child = target.container.spawn(&role.command());
        wait_until("the first answer", || asked.exists());
        elsewhere.take_in(child.id());
        std::fs::write(go, "").unwrap();
        let answers = said(child);
        assert!(answers.len() == 2 && answers[0].is_ok(), "{answers:?}");
        answers
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survivor_of_the_instance_before() {
    let mut target = Target::new().await;
    // By name: any connection that was once the module's.
    let cgroup = target.container.cgroup.clone();
    let naive = target.naive(Moment::Accept, move |caller| cgroup_of(caller.pid) == cgroup);
    let mut survivors = Vec::new();
    for (socket, speech) in [(naive, Speech::Byte), (target.socket(), Speech::WorkloadApi)] {
        let (asked, go) = (target.file(&format!("asked-{speech:?}")), target.file(&format!("go-{speech:?}")));
        let role = Role::AskTwice { socket, speech, asked: asked.clone(), go: go.clone() };
        survivors.push((target.container.spawn(&role.command()), go));
        wait_until("the first answer", || asked.exists());
    }
    // The first process ends, another one of the container lives on; then the module is started again.
    target.container.kill();
    target.gateway.ask(Request::Stopped { instance: target.prepared.instance.clone() }).await.unwrap();
    let successor = Container::new();
    let prepared = start(&target.gateway, &target.image, &successor, 3).await;
    assert_ne!(prepared.instance, target.prepared.instance);
    let mut answers = Vec::new();
    for (child, go) in survivors {
        std::fs::write(go, "").unwrap();
        answers.push(said(child));
    }
    assert_eq!(answers[0], [Ok("the module's".into()), Ok("the module's".into())], "this is no attack");
    assert_eq!(answers[1][0], Ok(ALERTS.into()));
    // The socket is gone with the instance: whatever the error is, it holds no identity.
    assert!(answers[1][1].is_err(), "{answers:?}");
    // And over the socket of the new instance neither.
    let survivor = Role::Speak { speech: Speech::WorkloadApi, go: "/".into() };
    let connection =
        std::os::unix::net::UnixStream::connect(prepared.workload_folder.join("api.sock")).unwrap();
    let mut command = survivor.command();
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(connection)));
    refused(&said(command.stdout(Stdio::piped()).spawn().unwrap())[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_process_of_the_same_user_and_image() {
    let target = Target::new().await;
    let ours = std::env::current_exe().unwrap();
    let inode = std::fs::metadata(&ours).unwrap().ino();
    let naive = target.naive(Moment::EachCall, move |caller| {
        let same_file =
            std::fs::metadata(format!("/proc/{}/exe", caller.pid)).is_ok_and(|file| file.ino() == inode);
        caller.uid == 0 && same_file
    });
    let elsewhere = Container::new();
    target.against_both(naive, |socket, speech| {
        let name = |what: &str| target.file(&format!("{what}-{speech:?}"));
        let role = Role::AskTwice { socket, speech, asked: name("asked"), go: target.file("naive.sock") };
        said(elsewhere.spawn(&role.command()))
    });
}

/// On a kernel without SO_PEERPIDFD, with each layout of cgroups, the same attacks come to the same end.
fn in_a_guest(cgroups: guest::Cgroups) {
    if guest::is_inside() {
        return;
    }
    let Some(said) = guest::say(cgroups, "attacks:: --test-threads=2 --skip a_guest") else { return };
    if !said.lines().any(|line| line.starts_with("6.1.")) {
        eprintln!("this kernel has SO_PEERPIDFD: what stands in for it was not tried");
    }
    let unified = said.lines().any(|line| line == "0::/");
    let counted = said.lines().any(|line| line.contains(":pids:"));
    assert_eq!((counted, unified), (cgroups != guest::Cgroups::V2, cgroups != guest::Cgroups::V1), "{said}");
    for attack in [
        "connect_fork_and_exec_of_a_trusted_program",
        "a_connection_passed_on_by_a_process_that_is_gone",
        "a_process_that_left_its_cgroup",
        "a_survivor_of_the_instance_before",
        "a_foreign_process_of_the_same_user_and_image",
        "a_number_that_went_to_another_process",
        "secret_discovery::secrets_are_given_within_the_module_and_for_as_long_as_it_lives",
    ] {
        assert!(said.contains(&format!("test attacks::{attack} ... ok")), "{attack}: {said}");
    }
    assert!(said.contains("test result: ok.") && !said.contains("skipped:"), "{said}");
}

#[test]
fn a_guest_with_cgroups_v1() {
    in_a_guest(guest::Cgroups::V1);
}

#[test]
fn a_guest_with_hybrid_cgroups() {
    in_a_guest(guest::Cgroups::Hybrid);
}

#[test]
fn a_guest_with_cgroups_v2() {
    in_a_guest(guest::Cgroups::V2);
}

/// Runs the test below in a pid namespace of its own, in which numbers come round soon.
#[test]
fn a_number_that_went_to_another_process() {
    if !pid_max_is_ours() {
        eprintln!("skipped: this kernel has one pid_max for all namespaces (Linux 6.14 has one for each)");
        return;
    }
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "attacks::in_a_namespace_with_few_numbers", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// True when process numbers can be made few without harm to others.
fn pid_max_is_ours() -> bool {
    if guest::is_inside() {
        return true;
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 14)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test in a namespace of its own"]
async fn in_a_namespace_with_few_numbers() {
    assert!(pid_max_is_ours() && std::process::id() < 100, "not in a namespace of its own");
    std::fs::write("/proc/sys/kernel/pid_max", "400").unwrap();
    // Numbers below 300 do not come round (RESERVED_PIDS in the kernel's pid.c).
    while Command::new("true").spawn().is_ok_and(|mut child| child.wait().is_ok() && child.id() < 310) {}
    let target = Target::new().await;
    let cgroup = target.container.cgroup.clone();
    let naive = target.naive(Moment::EachCall, move |caller| cgroup_of(caller.pid) == cgroup);
    target.against_both(naive, |socket, speech| {
        let go = target.file(&format!("go-{speech:?}"));
        let mut attacker = Role::ConnectForkExit { socket, speech, go: go.clone() }.start();
        let number = attacker.id();
        attacker.wait().unwrap();
        // The module's own processes come and go until one of them has the number.
        let victim = victim_with(&target.container, number);
        std::fs::write(go, "").unwrap();
        let answers = said(attacker);
        end(victim);
        answers
    });
}

fn victim_with(container: &Container, number: u32) -> Child {
    for _ in 0..2000 {
        let child = container.spawn(Command::new("sleep").arg("1000"));
        if child.id() == number {
            wait_until("the module's process", || cgroup_of(number.try_into().unwrap()) == container.cgroup);
            return child;
        }
        end(child);
    }
    panic!("the number {number} does not come round");
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

mod secret_discovery {
    use std::time::Duration;

    use futures_util::StreamExt as _;
    use futures_util::stream::{iter, pending};
    use hyper_util::rt::TokioIo;
    use tonic::transport::{Channel, Endpoint};
    use tonic::{Code, Streaming};

    use super::*;
    use edgewarden_workload_wire::envoy::envoy::service::discovery::v3::{
        DiscoveryRequest, DiscoveryResponse,
    };
    use edgewarden_workload_wire::envoy::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;

    async fn client(socket: &Path) -> SecretDiscoveryServiceClient<Channel> {
        let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        let stream = std::sync::Mutex::new(Some(stream));
        let connector = tower::service_fn(move |_| {
            let stream = stream.lock().unwrap().take();
            async move { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("one connection only")) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
        SecretDiscoveryServiceClient::new(channel.unwrap())
    }

    fn ask(name: &str) -> DiscoveryRequest {
        DiscoveryRequest { resource_names: vec![name.into()], ..DiscoveryRequest::default() }
    }

    /// A stream that stays open, with its first answer read.
    async fn open(socket: &Path, name: &str) -> Result<Streaming<DiscoveryResponse>, tonic::Status> {
        let requests = iter([ask(name)]).chain(pending());
        let mut answers = client(socket).await.stream_secrets(requests).await?.into_inner();
        let first = answers.message().await?.unwrap();
        assert_eq!(first.resources.len(), 1);
        Ok(answers)
    }

    /// Envoy's way to an identity goes by the same judgement: only from within, only what is the module's, and no longer
    /// than the instance lives.
    #[tokio::test(flavor = "multi_thread")]
    async fn secrets_are_given_within_the_module_and_for_as_long_as_it_lives() {
        let mut target = Target::new().await;
        let inside = target.container.relay(&target.socket(), &target.file("inside.sock"));
        let mut held = Vec::new();
        for name in ["default", ALERTS, "ROOTCA"] {
            held.push(open(&inside.socket, name).await.unwrap());
        }
        let others = "spiffe://plant.example/gateway/gw-1/module/analytics";
        let refused = open(&inside.socket, others).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");

        let elsewhere = Container::new();
        let foreign = elsewhere.relay(&target.socket(), &target.file("foreign.sock"));
        for socket in [foreign.socket.clone(), target.socket()] {
            let streamed = open(&socket, "default").await.unwrap_err();
            let fetched = client(&socket).await.fetch_secrets(ask("default")).await.err().unwrap();
            assert_eq!((streamed.code(), fetched.code()), (Code::PermissionDenied, Code::PermissionDenied));
        }

        // Another process of the module lives on, with its streams open, when the module's own ends.
        target.container.kill();
        for mut stream in held {
            let ended = tokio::time::timeout(Duration::from_secs(60), stream.message()).await.unwrap();
            // By a status, or with the connection.
            assert!(ended.is_err());
        }
        wait_until("the end of the socket", || !target.socket().exists());
    }
}
