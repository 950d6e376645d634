//! The examples of `examples/clients`, each as a module of a real gateway: it gets its identity, a token and its trust,
//! sees one rotation, and gets nothing from outside of its container.
//!
//! What they need is fetched once and kept beneath the target folder. Where the tool chain is not there, or the packages
//! cannot be fetched, the test says so and is skipped. The one in C has its test at `cli/edgewarden/tests/edgewarden/client_in_c.rs`.

use crate::common;

/// The example in Rust, so that it is built whenever its test is.
use crate::in_rust;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::container::{Answer, Container, Job};
use common::fetched::{kept, name_of, set_up};
use common::iotedge::{Running, Site};
use edgewarden_names::ModuleName;
use edgewarden_protocol::control::Request;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use x509_parser::prelude::{FromDer as _, X509Certificate};

const ID: &str = "spiffe://plant.example/gateway/gw-1/module/plain";
const AUDIENCE: &str = "records.plant.example";
const IN_RUST: &str = "EW_TEST_IN_RUST";

fn example(language: &str, file: &str) -> PathBuf {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/clients");
    clients.join(language).join(file)
}

/// Serial number and end of the certificate that the module has now.
fn certificate(running: &Running, socket: &Path) -> [String; 2] {
    let Answer::Identity { id, leaf } = running.container.call(&Job::Fetch { socket: socket.into() }) else {
        panic!("no identity")
    };
    assert_eq!(id, ID);
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    let end = leaf.validity().not_after.to_datetime().format(&Rfc3339).unwrap();
    [leaf.serial.to_str_radix(16), end]
}

/// Runs an example to its end; the gateway rotates when it waits. Its lines, and what it said on standard error if it
/// failed.
async fn run(site: &Site, command: &Command, inside: Option<&Container>) -> Result<Vec<String>, String> {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args()).envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let mut command =
        tokio::process::Command::from(inside.map_or(copy, |container| container.command(command)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    let conversation = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line == "waiting for the next certificate" {
                let module = Some(ModuleName::parse("plain").unwrap());
                site.gateway.ask(Request::Rotate { module }).await.unwrap();
            }
            said.push(line);
        }
        child.wait_with_output().await.unwrap()
    };
    // An end for what hangs.
    let ended = tokio::time::timeout(Duration::from_secs(120), conversation).await;
    let Ok(output) = ended else { panic!("it does not end: {said:#?}") };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(said) } else { Err(stderr) }
}

/// An example as the module, as another module, and as a process of no module.
async fn drive(mut client: Command) {
    let site = Site::new().await;
    let running = site.start("plain").await;
    let socket = site.gateway.layout().workload_socket(&running.instance);
    client.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display()));

    for stranger in [None, Some(Container::new())] {
        let said = run(&site, &client, stranger.as_ref()).await.unwrap_err();
        let denied =
            said.lines().find(|line| line.starts_with("refused: ")).unwrap_or_else(|| panic!("{said}"));
        assert!(denied.contains("caller.not_module"), "{said}");
    }

    let [first, end] = certificate(&running, &socket);
    let said = run(&site, &client, Some(&running.container)).await;
    let said = said.unwrap_or_else(|why| panic!("{why}"));
    let [second, _] = certificate(&running, &socket);
    assert_ne!(first, second);
    let expected = [
        format!("identity: {ID}"),
        format!("serial: {first}"),
        format!("ends: {end}"),
        format!("token: {ID} for {AUDIENCE}"),
        "trusts: plant.example".into(),
        "waiting for the next certificate".into(),
        format!("serial: {second}"),
    ];
    // What the test harness says around the example in Rust is none of its lines.
    let said: Vec<_> = said.into_iter().filter(|line| !line.is_empty() && !line.contains("test")).collect();
    assert_eq!(said, expected);
}

#[tokio::test]
async fn as_the_module() {
    if std::env::var_os(IN_RUST).is_some()
        && let Err(error) = in_rust::run(AUDIENCE).await
    {
        eprintln!("refused: {error}");
        std::process::exit(1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_rust_follows_its_identity() {
    let mut client = Command::new(std::env::current_exe().unwrap());
    client.args(["--exact", "clients::as_the_module", "--nocapture"]).env(IN_RUST, "1");
    drive(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_python_follows_its_identity() {
    let requirements = example("python", "requirements.txt");
    let Some(name) = name_of("client-python", &["python3", "--version"], std::slice::from_ref(&requirements))
    else {
        return;
    };
    let Some(folder) = set_up(&name, |folder| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]);
        pip.arg("--target").arg(folder).arg("-r").arg(&requirements);
        pip
    }) else {
        return;
    };
    let mut client = Command::new("python3");
    client.arg("-B").arg(example("python", "client.py")).arg(AUDIENCE).env("PYTHONPATH", folder);
    drive(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_go_follows_its_identity() {
    let files = ["go.mod", "go.sum", "main.go"].map(|file| example("go", file));
    let Some(name) = name_of("client-go", &["go", "version"], &files) else { return };
    let tool = |arguments: &[&str]| {
        let mut command = Command::new("go");
        command.args(arguments).current_dir(example("go", "")).env("GOTOOLCHAIN", "local");
        command.env("GOFLAGS", "-mod=readonly -buildvcs=false");
        command
    };
    let Some(folder) = set_up(&name, |_| tool(&["mod", "download"])) else { return };
    let binary = folder.join("client");
    if !binary.exists() {
        let built = tool(&["build", "-o", binary.to_str().unwrap(), "."]).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    let mut client = Command::new(binary);
    client.arg(AUDIENCE);
    drive(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_node_follows_its_identity() {
    let files = ["package.json", "package-lock.json"].map(|file| example("node", file));
    let Some(name) = name_of("client-node", &["node", "--version"], &files) else { return };
    let Some(folder) = set_up(&name, |folder| {
        for file in &files {
            std::fs::copy(file, folder.join(file.file_name().unwrap())).unwrap();
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(folder);
        npm
    }) else {
        return;
    };
    let mut client = Command::new("node");
    client.arg(example("node", "client.js")).arg(AUDIENCE).env("NODE_PATH", folder.join("node_modules"));
    drive(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_in_java_follows_its_identity() {
    let files = ["pom.xml", "src/main/java/Client.java"].map(|file| example("java", file));
    let Some(name) = name_of("client-java", &["javac", "-version"], &files) else { return };
    let Some(folder) = set_up(&name, |folder| {
        std::fs::create_dir_all(folder.join("src/main/java")).unwrap();
        std::fs::copy(&files[0], folder.join("pom.xml")).unwrap();
        std::fs::copy(&files[1], folder.join("src/main/java/Client.java")).unwrap();
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "compile"]).current_dir(folder);
        maven.arg(format!("-Dmaven.repo.local={}", kept("maven").display()));
        maven
    }) else {
        return;
    };
    let target = folder.join("target");
    let mut client = Command::new("java");
    client.arg("-cp").arg(format!("{0}/classes:{0}/lib/*", target.display())).args(["Client", AUDIENCE]);
    drive(client).await;
}

/// The example in Node.js has a copy, for who takes its folder.
#[test]
fn the_description_that_node_reads_is_ours() {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../workload-api/proto/workloadapi.proto");
    assert_eq!(std::fs::read(example("node", "workloadapi.proto")).unwrap(), std::fs::read(ours).unwrap());
}
