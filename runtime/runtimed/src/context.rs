//! What the parts of the daemon share.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use edgewarden_oci::store::ContentStore;
use edgewarden_protocol::config::Config;
use edgewarden_protocol::layout::Layout;

use crate::RunError;
use crate::board::Board;
use crate::identity::Client;
use crate::places::Places;
use crate::runc::Runc;

#[derive(Debug)]
pub struct Context {
    pub layout: Layout,
    pub config: Config,
    pub places: Places,
    pub identityd: Client,
    pub store: ContentStore,
    pub runc: Runc,
    pub board: Board,
    /// Instances between the first thing made for them and the last removed.
    live: Mutex<BTreeSet<String>>,
}

impl Context {
    pub fn new(layout: Layout, config: Config, places: Places) -> Result<Self, RunError> {
        let store = ContentStore::open(&places.store()).map_err(|error| RunError::Store(error.refusal()))?;
        Ok(Self {
            identityd: Client::new(&layout),
            runc: Runc::new(&config.runtime.oci_runtime, places.runc()),
            board: Board::new(config.fleet.as_ref().map(|fleet| fleet.url.clone())),
            store,
            places,
            layout,
            config,
            live: Mutex::default(),
        })
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

    /// `/edgewarden/<gateway>/<instance>`. Gateways side by side on one machine, below roots of their own, are told
    /// apart by their names.
    pub fn cgroup(&self, instance: &str) -> String {
        format!("/edgewarden/{}/{instance}", self.config.gateway.name)
    }

    fn lives(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn live(&self, instance: &str) {
        self.lives().insert(instance.to_owned());
    }

    pub fn gone(&self, instance: &str) {
        self.lives().remove(instance);
    }

    pub fn is_live(&self, instance: &str) -> bool {
        self.lives().contains(instance)
    }
}
