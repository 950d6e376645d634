//! System calls that a daemon gives up, for every thread it has and will have, for good (seccomp(2)).
//!
//! A list of what is refused, not of what is allowed: the daemons use a large runtime and C libraries whose calls
//! change between releases. What it must hold is narrow: no network, no mounts or namespaces, no way into another
//! process or the kernel. Sockets that are open already, or come over a Unix socket, are not touched.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("cannot build the system call filter")]
    Build(#[from] seccompiler::BackendError),
    #[error("cannot install the system call filter")]
    Install(#[source] seccompiler::Error),
    /// Another thread has a filter that this thread has not.
    #[error("thread {0} cannot take the system call filter")]
    Thread(i64),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refuses sockets of every family but AF_UNIX, with EPERM, and what no daemon of ours ever calls.
///
/// `allow_tcp` also lets through TCP sockets, for the simulated TPM's transport; limit where they may go with
/// [`crate::landlock`].
pub fn deny_network_sockets(allow_tcp: bool) -> Result<(), SeccompError> {
    deny(if allow_tcp { Sockets::Tcp } else { Sockets::Unix })
}

/// For a process that serves a network: refuses sockets of every family and kind but AF_UNIX and TCP, refuses to run
/// another program, and what no daemon of ours ever calls.
///
/// `allow_udp` also lets through UDP sockets, which the C library resolves names with.
pub fn deny_all_but_tcp(allow_udp: bool) -> Result<(), SeccompError> {
    deny(if allow_udp { Sockets::TcpAndUdp } else { Sockets::Tcp })?;
    deny_exec()
}

fn deny(sockets: Sockets) -> Result<(), SeccompError> {
    let mut refused: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    refused.insert(libc::SYS_socket, other_sockets(sockets)?);
    refused.insert(libc::SYS_socketpair, other_sockets(Sockets::Unix)?);
    refused.insert(libc::SYS_clone, new_namespaces()?);
    install(refused, SeccompAction::Errno(errno(libc::EPERM)))?;
    // The flags of clone3 lie in memory, out of a filter's reach. "Not there" makes libc use clone.
    install(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), SeccompAction::Errno(errno(libc::ENOSYS)))?;
    install(KILLED.iter().map(|call| (*call, Vec::new())).collect(), SeccompAction::KillProcess)?;
    #[cfg(target_arch = "x86_64")]
    apply(&refuse_x32())?;
    Ok(())
}

/// Refuses to run another program, with EPERM.
pub fn deny_exec() -> Result<(), SeccompError> {
    let calls = [libc::SYS_execve, libc::SYS_execveat];
    install(
        calls.into_iter().map(|call| (call, Vec::new())).collect(),
        SeccompAction::Errno(errno(libc::EPERM)),
    )?;
    #[cfg(target_arch = "x86_64")]
    apply(&refuse_x32())?;
    Ok(())
}

/// Answered with EPERM: harmless programs and libraries may try them.
const REFUSED: &[i64] = &[
    // Mounts and roots
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_open_by_handle_at,
    // Namespaces
    libc::SYS_unshare,
    libc::SYS_setns,
    // The machine
    libc::SYS_reboot,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_acct,
    libc::SYS_syslog,
    // Kernel surfaces with a long record of holes; an io_uring also makes sockets past this filter
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Other processes
    libc::SYS_process_vm_readv,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Ends the process: only somebody who has taken it over calls these.
const KILLED: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
];

/// Which sockets are left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sockets {
    Unix,
    Tcp,
    TcpAndUdp,
}

/// What socket(2) must not be called with: each rule is one refused combination.
fn other_sockets(sockets: Sockets) -> Result<Vec<SeccompRule>, SeccompError> {
    const DOMAIN: u8 = 0;
    const TYPE: u8 = 1;
    const PROTOCOL: u8 = 2;
    /// The type without SOCK_NONBLOCK and SOCK_CLOEXEC.
    const TYPE_MASK: u64 = 0xf;
    // A stream may also be MPTCP, SCTP or SMC, which Landlock's rules about TCP ports do not see.
    let kinds: &[(libc::c_int, libc::c_int)] = match sockets {
        Sockets::Unix => &[],
        Sockets::Tcp => &[(libc::SOCK_STREAM, libc::IPPROTO_TCP)],
        Sockets::TcpAndUdp => {
            &[(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)]
        }
    };
    let mut allowed = vec![libc::AF_UNIX];
    let mut rules = Vec::new();
    if !kinds.is_empty() {
        for family in [libc::AF_INET, libc::AF_INET6] {
            allowed.push(family);
            let other = |kind: &u64| kinds.iter().all(|(allowed, _)| *kind != number(*allowed));
            for other in (0..=TYPE_MASK).filter(other) {
                rules.push(SeccompRule::new(vec![
                    argument(DOMAIN, SeccompCmpOp::Eq, number(family))?,
                    argument(TYPE, SeccompCmpOp::MaskedEq(TYPE_MASK), other)?,
                ])?);
            }
            for (kind, protocol) in kinds {
                rules.push(SeccompRule::new(vec![
                    argument(DOMAIN, SeccompCmpOp::Eq, number(family))?,
                    argument(TYPE, SeccompCmpOp::MaskedEq(TYPE_MASK), number(*kind))?,
                    argument(PROTOCOL, SeccompCmpOp::Ne, 0)?,
                    argument(PROTOCOL, SeccompCmpOp::Ne, number(*protocol))?,
                ])?);
            }
        }
    }
    let neither: Result<Vec<_>, _> =
        allowed.into_iter().map(|family| argument(DOMAIN, SeccompCmpOp::Ne, number(family))).collect();
    rules.push(SeccompRule::new(neither?)?);
    Ok(rules)
}

fn new_namespaces() -> Result<Vec<SeccompRule>, SeccompError> {
    const FLAGS: u8 = 0;
    [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ]
    .into_iter()
    .map(|flag| {
        let flag = number(flag);
        Ok(SeccompRule::new(vec![argument(FLAGS, SeccompCmpOp::MaskedEq(flag), flag)?])?)
    })
    .collect()
}

/// The kernel itself looks only at the lower 32 bits of these arguments.
fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, SeccompError> {
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?)
}

fn number(constant: libc::c_int) -> u64 {
    u64::from(constant.cast_unsigned())
}

fn errno(constant: libc::c_int) -> u32 {
    constant.cast_unsigned()
}

fn install(rules: Rules, action: SeccompAction) -> Result<(), SeccompError> {
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, std::env::consts::ARCH.try_into()?)?;
    apply(&BpfProgram::try_from(filter)?)
}

/// The x32 calls carry another number for the same work, so a filter by number would let them through: refuse them all.
#[cfg(target_arch = "x86_64")]
fn refuse_x32() -> BpfProgram {
    const X32_SYSCALL_BIT: u32 = 0x4000_0000;
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const NUMBER_OFFSET: u32 = 0; // of `nr` in struct seccomp_data
    vec![
        sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: NUMBER_OFFSET },
        sock_filter { code: JUMP_IF_ANY_BIT, jt: 0, jf: 1, k: X32_SYSCALL_BIT },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: SeccompAction::KillProcess.into() },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: SeccompAction::Allow.into() },
    ]
}

fn apply(program: &BpfProgram) -> Result<(), SeccompError> {
    seccompiler::apply_filter_all_threads(program).map_err(|error| match error {
        seccompiler::Error::ThreadSync(thread) => SeccompError::Thread(thread),
        error => SeccompError::Install(error),
    })
}

impl From<SeccompError> for io::Error {
    fn from(error: SeccompError) -> Self {
        Self::other(error)
    }
}
