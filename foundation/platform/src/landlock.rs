//! Files and TCP ports that a daemon gives up, by Landlock (landlock(7)). As much as the kernel can enforce.
//!
//! A second wall behind permissions and seccomp, so an old kernel without it is no reason not to start; the returned
//! [`Confinement`] is for the daemon's log and status.

use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest rules that were looked through for this file.
const VETTED: ABI = ABI::V5;

/// Error of a confinement: the rules, or a path that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("cannot confine the process")]
    Rules(#[from] RulesetError),
    #[error("cannot open `{}` for the process to be confined to", path.display())]
    Path { path: PathBuf, source: landlock::PathFdError },
}

/// Part of the rules that the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    Fully,
    /// The kernel knows some of the rules only.
    Partly,
    Not,
}

/// Result of a confinement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confinement {
    pub enforcement: Enforcement,
    /// False when other threads ran already: they are not confined.
    pub all_threads: bool,
}

/// The newest version of the interface, of those looked through for this file, that the kernel knows whole; 0 when it
/// knows none or has it switched off. Confines nothing.
pub fn version() -> u32 {
    let known = |abi: ABI| {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        rules.handle_access(AccessFs::from_all(abi)).and_then(Ruleset::create).is_ok()
    };
    let versions = [(ABI::V5, 5), (ABI::V3, 3), (ABI::V2, 2), (ABI::V1, 1)];
    versions.into_iter().find_map(|(abi, version)| known(abi).then_some(version)).unwrap_or(0)
}

/// Files and TCP ports that a daemon keeps.
#[derive(Debug, Default)]
pub struct Reach {
    /// Also to execute.
    pub read: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
    /// TCP ports to connect to.
    pub connect: Vec<u16>,
}

impl Reach {
    /// Gives up everything else, as [`confine_files`] does. A path that does not exist is left out; what this kernel cannot
    /// enforce is said in the log.
    pub fn confine(mut self) -> Result<(), ConfineError> {
        self.read.retain(|path| path.exists());
        self.write.retain(|path| path.exists());
        let confinement = confine_files(&self.read, &self.write, &self.connect)?;
        if confinement.enforcement != Enforcement::Fully {
            tracing::warn!(enforcement = ?confinement.enforcement, "this kernel cannot confine files fully");
        }
        if !confinement.all_threads {
            tracing::warn!("threads that ran before are not confined to files");
        }
        Ok(())
    }

    /// One right a line, as the lists in docs/confinement have them.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let read = self.read.iter().map(|path| format!("read {}", path.display()));
        let write = self.write.iter().map(|path| format!("write {}", path.display()));
        read.chain(write).chain(self.connect.iter().map(|port| format!("connect tcp {port}")))
    }
}

/// From now on opens only what lies beneath `read` (also to execute) and `write`, connects only to `connect_tcp_ports`,
/// binds no TCP port, and reaches no abstract Unix socket and no process (by signal) outside itself.
///
/// Holds for the calling thread and for threads and programs that come from it: call it before threads start, or let
/// a confined thread start all that matter. Each path must exist. Files that are open already stay usable.
pub fn confine_files(
    read: &[PathBuf],
    write: &[PathBuf],
    connect_tcp_ports: &[u16],
) -> Result<Confinement, ConfineError> {
    let all_threads = crate::harden::is_single_threaded();
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(VETTED))?
        .handle_access(AccessNet::from_all(VETTED))?
        .scope(Scope::AbstractUnixSocket)?
        .scope(Scope::Signal)?
        .create()?;
    for (paths, access) in [(read, AccessFs::from_read(VETTED)), (write, AccessFs::from_all(VETTED))] {
        for path in paths {
            let opened =
                PathFd::new(path).map_err(|source| ConfineError::Path { path: path.clone(), source })?;
            let access = if path.is_dir() { access } else { access & AccessFs::from_file(VETTED) };
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    for port in connect_tcp_ports {
        rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    let status = rules.restrict_self()?;
    Ok(Confinement {
        enforcement: match status.ruleset {
            RulesetStatus::FullyEnforced => Enforcement::Fully,
            RulesetStatus::PartiallyEnforced => Enforcement::Partly,
            RulesetStatus::NotEnforced => Enforcement::Not,
        },
        all_threads,
    })
}
