//! Rights that a process takes away from itself. They cannot be given back, so each test runs in a process of its own:
//! this test binary, run again for one ignored test.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use edgewarden_platform::landlock::{self, Enforcement};
use edgewarden_platform::seccomp::{Allowed, Sockets};
use edgewarden_platform::{harden, seccomp, users};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const FOLDER: &str = "EDGEWARDEN_TEST_FOLDER";

const CALL: &str = "EDGEWARDEN_TEST_CALL";

fn in_a_process_of_its_own(test: &str) -> Output {
    in_a_process_of_its_own_with(test, "")
}

fn in_a_process_of_its_own_with(test: &str, call: &str) -> Output {
    // The child may lose the right to remove what it made.
    let folder = tempfile::tempdir().unwrap();
    Command::new(std::env::current_exe().unwrap())
        .arg("--exact")
        .arg(format!("confinement::{test}"))
        .args(["--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .env(CALL, call)
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

const UNIX_ONLY: Allowed = Allowed {
    sockets: Sockets::Unix,
    loads_code: false,
    device_requests: false,
    locks_memory: false,
    asks_clock_state: false,
};
const TCP: Allowed = Allowed { sockets: Sockets::Tcp, ..UNIX_ONLY };
const NAMES: Allowed = Allowed { sockets: Sockets::TcpAndUdp, loads_code: true, ..UNIX_ONLY };

/// A call by its number, as no library makes it.
fn raw(number: i64, arguments: [usize; 5]) -> Result<(), Errno> {
    let [first, second, third, fourth, fifth] = arguments;
    // SAFETY: the tests give no pointers but null ones, and the kernel checks what it is given.
    #[expect(unsafe_code, reason = "calls that the process may not make")]
    let result = unsafe { libc::syscall(number, first, second, third, fourth, fifth) };
    Errno::result(result).map(drop)
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
    seccomp::serve(UNIX_ONLY).unwrap();
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
}

#[test]
fn with_tcp_allowed_nothing_else_is() {
    assert_passes("child_with_tcp");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_with_tcp() {
    let before = TcpListener::bind("127.0.0.1:0").unwrap();
    seccomp::serve(TCP).unwrap();
    assert!(TcpListener::bind("127.0.0.1:0").is_ok());
    assert!(socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).is_ok());
    assert_eq!(UdpSocket::bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::PermissionDenied);
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for kind in [SockType::Datagram, SockType::Raw, SockType::SeqPacket] {
            assert!(refused_socket(family, kind), "{family:?} {kind:?}");
        }
    }
    for family in [AddressFamily::Netlink, AddressFamily::Packet, AddressFamily::Vsock, AddressFamily::Alg] {
        assert!(refused_socket(family, SockType::SeqPacket) && refused_socket(family, SockType::Raw));
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        // What is TCP on the wire, or a stream, but no TCP socket to Landlock.
        for protocol in [libc::IPPROTO_MPTCP, libc::IPPROTO_SCTP, libc::IPPROTO_UDP, 256] {
            assert_eq!(stream_socket(family, protocol), Err(Errno::EPERM), "{family} {protocol}");
        }
        assert_eq!(stream_socket(family, libc::IPPROTO_TCP), Ok(()));
    }
    let client = TcpStream::connect(before.local_addr().unwrap()).unwrap();
    assert!(before.accept().is_ok());
    drop(client);
}

#[test]
fn a_server_that_resolves_names_has_udp_too_and_nothing_else() {
    assert_passes("child_serves_with_udp");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_serves_with_udp() {
    seccomp::serve(NAMES).unwrap();
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
fn what_is_not_listed_is_refused_and_work_goes_on() {
    assert_passes("child_serves");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_serves() {
    let folder = std::path::PathBuf::from(std::env::var_os(FOLDER).unwrap());
    seccomp::serve(UNIX_ONLY).unwrap();
    let parent = usize::try_from(nix::unistd::getppid().as_raw()).unwrap();
    let word = |constant: libc::c_int| usize::try_from(constant.cast_unsigned()).unwrap();
    let limit = [0_u64, 0];
    for (what, number, arguments) in [
        ("a call that no kernel has yet", 4000, [0; 5]),
        ("a signal to another process", libc::SYS_kill, [parent, 0, 0, 0, 0]),
        ("a signal to another thread", libc::SYS_tgkill, [parent, parent, 0, 0, 0]),
        ("another user", libc::SYS_setuid, [0; 5]),
        ("capabilities", libc::SYS_capset, [0; 5]),
        ("another personality", libc::SYS_personality, [0; 5]),
        ("another process", libc::SYS_clone, [word(libc::SIGCHLD), 0, 0, 0, 0]),
        ("a limit", libc::SYS_prlimit64, [0, 7, limit.as_ptr().addr(), 0, 0]),
        ("another process's limit", libc::SYS_prlimit64, [parent, 7, 0, 0, 0]),
        ("to be dumpable again", libc::SYS_prctl, [word(libc::PR_SET_DUMPABLE), 1, 0, 0, 0]),
        ("another filter", libc::SYS_seccomp, [1, 0, 0, 0, 0]),
        ("words for a terminal", libc::SYS_ioctl, [0, 0x5412, 0, 0, 0]),
        ("a signal for input", libc::SYS_fcntl, [0, word(libc::F_SETOWN), parent, 0, 0]),
        ("memory for code", libc::SYS_mmap, [0, 4096, word(libc::PROT_EXEC), 0x22, usize::MAX]),
        ("a device", libc::SYS_mknodat, [0; 5]),
        ("a file's owner", libc::SYS_fchownat, [0; 5]),
    ] {
        assert_eq!(raw(number, arguments), Err(Errno::EPERM), "{what}");
    }
    assert_eq!(Command::new("true").status().unwrap_err().kind(), ErrorKind::PermissionDenied);
    // What it is for.
    assert!(std::thread::spawn(|| true).join().unwrap());
    let file = folder.join("a");
    std::fs::write(&file, "x").unwrap();
    std::fs::rename(&file, folder.join("b")).unwrap();
    std::fs::File::open(folder.join("b")).unwrap().sync_all().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(folder.join("s")).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert!(UnixStream::connect(folder.join("s")).is_ok());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        tokio::task::spawn_blocking(|| std::fs::read_dir("/proc/self/task").unwrap().count()).await.unwrap();
    });
}

#[test]
fn code_comes_from_files_or_not_at_all() {
    assert_passes("child_loads_code");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_loads_code() {
    use std::os::fd::AsRawFd as _;
    let program = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let descriptor = usize::try_from(program.as_raw_fd()).unwrap();
    let [write, exec] = [libc::PROT_WRITE, libc::PROT_EXEC].map(|bit| usize::try_from(bit).unwrap());
    let [private, anonymous] =
        [libc::MAP_PRIVATE, libc::MAP_ANONYMOUS].map(|bit| usize::try_from(bit).unwrap());
    seccomp::serve(NAMES).unwrap();
    let map = |protection, flags, descriptor| {
        // The offset, a sixth argument, is whatever was in its register: only refusals and success count.
        raw(libc::SYS_mmap, [0, 4096, protection, flags, descriptor])
    };
    assert_eq!(map(exec, private | anonymous, usize::MAX), Err(Errno::EPERM), "memory");
    assert_eq!(map(write | exec, private, descriptor), Err(Errno::EPERM), "a file to be changed");
    assert_ne!(map(exec, private, descriptor), Err(Errno::EPERM), "a file");
}

const FATAL: [(&str, i64); 14] = [
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("mount", libc::SYS_mount),
    ("fsopen", libc::SYS_fsopen),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("bpf", libc::SYS_bpf),
    ("keyctl", libc::SYS_keyctl),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("init_module", libc::SYS_init_module),
    ("kexec_load", libc::SYS_kexec_load),
];

#[test]
fn what_no_honest_path_leads_to_is_fatal() {
    for (name, _) in FATAL {
        let output = in_a_process_of_its_own_with("child_is_killed", name);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{name}: {output:?}");
    }
    assert!(FATAL.iter().all(|(name, _)| seccomp::fatal().contains(&(*name).to_owned())));
}

#[test]
#[ignore = "run in a process of its own; it dies"]
fn child_is_killed() {
    let wanted = std::env::var(CALL).unwrap();
    let (_, number) = FATAL.into_iter().find(|(name, _)| *name == wanted).unwrap();
    seccomp::serve(NAMES).unwrap();
    println!("{:?}", raw(number, [0; 5]));
}

#[test]
fn who_starts_containers_keeps_what_that_takes() {
    assert_passes("child_starts_containers");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_starts_containers() {
    seccomp::start_containers().unwrap();
    for (what, number) in [
        ("swapon", libc::SYS_swapon),
        ("reboot", libc::SYS_reboot),
        ("init_module", libc::SYS_init_module),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("ptrace", libc::SYS_ptrace),
    ] {
        assert_eq!(raw(number, [0; 5]), Err(Errno::EPERM), "{what}");
        assert!(seccomp::never().contains(&what.to_owned()));
    }
    // Also in what it starts.
    assert!(!Command::new("sh").args(["-c", "swapon /no/such/file"]).status().unwrap().success());
    let mount = ["--mount", "--net", "--pid", "--fork", "mount", "-t", "tmpfs", "x", "/mnt"];
    let mounts = Command::new("unshare").args(mount).output().unwrap();
    assert!(mounts.status.success(), "{mounts:?}");
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
    seccomp::serve(TCP).unwrap();
    println!("{:?}", raw(X32_SYSCALL_BIT | libc::SYS_socket, [2, 2, 0, 0, 0]));
}

/// Of the mapping of this process that holds `address`: its line and those that follow.
fn mapping_of(address: usize) -> String {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut found = String::new();
    let mut inside = false;
    for line in text.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        if let Some((start, end)) = range
            && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            inside = (start..end).contains(&address);
        }
        if inside {
            found.push_str(line);
            found.push('\n');
        }
    }
    found
}

fn kilobytes(mapping: &str, field: &str) -> u64 {
    let line = mapping.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn locked_memory_stays_and_the_program_does_not() {
    let output = in_a_process_of_its_own("child_locks_memory");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}{err}");
    if out.contains(SKIPPED) {
        println!("{out}");
    }
}

const SKIPPED: &str = "skipped: this machine lets the test lock no memory";

#[test]
#[ignore = "run in a process of its own"]
fn child_locks_memory() {
    use edgewarden_platform::memory;
    let secret = vec![7_u8; 256 * 1024];
    if let Err(error) = memory::lock() {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        println!("{SKIPPED}: {error}");
        return;
    }
    let later = std::hint::black_box(vec![8_u8; 256 * 1024]);
    let on_stack = std::thread::spawn(|| {
        let bytes = std::hint::black_box([9_u8; 4096]);
        mapping_of((&raw const bytes).addr())
    });
    for (what, mapping) in [
        ("from before", mapping_of(secret.as_ptr().addr())),
        ("from after", mapping_of(later.as_ptr().addr())),
        ("a stack", on_stack.join().unwrap()),
    ] {
        let flags = mapping.lines().find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split(' ').any(|flag| flag == "lo"), "{what}: {mapping}");
        assert_eq!(kilobytes(&mapping, "Locked:"), kilobytes(&mapping, "Pss:"), "{what}: {mapping}");
    }
    let code = (child_locks_memory as fn()).addr_of_code();
    let before = kilobytes(&mapping_of(code), "Rss:");
    let released = memory::release_program().unwrap();
    let after = mapping_of(code);
    assert!(released > 0 && kilobytes(&after, "Rss:") < before, "{before}: {after}");
    assert!(!after.contains(" lo"), "{after}");
    assert_eq!((secret[1], later[1]), (7, 8));
    let mut threads = Vec::new();
    for _ in 0..4 {
        threads.push(std::thread::spawn(|| (0..200).map(|n| n.to_string()).collect::<Vec<_>>().concat()));
        memory::release_program().unwrap();
    }
    assert!(threads.into_iter().all(|thread| thread.join().unwrap().ends_with("199")));
}

/// Free memory between pieces that stay, which a heap does not give back by itself.
#[test]
fn a_locked_heap_gives_back_what_is_free() {
    let output = in_a_process_of_its_own("child_fills_its_heap");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}{err}");
    if out.contains(SKIPPED) {
        println!("{out}");
    }
}

#[test]
#[ignore = "run in a process of its own"]
fn child_fills_its_heap() {
    use edgewarden_platform::memory;
    let kilobytes = |name: &str| -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    };
    let has_swap = std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1);
    if memory::lock().is_err() || has_swap {
        println!("{SKIPPED}, or it has swap");
        return;
    }
    // As identityd does it: from a thread, with few calls left.
    seccomp::serve(Allowed { locks_memory: true, ..UNIX_ONLY }).unwrap();
    let mut pieces: Vec<Vec<u8>> = (0..16_384).map(|_| vec![1; 4096]).collect();
    assert!(!memory::release_heap().unwrap(), "all of it is in use");
    let full = kilobytes("RssAnon:");
    let mut number = 0;
    pieces.retain(|_| {
        number += 1;
        number % 64 == 0
    });
    assert!(memory::release_heap().unwrap());
    let after = kilobytes("RssAnon:");
    assert!(after + 32 * 1024 < full, "{after} kB of {full} are left");
    assert!(kilobytes("VmLck:") > 0, "memory is no longer locked");
    // What cannot be given back is not tried again and again.
    assert!(!memory::release_heap().unwrap());
    assert!(pieces.iter().all(|piece| piece.iter().all(|byte| *byte == 1)) && pieces.len() == 256);
}

trait Code {
    fn addr_of_code(self) -> usize;
}

impl Code for fn() {
    fn addr_of_code(self) -> usize {
        (self as *const ()).addr()
    }
}

#[test]
fn a_library_that_is_kept_can_be_loaded_again_without_new_code() {
    assert_passes("child_keeps_libraries");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_keeps_libraries() {
    let name = c"libm.so.6";
    // SAFETY: the name ends with a zero byte; libm runs nothing when it is loaded.
    #[expect(unsafe_code, reason = "loads and unloads a library as the TPM software stack does")]
    let open = || unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    let first = open();
    assert!(!first.is_null());
    edgewarden_platform::libraries::keep();
    // SAFETY: the handle is of the call above and used no more.
    #[expect(unsafe_code, reason = "loads and unloads a library as the TPM software stack does")]
    unsafe {
        libc::dlclose(first)
    };
    seccomp::serve(UNIX_ONLY).unwrap();
    assert!(!open().is_null());
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

#[test]
fn capabilities_that_are_given_up_are_gone_for_programs_too() {
    assert_passes("child_gives_up_capabilities");
}

#[test]
#[ignore = "run in a process of its own"]
fn child_gives_up_capabilities() {
    use edgewarden_platform::capabilities::{Capability, keep_only};
    let sets = |status: &str| {
        let lines = status.lines().filter_map(|line| line.strip_prefix("Cap")?.split_once(":\t"));
        lines.map(|(set, bits)| (set.to_owned(), u64::from_str_radix(bits, 16).unwrap())).collect::<Vec<_>>()
    };
    // This thread only: the test harness has others, which keep theirs.
    keep_only(&[Capability::CHOWN, Capability::SETPCAP]).unwrap();
    let expected = |bits| {
        ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(str::to_owned).into_iter().zip(bits).collect::<Vec<_>>()
    };
    let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_eq!(sets(&own), expected([0, 0x101, 0x101, 0x101, 0]));
    let started = Command::new("cat").arg("/proc/self/status").output().unwrap().stdout;
    assert_eq!(sets(&String::from_utf8(started).unwrap()), expected([0, 0x101, 0x101, 0x101, 0]));
    assert_eq!(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET), Err(Errno::EPERM));
    keep_only(&[]).unwrap();
    let own = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_eq!(sets(&own), expected([0; 5]));
}
