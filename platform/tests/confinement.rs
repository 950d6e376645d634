//! What a process takes away from itself cannot be given back, so each test runs in a process of its own: this test
//! binary, run again for one ignored test.
#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on fails its test")]

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use edgewarden_platform::landlock::{self, Enforcement};
use edgewarden_platform::{harden, seccomp, users};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const FOLDER: &str = "EDGEWARDEN_TEST_FOLDER";

fn in_a_process_of_its_own(test: &str) -> Output {
    // The child may lose the right to remove what it made.
    let folder = tempfile::tempdir().unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap()
}

fn assert_passes(test: &str) {
    let output = in_a_process_of_its_own(test);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}{err}");
}

fn refused_socket(family: AddressFamily, kind: SockType) -> bool {
    socket(family, kind, SockFlag::SOCK_CLOEXEC, None).err() == Some(Errno::EPERM)
}

#[test]
fn without_network_only_unix_sockets_are_left() {
    assert_passes("child_without_network");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_without_network() {
    // A thread from before must not escape.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let earlier = std::thread::spawn(move || {
        wait.recv().unwrap();
        refused_socket(AddressFamily::Inet, SockType::Stream)
    });
    seccomp::deny_network_sockets(false).unwrap();
    go.send(()).unwrap();
    assert!(earlier.join().unwrap());
    for family in [
        AddressFamily::Inet,
        AddressFamily::Inet6,
        AddressFamily::Netlink,
        AddressFamily::Packet,
        AddressFamily::Vsock,
    ] {
        for kind in [SockType::Stream, SockType::Datagram, SockType::Raw] {
            assert!(refused_socket(family, kind), "{family:?} {kind:?}");
        }
    }
    assert_eq!(TcpStream::connect("127.0.0.1:9").unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(UnixStream::pair().is_ok());
    for flag in [CloneFlags::CLONE_NEWUSER, CloneFlags::CLONE_NEWNET, CloneFlags::CLONE_NEWNS] {
        assert_eq!(unshare(flag), Err(Errno::EPERM));
    }
    assert!(nix::mount::umount("/no/such/mount").is_err_and(|error| error == Errno::EPERM));
    // Threads and programs still start.
    assert!(std::thread::spawn(|| true).join().unwrap());
    assert!(Command::new("true").status().unwrap().success());
    // A program that was started has the filter too.
    assert!(!Command::new("unshare").args(["--net", "true"]).output().unwrap().status.success());
}

#[test]
fn with_tcp_allowed_nothing_else_is() {
    assert_passes("child_with_tcp");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_with_tcp() {
    seccomp::deny_network_sockets(true).unwrap();
    assert!(TcpListener::bind("127.0.0.1:0").is_ok());
    assert!(socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).is_ok());
    assert_eq!(UdpSocket::bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::PermissionDenied);
    for (family, kind) in [
        (AddressFamily::Inet, SockType::Raw),
        (AddressFamily::Inet6, SockType::Datagram),
        (AddressFamily::Inet6, SockType::SeqPacket),
        (AddressFamily::Netlink, SockType::Raw),
        (AddressFamily::Packet, SockType::Raw),
    ] {
        assert!(refused_socket(family, kind), "{family:?} {kind:?}");
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        // What is TCP on the wire, or a stream, but no TCP socket to Landlock.
        for protocol in [libc::IPPROTO_MPTCP, libc::IPPROTO_SCTP, libc::IPPROTO_UDP, 256] {
            assert_eq!(stream_socket(family, protocol), Err(Errno::EPERM), "{family} {protocol}");
        }
        assert_eq!(stream_socket(family, libc::IPPROTO_TCP), Ok(()));
    }
}

#[test]
fn a_server_has_tcp_and_no_programs() {
    assert_passes("child_serves");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_serves() {
    // A thread from before must not escape.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let earlier = std::thread::spawn(move || {
        wait.recv().unwrap();
        let exec = Command::new("true").status().unwrap_err().kind();
        exec == ErrorKind::PermissionDenied && refused_socket(AddressFamily::Inet, SockType::Datagram)
    });
    let before = TcpListener::bind("127.0.0.1:0").unwrap();
    seccomp::deny_all_but_tcp(false).unwrap();
    go.send(()).unwrap();
    assert!(earlier.join().unwrap());
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        assert!(socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).is_ok());
        for kind in [SockType::Datagram, SockType::Raw, SockType::SeqPacket] {
            assert!(refused_socket(family, kind), "{family:?} {kind:?}");
        }
    }
    for family in [AddressFamily::Netlink, AddressFamily::Packet, AddressFamily::Vsock, AddressFamily::Alg] {
        assert!(refused_socket(family, SockType::SeqPacket) && refused_socket(family, SockType::Raw));
    }
    for protocol in [libc::IPPROTO_MPTCP, libc::IPPROTO_SCTP, 256] {
        assert_eq!(stream_socket(libc::AF_INET, protocol), Err(Errno::EPERM), "{protocol}");
    }
    let client = TcpStream::connect(before.local_addr().unwrap()).unwrap();
    assert!(before.accept().is_ok() && UnixStream::pair().is_ok());
    drop(client);
    assert_eq!(Command::new("true").status().unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
    assert!(std::thread::spawn(|| true).join().unwrap());
}

#[test]
fn a_server_that_resolves_names_has_udp_too_and_nothing_else() {
    assert_passes("child_serves_with_udp");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_serves_with_udp() {
    seccomp::deny_all_but_tcp(true).unwrap();
    assert!(TcpListener::bind("127.0.0.1:0").is_ok() && UdpSocket::bind("127.0.0.1:0").is_ok());
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        assert!(refused_socket(family, SockType::Raw) && refused_socket(family, SockType::SeqPacket));
    }
    for (kind, protocol) in [
        (libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        (libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
        (libc::SOCK_DGRAM, libc::IPPROTO_TCP),
        (libc::SOCK_STREAM, libc::IPPROTO_UDP),
        (libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
    ] {
        assert_eq!(internet_socket(libc::AF_INET, kind, protocol), Err(Errno::EPERM), "{kind} {protocol}");
    }
    // What the C library asks for when it resolves names.
    assert!("localhost:1".parse::<std::net::SocketAddr>().is_err());
    assert!(std::net::ToSocketAddrs::to_socket_addrs("localhost:1").is_ok());
}

#[test]
fn a_server_that_traces_is_killed() {
    let output = in_a_process_of_its_own("child_serves_and_traces");
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
}

#[test]
#[ignore = "run in a process of its own; it dies"]
fn child_serves_and_traces() {
    seccomp::deny_all_but_tcp(true).unwrap();
    let nothing: libc::c_int = 0;
    // SAFETY: PTRACE_TRACEME reads none of its other arguments.
    #[expect(unsafe_code, reason = "the call that must be fatal")]
    unsafe {
        libc::ptrace(libc::PTRACE_TRACEME, nothing, nothing, nothing)
    };
}

fn stream_socket(family: libc::c_int, protocol: libc::c_int) -> Result<(), Errno> {
    internet_socket(family, libc::SOCK_STREAM, protocol)
}

/// `nix` knows no number for some of these.
fn internet_socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> Result<(), Errno> {
    // SAFETY: socket(2) takes three integers and no pointer.
    #[expect(unsafe_code, reason = "a protocol that no wrapper names")]
    let descriptor = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    Errno::result(descriptor).map(drop)
}

#[test]
fn tracing_another_process_is_fatal() {
    let output = in_a_process_of_its_own("child_traces");
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
}

#[test]
#[ignore = "run in a process of its own; it dies"]
fn child_traces() {
    seccomp::deny_network_sockets(false).unwrap();
    let nothing: libc::c_int = 0;
    // SAFETY: PTRACE_TRACEME reads none of its other arguments.
    #[expect(unsafe_code, reason = "the call that must be fatal")]
    unsafe {
        libc::ptrace(libc::PTRACE_TRACEME, nothing, nothing, nothing)
    };
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_call_by_its_x32_number_is_fatal() {
    let output = in_a_process_of_its_own("child_calls_x32");
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
}

#[test]
#[cfg(target_arch = "x86_64")]
#[ignore = "run in a process of its own; it dies"]
fn child_calls_x32() {
    const X32_SYSCALL_BIT: libc::c_long = 0x4000_0000;
    seccomp::deny_network_sockets(true).unwrap();
    // SAFETY: socket(2) takes three integers and no pointer.
    #[expect(unsafe_code, reason = "no library makes x32 calls")]
    unsafe {
        libc::syscall(X32_SYSCALL_BIT | libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)
    };
}

#[test]
fn without_exec_no_program_starts() {
    assert_passes("child_without_exec");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_without_exec() {
    seccomp::deny_exec().unwrap();
    assert_eq!(Command::new("true").status().unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
fn confined_files_and_ports_are_all_there_is() {
    assert_passes("child_confined");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_confined() {
    let folder = std::path::PathBuf::from(std::env::var_os(FOLDER).unwrap());
    let [read, write, other] = ["read", "write", "other"].map(|name| folder.join(name));
    for path in [&read, &write, &other] {
        std::fs::create_dir(path).unwrap();
        std::fs::write(path.join("file"), "contents").unwrap();
    }
    let [open, closed] = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [open, closed] = [&open, &closed].map(|listener| listener.local_addr().unwrap());

    // Only the calling thread matters here: the test harness has others.
    let confined = landlock::confine_files(
        &[read.clone(), other.join("file")],
        std::slice::from_ref(&write),
        &[open.port()],
    )
    .unwrap();
    // The kernels we test on know every rule.
    assert_eq!(confined.enforcement, Enforcement::Fully);
    assert!(std::fs::read(read.join("file")).is_ok());
    assert!(std::fs::write(read.join("file"), "x").is_err());
    assert!(std::fs::read(write.join("file")).is_ok());
    assert!(std::fs::write(write.join("new"), "x").is_ok());
    assert!(std::fs::read(other.join("file")).is_ok());
    assert!(std::fs::write(other.join("file"), "x").is_err());
    assert!(std::fs::read_dir(&other).is_err());
    assert!(std::fs::read("/etc/hostname").is_err());
    assert!(TcpStream::connect(open).is_ok());
    assert_eq!(TcpStream::connect(closed).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(TcpListener::bind("127.0.0.1:0").is_err());
}

#[test]
fn a_path_that_is_not_there_is_refused() {
    assert!(landlock::confine_files(&["/no/such/path".into()], &[], &[]).is_err());
}

#[test]
fn a_hardened_process_dumps_no_core() {
    assert_passes("child_hardened");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_hardened() {
    harden::no_new_privs().unwrap();
    harden::no_core_dumps().unwrap();
    assert!(nix::sys::prctl::get_no_new_privs().unwrap());
    assert!(!nix::sys::prctl::get_dumpable().unwrap());
    let limits = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).unwrap();
    assert_eq!(limits, (0, 0));
}

#[test]
fn users_are_found_by_name() {
    assert_eq!(users::lookup("root").unwrap(), Some(users::User { uid: 0, gid: 0 }));
    for name in ["", "no-such-user", "0", "root:x", "ro\0ot"] {
        assert!(!matches!(users::lookup(name), Ok(Some(_))), "{name}");
    }
}
