//! Facts about a gateway. Only this module and those below it do I/O.
//!
//! A fact that could not be read is an `Err` with the reason in words: the checks judge that too.

mod boot;
mod clock;
mod configuration;
mod daemons;
mod disk;
mod fleet;
mod kernel;
mod network;
mod nodes;
mod processes;
mod programs;
mod systemd;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgewarden_names::UnixTime;
use edgewarden_platform::users::User;
use edgewarden_protocol::config::{Config, Keystore};
use edgewarden_protocol::layout::Layout;

pub use boot::Boot;
pub use clock::Clock;
pub use configuration::{ConfigState, Configuration};
pub use daemons::Daemons;
pub use disk::{Disk, Volume};
pub use fleet::Fleet;
pub use kernel::{Kernel, NAMESPACES};
pub use network::{Listening, Network, Route};
pub use nodes::{Kind, Node};
pub use processes::{Daemon, Peer};
pub use programs::{Programs, VOLUMES};
pub use systemd::{Systemd, Unit};

/// A fact, or in words why it is not known.
pub type Read<T> = Result<T, String>;

/// System user of `identityd`.
pub const IDENTITY_USER: &str = "ew-identity";
/// System user of `gatewayd`.
pub const GATEWAY_USER: &str = "ew-gateway";
/// Largest small file that is read: of /proc, of /sys, certificates, keys.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Places that facts are read from. The system's own, but for tests.
#[derive(Debug, Clone)]
pub struct Sources {
    pub layout: Layout,
    pub proc: PathBuf,
    pub sys: PathBuf,
    /// Folders in which programs are looked for, in this order.
    pub path: Vec<PathBuf>,
    /// Longest time that any one daemon, program or server may take to answer.
    pub patience: Duration,
}

impl Sources {
    /// The system's own /proc, /sys and PATH, with a patience of 8 seconds.
    pub fn system(layout: Layout) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
        Self {
            layout,
            proc: "/proc".into(),
            sys: "/sys".into(),
            // As the daemons look for them, whatever the PATH of whoever asks.
            path: folders.chain(programs::known()).collect(),
            patience: Duration::from_secs(8),
        }
    }
}

/// Ids of the daemons' system users; `None` for one that does not exist.
#[derive(Debug, Clone, Default)]
pub struct Users {
    pub identity: Option<User>,
    pub gateway: Option<User>,
}

/// All that is known of a gateway at one moment. The checks see nothing else.
#[derive(Debug, Clone)]
pub struct Facts {
    pub now: UnixTime,
    pub layout: Layout,
    pub config: Configuration,
    pub users: Users,
    /// Owner, mode and kind of every file and folder that matters, without following links. What is not there is not here.
    pub nodes: BTreeMap<PathBuf, Node>,
    pub boot: Boot,
    pub clock: Clock,
    pub kernel: Kernel,
    pub programs: Programs,
    pub daemons: Daemons,
    pub network: Network,
    pub disk: Disk,
    pub fleet: Fleet,
    pub systemd: Systemd,
}

impl Facts {
    /// Owner, mode and kind of `path`; `None` when it is not there or does not matter.
    pub fn node(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// The configuration, when it is good.
    pub fn settings(&self) -> Option<&Config> {
        match &self.config.state {
            ConfigState::Good(config) => Some(config),
            _ => None,
        }
    }
}

/// Reads everything. Takes a few times [`Sources::patience`] at most.
pub async fn gather(sources: &Sources) -> Facts {
    let layout = sources.layout.clone();
    let config = configuration::gather(&layout);
    let settings = match &config.state {
        ConfigState::Good(config) => Some(&**config),
        _ => None,
    };
    let users = Users { identity: account(IDENTITY_USER), gateway: account(GATEWAY_USER) };
    let daemons = daemons::gather(sources, settings);
    let programs = programs::gather(sources, settings);
    let disk = patient(sources.patience, disk::gather(&layout));
    let (daemons, programs, disk) = tokio::join!(daemons, programs, disk);
    let deployment = daemons.deployment.as_ref().map(|in_force| &in_force.deployment);
    let kernel = kernel::gather(sources);
    let fleet = fleet::gather(sources, settings, config.root.as_ref(), deployment).await;
    Facts {
        now: daemons.identity.as_ref().map_or_else(UnixTime::now, |status| status.time.now),
        nodes: nodes::gather(&layout, settings, &programs),
        boot: boot::gather(sources, settings),
        clock: clock::gather(sources),
        network: network::gather(sources),
        systemd: systemd::gather(&layout),
        layout,
        config,
        users,
        kernel,
        programs,
        daemons,
        disk: disk.unwrap_or_default(),
        fleet,
    }
}

fn account(name: &str) -> Option<User> {
    edgewarden_platform::users::lookup(name).ok().flatten()
}

/// The value, or `None` when it does not come in time.
async fn patient<T>(patience: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(patience, future).await.ok()
}

/// A file's bytes. Neither waits for a pipe nor reads without end.
fn bytes(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::other(format!("it is over {max} bytes")));
    }
    Ok(bytes)
}

fn text(path: &Path) -> Read<String> {
    let read = bytes(path, FILE_BYTES_MAX)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::Error::other("it is not text")));
    read.map_err(|error| format!("cannot read `{}`: {error}", path.display()))
}

fn number(path: &Path) -> Option<u64> {
    text(path).ok()?.split_whitespace().next()?.parse().ok()
}

/// True for a store that a TPM's boot measurements belong to.
pub fn has_tpm(keystore: &Keystore) -> bool {
    matches!(keystore, Keystore::Tpm { .. } | Keystore::DangerousSimulatedTpm { .. })
}
