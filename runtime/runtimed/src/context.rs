//! Values that the parts of the daemon share.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use edgewarden_names::sha256;
use edgewarden_oci::records::RecordKey;
use edgewarden_oci::store::ContentStore;
use edgewarden_platform::kept_socket::Change;
use edgewarden_platform::user_namespace::UserRange;
use edgewarden_protocol::config::Config;
use edgewarden_protocol::control::{ToldTime, questions};
use edgewarden_protocol::layout::Layout;
use edgewarden_transport::Clock;
use tokio::sync::{Notify, OnceCell, watch};

use crate::addresses;
use crate::board::Board;
use crate::error::RunError;
use crate::identity::{CallError, Client};
use crate::logs::LogPump;
use crate::metrics::Metrics;
use crate::orders::Guard;
use crate::places::Places;
use crate::runc::Runc;

/// Configuration, folders, clients and state of the daemon, made once at its start.
#[derive(Debug)]
pub struct Context {
    pub layout: Layout,
    pub config: Config,
    pub places: Places,
    pub identityd: Client,
    pub store: ContentStore,
    pub runc: Runc,
    pub board: Board,
    pub metrics: Metrics,
    pub log_pump: LogPump,
    /// The time, as `identityd` tells it.
    pub clock: Clock,
    /// True while `identityd` wants the fleet's word on it.
    pub time_unsure: watch::Sender<bool>,
    /// Once `identityd` has released it.
    record_key: OnceCell<Arc<RecordKey>>,
    /// Wakes the cleaning of what is on disk and not needed any more.
    pub tidy: Notify,
    /// Made with this, and set before anything else asks for it.
    pub guard: OnceLock<Guard>,
    /// Instances between the first thing made for them and the last removed.
    live: Mutex<BTreeSet<String>>,
}

impl Context {
    /// Says what became of the file of one of our own sockets.
    pub fn socket_changed(&self, path: &Path, change: &Change, name: &str) {
        let path = path.display();
        match change {
            Change::PutBack => {
                tracing::warn!(%path, "the {name} was removed from outside and is put back");
                self.board.repaired(self.clock.now(), format!("runtimed: its {name} was removed; put back"));
            }
            Change::Lost(error) => {
                tracing::warn!(%path, %error, "the {name} was removed from outside and cannot be put back");
            }
        }
    }

    /// Opens the store of images. Fails when that, or the look-up of the other daemons' users, fails.
    pub fn new(layout: Layout, config: Config, places: Places, log_pump: LogPump) -> Result<Self, RunError> {
        let store = ContentStore::open(&places.store()).map_err(|error| RunError::Store(error.refusal()))?;
        Ok(Self {
            identityd: Client::new(&layout),
            runc: Runc::new(&config.runtime.oci_runtime, places.runc()),
            guard: OnceLock::new(),
            board: Board::new(config.fleet.as_ref().map(|fleet| fleet.url.clone())),
            metrics: Metrics::default(),
            log_pump,
            clock: Clock::new(),
            time_unsure: watch::Sender::new(false),
            store,
            places,
            layout,
            config,
            record_key: OnceCell::new(),
            tidy: Notify::new(),
            live: Mutex::default(),
        })
    }

    /// The key under which what is kept on disk and believed later is authenticated.
    pub async fn record_key(&self) -> Result<Arc<RecordKey>, CallError> {
        let ask = async || {
            let released = self.identityd.call(questions::RecordKey).await;
            released.map(|key| Arc::new(RecordKey::new(key.expose())))
        };
        self.record_key.get_or_try_init(ask).await.cloned()
    }

    /// The guard; an error until it is started.
    pub fn guard(&self) -> Result<&Guard, RunError> {
        self.guard.get().ok_or_else(|| RunError::Runtime("there is no guard of rules and limits yet".into()))
    }

    /// Goes by what `identityd` tells of the time.
    pub fn hear_time(&self, time: ToldTime) {
        self.clock.tell(time.offset_millis);
        self.time_unsure.send_if_modified(|unsure| std::mem::replace(unsure, time.unsure) != time.unsure);
    }

    /// Runs what blocks on a thread for it.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, RunError> + Send + 'static,
    ) -> Result<T, RunError> {
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(RunError::Runtime(error.to_string())))
    }

    /// `/edgewarden/<gateway>/<instance>`. Cgroups are the machine's, not the root's: gateways below roots of their own
    /// have the hash of the root's path in the name, so that none touches another's.
    pub fn cgroup(&self, instance: &str) -> String {
        let gateway = &self.config.gateway.name;
        match self.mark() {
            None => format!("/edgewarden/{gateway}/{instance}"),
            Some(mark) => format!("/edgewarden/{gateway}-{mark:08x}/{instance}"),
        }
    }

    /// Tells gateways of one machine apart: what their roots' paths hash to, and `None` for the machine's own.
    fn mark(&self) -> Option<u32> {
        let root = self.layout.root();
        (root != Path::new("/")).then(|| {
            let [a, b, c, d, ..] = sha256(root.as_os_str().as_bytes());
            u32::from_be_bytes([a, b, c, d])
        })
    }

    /// Users and groups of the module with this number. The machine's own gateway has the first range.
    pub fn users_of(&self, number: u8) -> UserRange {
        let gateway = self.mark().map_or(0, |mark| u16::try_from(mark % 15).unwrap_or(0).saturating_add(1));
        addresses::users(gateway, number)
    }

    /// Removes the cgroups above the instances' own, once no instance is in them: of every hierarchy, v1 or unified.
    pub fn remove_cgroups(&self) {
        let ours = self.cgroup("");
        let ours = Path::new(ours.trim_matches('/'));
        let mount = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(mount).into_iter().flatten().flatten().map(|entry| entry.path());
        for hierarchy in hierarchies.chain([mount.to_owned()]) {
            for folder in ours.ancestors().filter(|folder| *folder != Path::new("")) {
                // It is not there, or somebody's else is in it.
                drop(std::fs::remove_dir(hierarchy.join(folder)));
            }
        }
    }

    fn lives(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks an instance as existing, from before the first thing is made for it.
    pub fn live(&self, instance: &str) {
        self.lives().insert(instance.to_owned());
    }

    /// Takes back [`Self::live`], after the last of an instance's things is removed.
    pub fn gone(&self, instance: &str) {
        self.lives().remove(instance);
    }

    /// `true` between [`Self::live`] and [`Self::gone`].
    pub fn is_live(&self, instance: &str) -> bool {
        self.lives().contains(instance)
    }
}
