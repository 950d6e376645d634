//! Filter for a daemon that serves: a list of the system calls that are allowed, with the arguments where they matter.

use std::collections::BTreeMap;

use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::calls::{Call, SERVING, SERVING_UNNAMED, call};
use super::{Rules, SeccompError};

/// Socket families that can still be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    Unix,
    /// And TCP; [`crate::landlock`] says where to.
    Tcp,
    /// And UDP, which the C library resolves names with.
    TcpAndUdp,
}

/// Rights of one daemon beyond those of every daemon that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a right of its own, and any may go with any other"
)]
pub struct Allowed {
    pub sockets: Sockets,
    /// Maps code from files, never from memory: name resolution and a vendor's library load more of theirs when they
    /// need it. Without this no new code comes into the process at all.
    pub loads_code: bool,
    /// Any ioctl: a vendor's library speaks to its device by numbers that we do not know.
    pub device_requests: bool,
    /// Unlocks its memory and locks it again, to give pages back.
    pub locks_memory: bool,
    /// Asks whether a time service keeps the wall clock (adjtimex(2)). Setting it takes a capability that no daemon has.
    pub asks_clock_state: bool,
}

/// One way in which a call may be made: every condition holds.
struct Way {
    call: Call,
    /// For people.
    with: &'static str,
    /// None: always.
    conditions: Vec<Condition>,
}

struct Condition {
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
    length: SeccompCmpArgLen,
}

impl Allowed {
    /// Every call that is left, one a line, with what its arguments must be: what a review or a test compares.
    pub fn lines(self) -> Vec<String> {
        let name = |call: &Call| call.name.trim_start_matches("SYS_").to_owned();
        let mut lines: Vec<String> = SERVING.iter().chain(SERVING_UNNAMED).map(name).collect();
        lines.extend(
            self.ways().iter().map(|way| format!("{} {}", name(&way.call), way.with).trim_end().to_owned()),
        );
        lines.sort();
        lines.dedup();
        lines
    }

    pub(super) fn rules(self) -> Result<Rules, SeccompError> {
        let mut rules: Rules =
            SERVING.iter().chain(SERVING_UNNAMED).map(|call| (call.number, Vec::new())).collect();
        let mut conditional: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for way in self.ways() {
            if way.conditions.is_empty() {
                rules.insert(way.call.number, Vec::new());
                continue;
            }
            let conditions: Result<Vec<_>, _> = way
                .conditions
                .into_iter()
                .map(|c| SeccompCondition::new(c.argument, c.length, c.operator, c.value))
                .collect();
            conditional.entry(way.call.number).or_default().push(SeccompRule::new(conditions?)?);
        }
        rules.extend(conditional);
        // Answered with "not there" by a filter of its own; see there.
        rules.insert(libc::SYS_clone3, Vec::new());
        Ok(rules)
    }

    fn ways(self) -> Vec<Way> {
        let mut ways = sockets(self.sockets);
        ways.extend(memory(self.loads_code));
        if self.locks_memory {
            let all = number(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT);
            ways.push(way(call!(SYS_mlockall), "MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT", vec![is(0, all)]));
            ways.push(way(call!(SYS_munlockall), "", Vec::new()));
        }
        if self.asks_clock_state {
            ways.push(way(call!(SYS_adjtimex), "", Vec::new()));
        }
        ways.extend(threads());
        ways.extend(descriptors());
        if self.device_requests {
            // Not those that put words into a terminal's input.
            ways.push(way(
                call!(SYS_ioctl),
                "any but TIOCSTI, TIOCLINUX",
                vec![differs(1, libc::TIOCSTI), differs(1, libc::TIOCLINUX)],
            ));
        } else {
            for (with, request) in [
                ("FIONBIO", libc::FIONBIO),
                ("FIOCLEX", libc::FIOCLEX),
                ("FIONREAD", libc::FIONREAD),
                ("TCGETS", libc::TCGETS),
            ] {
                ways.push(way(call!(SYS_ioctl), with, vec![is(1, request)]));
            }
        }
        ways
    }
}

fn sockets(sockets: Sockets) -> Vec<Way> {
    /// The type without SOCK_NONBLOCK and SOCK_CLOEXEC.
    const TYPE_MASK: u64 = 0xf;
    let unix = || vec![is(0, number(libc::AF_UNIX))];
    let mut ways =
        vec![way(call!(SYS_socket), "AF_UNIX", unix()), way(call!(SYS_socketpair), "AF_UNIX", unix())];
    let mut internet = |with, family: libc::c_int, kind: libc::c_int, protocol: libc::c_int| {
        // A stream may also be MPTCP, SCTP or SMC, which Landlock's rules about TCP ports do not see.
        for protocol in [0, protocol] {
            let kind = masked(1, TYPE_MASK, number(kind));
            let conditions = vec![is(0, number(family)), kind, is(2, number(protocol))];
            ways.push(way(call!(SYS_socket), with, conditions));
        }
    };
    if sockets != Sockets::Unix {
        internet("AF_INET TCP", libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP);
        internet("AF_INET6 TCP", libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP);
    }
    if sockets == Sockets::TcpAndUdp {
        internet("AF_INET UDP", libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP);
        internet("AF_INET6 UDP", libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP);
    }
    ways
}

fn memory(loads_code: bool) -> Vec<Way> {
    const PROTECTION: u8 = 2;
    const FLAGS: u8 = 3;
    let [write, exec] = [libc::PROT_WRITE, libc::PROT_EXEC].map(number);
    let mut ways = vec![
        way(call!(SYS_mmap), "not PROT_EXEC", vec![masked(PROTECTION, exec, 0)]),
        way(call!(SYS_mprotect), "not PROT_EXEC", vec![masked(PROTECTION, exec, 0)]),
    ];
    if loads_code {
        let anonymous = number(libc::MAP_ANONYMOUS);
        ways.push(way(
            call!(SYS_mmap),
            "PROT_EXEC of a file, not PROT_WRITE",
            vec![masked(PROTECTION, write | exec, exec), masked(FLAGS, anonymous, 0)],
        ));
    }
    ways
}

fn threads() -> Vec<Way> {
    let thread = [libc::CLONE_THREAD, libc::CLONE_VM, libc::CLONE_SIGHAND].map(number);
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ]
    .map(number);
    let all = |flags: &[u64]| flags.iter().fold(0, |all, flag| all | flag);
    let own = u64::from(std::process::id());
    let named = |with, option| way(call!(SYS_prctl), with, vec![is(0, number(option))]);
    vec![
        // A thread of this process, and not another process: there is nothing to start.
        way(call!(SYS_clone), "threads only", vec![masked(0, all(&thread) | all(&namespaces), all(&thread))]),
        way(call!(SYS_tgkill), "to itself", vec![is(0, own)]),
        way(call!(SYS_prlimit64), "asked, not set", vec![is(0, 0), null(2)]),
        named("PR_SET_NAME", libc::PR_SET_NAME),
        named("PR_GET_NAME", libc::PR_GET_NAME),
        // What glibc calls its memory.
        named("PR_SET_VMA", libc::PR_SET_VMA),
    ]
}

/// Not F_SETOWN and F_SETSIG, which have the kernel send signals to others.
fn descriptors() -> Vec<Way> {
    [
        ("F_DUPFD", libc::F_DUPFD),
        ("F_DUPFD_CLOEXEC", libc::F_DUPFD_CLOEXEC),
        ("F_GETFD", libc::F_GETFD),
        ("F_SETFD", libc::F_SETFD),
        ("F_GETFL", libc::F_GETFL),
        ("F_SETFL", libc::F_SETFL),
        ("F_GETLK", libc::F_GETLK),
        ("F_SETLK", libc::F_SETLK),
        ("F_SETLKW", libc::F_SETLKW),
        ("F_OFD_SETLK", libc::F_OFD_SETLK),
        ("F_OFD_SETLKW", libc::F_OFD_SETLKW),
    ]
    .into_iter()
    .map(|(with, command)| way(call!(SYS_fcntl), with, vec![is(1, number(command))]))
    .collect()
}

fn way(call: Call, with: &'static str, conditions: Vec<Condition>) -> Way {
    Way { call, with, conditions }
}

/// The kernel itself looks only at the lower 32 bits of these arguments.
fn is(argument: u8, value: u64) -> Condition {
    Condition { argument, operator: SeccompCmpOp::Eq, value, length: SeccompCmpArgLen::Dword }
}

fn differs(argument: u8, value: u64) -> Condition {
    Condition { operator: SeccompCmpOp::Ne, ..is(argument, value) }
}

fn masked(argument: u8, mask: u64, value: u64) -> Condition {
    Condition { operator: SeccompCmpOp::MaskedEq(mask), ..is(argument, value) }
}

fn null(argument: u8) -> Condition {
    Condition { length: SeccompCmpArgLen::Qword, ..is(argument, 0) }
}

fn number(constant: libc::c_int) -> u64 {
    u64::from(constant.cast_unsigned())
}
