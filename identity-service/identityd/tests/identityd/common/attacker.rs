//! Processes that want an identity that is not theirs, and servers that are taken in by them.
//!
//! An attacker is this very program, run again in a role. What it does by itself, it does over its standard input,
//! which is the connection: so a process can be given one that another made.

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tonic::transport::{Channel, Endpoint};

use edgewarden_workload_wire::workloadapi::X509svidRequest;
use edgewarden_workload_wire::workloadapi::spiffe_workload_api_client::SpiffeWorkloadApiClient;

/// Protocol that a socket is spoken to by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Speech {
    /// One byte, answered with one: what the naive servers understand.
    Byte,
    WorkloadApi,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Role {
    /// Connects, leaves the connection to a child, and becomes another program.
    ConnectForkExec { socket: PathBuf, speech: Speech, become_program: PathBuf },
    /// Connects, leaves the connection to a child, and ends.
    ConnectForkExit { socket: PathBuf, speech: Speech, go: PathBuf },
    /// Connects, sends the connection to who listens at `to`, and lives until `go` is there.
    ConnectAndGive { socket: PathBuf, to: PathBuf, go: PathBuf },
    /// Asks over the connection that is its standard input, once `go` is there.
    Speak { speech: Speech, go: PathBuf },
    /// Asks, and asks again over the same connection once `go` is there; tells of the first by making `asked`.
    AskTwice { socket: PathBuf, speech: Speech, asked: PathBuf, go: PathBuf },
}

const ROLE: &str = "EW_TEST_ROLE";
const MARK: &str = "EW_TEST_SAYS ";

impl Role {
    pub fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "attacks::role", "--nocapture"])
            .env(ROLE, serde_json::to_string(self).unwrap());
        command
    }

    /// Started; what it says is read with [`said`].
    pub fn start(&self) -> Child {
        self.command().stdout(Stdio::piped()).spawn().unwrap()
    }
}

/// Answers that an attacker got, or the child that it left its output to: one for each time that it asked.
pub fn said(child: Child) -> Vec<Result<String, String>> {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answers = text.lines().filter_map(|line| line.split_once(MARK));
    answers.map(|(_, answer)| serde_json::from_str(answer).unwrap()).collect()
}

pub fn wait_until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain for: {what}");
}

/// To be called by a test named `role`.
pub async fn play() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match serde_json::from_str(&role).unwrap() {
        Role::ConnectForkExec { socket, speech, become_program } => {
            let connection = UnixStream::connect(socket).unwrap();
            let go = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
            leave_to_child(connection, speech, &go, Some(&become_program));
            let error = Command::new(&become_program).arg("1000").stdout(Stdio::null()).exec();
            panic!("{error}");
        }
        Role::ConnectForkExit { socket, speech, go } => {
            leave_to_child(UnixStream::connect(socket).unwrap(), speech, &go, None);
            std::process::exit(0);
        }
        Role::ConnectAndGive { socket, to, go } => {
            let connection = UnixStream::connect(socket).unwrap();
            let receiver = UnixStream::connect(to).unwrap();
            let rights = [connection.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
            sendmsg(&receiver, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
            wait_until("the word to end", || go.exists());
            std::process::exit(0);
        }
        Role::Speak { speech, go } => {
            let becomes = std::env::var_os(BECOMES);
            match &becomes {
                Some(program) => {
                    wait_until("the other program", || {
                        std::fs::read_link(&go).is_ok_and(|running| running == Path::new(program))
                    });
                }
                None => wait_until("the word to speak", || go.exists()),
            }
            let connection = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
            tell(&Line::over(connection, speech).await.ask().await);
            if becomes.is_some() {
                // Its part is played: it would be waited for.
                nix::sys::signal::kill(nix::unistd::getppid(), nix::sys::signal::Signal::SIGKILL).unwrap();
            }
        }
        Role::AskTwice { socket, speech, asked, go } => {
            let mut line = Line::over(UnixStream::connect(socket).unwrap(), speech).await;
            tell(&line.ask().await);
            std::fs::write(asked, "").unwrap();
            tokio::task::spawn_blocking(move || wait_until("the word to ask again", || go.exists()))
                .await
                .unwrap();
            tell(&line.ask().await);
        }
    }
}

const BECOMES: &str = "EW_TEST_BECOMES";

#[expect(clippy::zombie_processes, reason = "it outlives this process: that is the attack")]
fn leave_to_child(connection: UnixStream, speech: Speech, go: &Path, becomes: Option<&Path>) {
    let mut child = Role::Speak { speech, go: go.into() }.command();
    if let Some(program) = becomes {
        child.env(BECOMES, program);
    }
    child.stdin(Stdio::from(OwnedFd::from(connection))).spawn().unwrap();
}

fn tell(answer: &Result<String, String>) {
    println!("\n{MARK}{}", serde_json::to_string(answer).unwrap());
}

/// One connection, and its language.
pub enum Line {
    Byte(UnixStream),
    WorkloadApi(Box<SpiffeWorkloadApiClient<Channel>>),
}

impl Line {
    pub async fn over(connection: UnixStream, speech: Speech) -> Self {
        if speech == Speech::Byte {
            return Self::Byte(connection);
        }
        connection.set_nonblocking(true).unwrap();
        let stream = Arc::new(Mutex::new(Some(tokio::net::UnixStream::from_std(connection).unwrap())));
        let connector = tower::service_fn(move |_| {
            let stream = stream.lock().unwrap().take();
            async move { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("one connection only")) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        Self::WorkloadApi(Box::new(SpiffeWorkloadApiClient::new(
            endpoint.connect_with_connector(connector).await.unwrap(),
        )))
    }

    /// The identity that is given, or why none is.
    pub async fn ask(&mut self) -> Result<String, String> {
        match self {
            Self::Byte(stream) => {
                let mut answer = [0];
                stream.write_all(b"?").map_err(|error| error.to_string())?;
                stream.read_exact(&mut answer).map_err(|error| error.to_string())?;
                if answer == *b"y" { Ok("the module's".into()) } else { Err("no".into()) }
            }
            Self::WorkloadApi(client) => {
                let mut request = tonic::Request::new(X509svidRequest {});
                request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
                let told = |status: tonic::Status| status.message().to_owned();
                let mut stream = client.fetch_x509svid(request).await.map_err(told)?.into_inner();
                let message = stream.message().await.map_err(told)?.ok_or("the stream ended")?;
                Ok(message.svids[0].spiffe_id.clone())
            }
        }
    }
}

/// Takes the descriptor that a [`Role::ConnectAndGive`] sends.
pub fn receive(listener: &UnixListener) -> UnixStream {
    let (stream, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(&stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty()).unwrap();
    let Some(RecvAncillaryMessage::ScmRights(mut descriptors)) = control.drain().next() else {
        panic!("no descriptor came");
    };
    UnixStream::from(descriptors.next().unwrap())
}

/// Process at the other end of a socket, as `SO_PEERCRED` has it.
#[derive(Debug, Clone, Copy)]
pub struct Credentials {
    pub pid: i32,
    pub uid: u32,
}

/// Moment at which a naive server looks at its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Accept,
    EachCall,
}

/// A server that believes numbers. It answers until the test's process ends.
pub fn serve_naively(
    socket: &Path,
    moment: Moment,
    check: impl Fn(Credentials) -> bool + Clone + Send + 'static,
) {
    let listener = UnixListener::bind(socket).unwrap();
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let check = check.clone();
            let credentials = getsockopt(&stream, sockopt::PeerCredentials).unwrap();
            let caller = Credentials { pid: credentials.pid(), uid: credentials.uid() };
            let at_accept = check(caller);
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    let yes = if moment == Moment::Accept { at_accept } else { check(caller) };
                    if stream.write_all(if yes { b"y" } else { b"n" }).is_err() {
                        return;
                    }
                }
            });
        }
    });
}
