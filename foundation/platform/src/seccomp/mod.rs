//! System calls that a daemon gives up, for every thread it has and will have, for good (seccomp(2)).
//!
//! A daemon that serves has a list of what is allowed ([`serve`]). What is not on it fails with EPERM, so that a C
//! library that tries something new gets an error where it expects one; what no honest path leads to ends the process.
//! The daemon that starts containers passes its filter on to them, so it has a list of what neither it nor any container
//! may do ([`start_containers`]); each container has an allow-list of its own besides.
//!
//! Sockets and files that are open already, or come over a Unix socket, are not touched.

mod allow;
mod calls;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, sock_filter};

pub use self::allow::{Allowed, Sockets};
use self::calls::{Call, FATAL, NEVER};

/// Error of a filter: not built, or not installed.
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

/// From now on only what `allowed` says. Anything else fails with EPERM; another program, a trace, a mount, a namespace
/// and the like end the process with SIGSYS.
pub fn serve(allowed: Allowed) -> Result<(), SeccompError> {
    refuse(FATAL, SeccompAction::KillProcess)?;
    // The flags of clone3 lie in memory, out of a filter's reach. "Not there" makes libc use clone.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    install(clone3, SeccompAction::Allow, SeccompAction::Errno(errno(libc::ENOSYS)))?;
    #[cfg(target_arch = "x86_64")]
    apply(&refuse_x32())?;
    // Last: it does not allow to install another.
    install(allowed.rules()?, SeccompAction::Errno(errno(libc::EPERM)), SeccompAction::Allow)
}

/// For the daemon that starts containers, and all that comes from it: what none of them may do fails with EPERM. No
/// signal: a module's runtime may try one of these and live with the answer.
pub fn start_containers() -> Result<(), SeccompError> {
    refuse(NEVER, SeccompAction::Errno(errno(libc::EPERM)))?;
    #[cfg(target_arch = "x86_64")]
    apply(&refuse_x32())?;
    Ok(())
}

/// The calls that [`start_containers`] takes away, one a line.
pub fn never() -> Vec<String> {
    names(NEVER)
}

/// The calls that end a daemon under [`serve`], one a line.
pub fn fatal() -> Vec<String> {
    names(FATAL)
}

fn names(calls: &[Call]) -> Vec<String> {
    let mut names: Vec<String> =
        calls.iter().map(|call| call.name.trim_start_matches("SYS_").to_owned()).collect();
    names.sort();
    names
}

fn refuse(calls: &[Call], action: SeccompAction) -> Result<(), SeccompError> {
    let rules = calls.iter().map(|call| (call.number, Vec::new())).collect();
    install(rules, SeccompAction::Allow, action)
}

fn errno(constant: libc::c_int) -> u32 {
    constant.cast_unsigned()
}

fn install(rules: Rules, otherwise: SeccompAction, action: SeccompAction) -> Result<(), SeccompError> {
    let filter = SeccompFilter::new(rules, otherwise, action, std::env::consts::ARCH.try_into()?)?;
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
