//! Processes in cgroups of their own, and calls made from inside them.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use edgewarden_protocol::control::{Reply, Request};
use edgewarden_workload_client::FetchError;
use serde::{Deserialize, Serialize};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// A cgroup with one process that waits, like a container whose first process has not run yet.
pub struct Container {
    folder: PathBuf,
    /// The path that `/proc/<pid>/cgroup` shows.
    pub cgroup: String,
    process: Child,
}

/// The mounted hierarchy that counts processes.
fn hierarchy() -> PathBuf {
    let v1 = PathBuf::from("/sys/fs/cgroup/pids");
    if v1.is_dir() { v1 } else { "/sys/fs/cgroup".into() }
}

impl Container {
    pub fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/ew-test-{}-{number}", std::process::id());
        let folder = hierarchy().join(cgroup.trim_start_matches('/'));
        std::fs::create_dir(&folder).unwrap();
        let process = enter(&folder, Command::new("sleep").arg("1000")).spawn().unwrap();
        let container = Self { folder, cgroup, process };
        // The shell has become `sleep` only after it has entered the cgroup.
        let entered = || std::fs::read_to_string(container.folder.join("cgroup.procs")).unwrap();
        while entered().is_empty() {
            std::thread::yield_now();
        }
        container
    }

    pub fn pid(&self) -> i32 {
        self.process.id().try_into().unwrap()
    }

    /// Ends the first process.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// A command that runs inside.
    pub fn command(&self, command: &Command) -> Command {
        enter(&self.folder, command)
    }

    /// A process inside, started and not waited for.
    pub fn spawn(&self, command: &Command) -> Child {
        enter(&self.folder, command).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Takes a process of another cgroup in.
    pub fn take_in(&self, pid: u32) {
        std::fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// A socket outside whose connections are made by a process inside: to the kernel, that one calls.
    pub fn relay(&self, socket: &Path, at: &Path) -> Relay {
        let job = Job::Relay { socket: socket.into(), at: at.into() };
        let mut command = enter(&self.folder, &job.command());
        let process = command.stdout(Stdio::null()).spawn().unwrap();
        let relay = Relay { process, socket: at.into() };
        while std::os::unix::net::UnixStream::connect(at).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        relay
    }

    /// Does a job from a process inside.
    pub fn call(&self, job: &Job) -> Answer {
        answer(enter(&self.folder, &job.command()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Already gone is what is wanted.
        drop(self.process.kill());
        drop(self.process.wait());
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// A process inside a container that makes connections for who is outside, as long as it is held.
pub struct Relay {
    process: Child,
    pub socket: PathBuf,
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

async fn relay(socket: &Path, at: &Path) {
    let listener = tokio::net::UnixListener::bind(at).unwrap();
    loop {
        let (mut outside, _) = listener.accept().await.unwrap();
        // A socket that is gone ends the connection.
        let Ok(mut inside) = tokio::net::UnixStream::connect(socket).await else { continue };
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut outside, &mut inside).await });
    }
}

/// Script that runs a command in a cgroup without the files that the test's process has open: the TSS's connection to a
/// TPM would live on in children, and a simulated TPM has one at a time.
pub const ENTER: &str = r#"
    echo $$ > "$0" || exit
    for fd in /proc/$$/fd/*; do
        fd=${fd##*/}
        if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi
    done
    exec "$@"
"#;

/// The command, in a cgroup from its first instruction on.
fn enter(folder: &Path, command: &Command) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", ENTER]).arg(folder.join("cgroup.procs"));
    shell.arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    shell
}

/// Work of another process for a test: this very program, run again.
#[derive(Debug, Serialize, Deserialize)]
pub enum Job {
    /// Fetches an identity once.
    Fetch { socket: PathBuf },
    /// Sends bytes and reads what comes back until the other side closes.
    Exchange { socket: PathBuf, request: String },
    /// Gets one secret.
    Secret { socket: PathBuf, name: String },
    /// Reads so many messages of a stream of secrets.
    WatchSecrets { socket: PathBuf, messages: usize },
    /// Asks the control socket.
    Ask { socket: PathBuf, request: Box<Request> },
    /// Makes the connections of a socket, until it is killed.
    Relay { socket: PathBuf, at: PathBuf },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Identity { id: String, leaf: Vec<u8> },
    Reply(Box<Reply>),
    Text(String),
    Failed(String),
}

impl Answer {
    pub fn failure(self) -> String {
        match self {
            Self::Failed(why) => why,
            other => panic!("{other:?}"),
        }
    }
    pub fn identity(self) -> String {
        match self {
            Self::Identity { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }
    pub fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }
    pub fn reply(self) -> Reply {
        match self {
            Self::Reply(reply) => *reply,
            other => panic!("{other:?}"),
        }
    }
}

const JOB: &str = "EW_TEST_JOB";
const MARK: &str = "EW_TEST_ANSWER ";

impl Job {
    fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "job", "--nocapture"]).env(JOB, serde_json::to_string(self).unwrap());
        command
    }

    /// Done by a process of another user.
    pub fn by_user(&self, uid: u32) -> Answer {
        let mut command = self.command();
        command.uid(uid).gid(uid);
        answer(command)
    }
}

fn answer(mut command: Command) -> Answer {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once(MARK)).unwrap_or_else(|| panic!("{text}")).1;
    serde_json::from_str(line).unwrap()
}

async fn exchange(socket: &Path, request: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::UnixStream::connect(socket).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

fn shown(secret: &edgewarden_workload_wire::secrets::Secret) -> String {
    format!("{} {} {}", secret.name, secret.version, String::from_utf8_lossy(&secret.value))
}

async fn secret(socket: &Path, name: &str) -> Result<String, FetchError> {
    edgewarden_workload_client::secrets::get(socket, name).await.map(|secret| shown(&secret))
}

async fn watch_secrets(socket: &Path, messages: usize) -> Result<String, FetchError> {
    let mut watch = edgewarden_workload_client::secrets::watch(socket).await?;
    let mut said = Vec::new();
    for _ in 0..messages {
        let secrets = watch.next().await?;
        said.push(secrets.iter().map(shown).collect::<Vec<_>>().join(", "));
    }
    Ok(said.join("; "))
}

/// The other side: to be called by a test named `job`.
pub async fn do_job() {
    let Ok(job) = std::env::var(JOB) else { return };
    let answer = match serde_json::from_str(&job).unwrap() {
        Job::Fetch { socket } => match edgewarden_workload_client::fetch_once(&socket).await {
            Ok(context) => {
                Answer::Identity { id: context.id.to_string(), leaf: context.chain_der[0].clone() }
            }
            Err(error) => Answer::Failed(error.to_string()),
        },
        Job::Exchange { socket, request } => match exchange(&socket, &request).await {
            Ok(text) => Answer::Text(text),
            Err(error) => Answer::Failed(error.to_string()),
        },
        Job::Secret { socket, name } => match secret(&socket, &name).await {
            Ok(text) => Answer::Text(text),
            Err(error) => Answer::Failed(error.to_string()),
        },
        Job::WatchSecrets { socket, messages } => match watch_secrets(&socket, messages).await {
            Ok(text) => Answer::Text(text),
            Err(error) => Answer::Failed(error.to_string()),
        },
        Job::Relay { socket, at } => {
            relay(&socket, &at).await;
            return;
        }
        Job::Ask { socket, request } => {
            let mut client = edgewarden_exchange::client::Client::connect(&socket).await.unwrap();
            match client.exchange::<Request, Reply>(&request).await {
                Ok(reply) => Answer::Reply(Box::new(reply)),
                Err(error) => Answer::Failed(error.to_string()),
            }
        }
    };
    println!("\n{MARK}{}", serde_json::to_string(&answer).unwrap());
}
