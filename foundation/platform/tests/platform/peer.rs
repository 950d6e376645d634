//! Peers of Unix sockets: this process, and children made by running this test binary again.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use edgewarden_platform::peer::PeerEvidence;
use edgewarden_platform::process::{self, Process};

const SOCKET: &str = "EDGEWARDEN_TEST_SOCKET";

/// Killed and waited for when it goes out of scope.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn sleeper() -> Running {
    Running(Command::new("sleep").arg("600").spawn().unwrap())
}

/// A child that connects to `socket` and holds the connection until it is killed.
fn connector(socket: &std::path::Path) -> Running {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "peer::child_connects", "--ignored"])
        .env(SOCKET, socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Running(child)
}

#[test]
#[ignore = "run by the other tests in a process of its own"]
fn child_connects() {
    let _connected = UnixStream::connect(std::env::var(SOCKET).unwrap()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_peer_is_who_connected() {
    let (here, _there) = UnixStream::pair().unwrap();
    let peer = PeerEvidence::of(&here).unwrap();
    assert_eq!(peer.pid(), i32::try_from(std::process::id()).unwrap());
    assert_eq!((peer.uid(), peer.gid()), (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()));
    assert!(peer.is_alive());
    assert_eq!(peer.pid_started(), process::started(peer.pid()).unwrap());
    assert_eq!(peer.cgroup().unwrap(), process::cgroup(peer.pid()).unwrap());
    assert!(peer.cgroup().unwrap().starts_with('/'));
}

#[tokio::test]
async fn a_peer_that_exits_is_gone_though_its_socket_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut child = connector(&path);
    let (stream, _) = listener.accept().unwrap();
    let peer = PeerEvidence::of(&stream).unwrap();
    assert_eq!(peer.pid(), i32::try_from(child.0.id()).unwrap());
    assert!(peer.is_alive() && peer.cgroup().is_ok());

    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let peer = peer.clone();
        watchers.spawn(async move { peer.exited().await });
    }
    tokio::task::yield_now().await;
    assert!(watchers.try_join_next().is_none());
    child.0.kill().unwrap();
    while let Some(exited) = watchers.join_next().await {
        exited.unwrap().unwrap();
    }
    // A zombie still has a `/proc` entry.
    assert!(!peer.is_alive());
    assert!(peer.cgroup().is_err());
    child.0.wait().unwrap();
    assert!(!peer.is_alive());
    assert!(peer.cgroup().is_err());
    peer.exited().await.unwrap();
    assert!(PeerEvidence::of(&stream).is_err());
}

#[test]
fn what_is_no_unix_stream_has_no_peer() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(PeerEvidence::of(&tcp).is_err());
    let file = tempfile::tempfile().unwrap();
    assert!(PeerEvidence::of(&file).is_err());
}

#[test]
fn a_process_that_is_not_there_cannot_be_held() {
    let mut child = sleeper();
    let pid = i32::try_from(child.0.id()).unwrap();
    let held = Process::open(pid).unwrap();
    assert!(held.is_alive());
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    assert!(!held.is_alive());
    for pid in [pid, 0, -1, i32::MIN, i32::MAX] {
        assert!(Process::open(pid).is_err(), "{pid}");
        assert!(process::started(pid).is_err(), "{pid}");
        assert!(process::cgroup(pid).is_err(), "{pid}");
    }
}

#[test]
fn a_process_cannot_hide_behind_its_name() {
    // A program's file gives the process its name: here with bytes that are no text, and with what ends a name.
    let folder = tempfile::tempdir().unwrap();
    for name in [&b"\xff\xfe"[..], b"a) S 1 (b", b"\n) R 9"] {
        let program = folder.path().join(std::ffi::OsStr::from_bytes(name));
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let running = Running(Command::new(&program).arg("600").spawn().unwrap());
        let pid = i32::try_from(running.0.id()).unwrap();
        // Its parent started before it, and it is not from another life of the machine.
        let started = process::started(pid).unwrap();
        assert!(started >= process::started(i32::try_from(std::process::id()).unwrap()).unwrap());
        assert_eq!(Process::open(pid).unwrap().started(), started);
    }
}

#[test]
fn two_processes_do_not_share_pid_and_start_time() {
    let (first, second) = (sleeper(), sleeper());
    let [first, second] =
        [&first, &second].map(|child| Process::open(i32::try_from(child.0.id()).unwrap()).unwrap());
    assert_ne!((first.pid(), first.started()), (second.pid(), second.started()));
}
