//! Where `runtimed` keeps what, below [`Layout`].

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use edgewarden_names::ModuleName;
use edgewarden_protocol::layout::Layout;

use crate::RunError;

/// Folders below `Layout::runtime_run` last until the machine stops, those below `Layout::runtime_state` longer.
#[derive(Debug, Clone)]
pub struct Places {
    run: PathBuf,
    state: PathBuf,
    logs: PathBuf,
}

impl Places {
    /// Makes the folders, for root only.
    pub fn make(layout: &Layout) -> Result<Self, RunError> {
        let places = Self { run: layout.runtime_run(), state: layout.runtime_state(), logs: layout.logs() };
        for folder in [
            &places.run,
            &places.state,
            &places.logs,
            &places.bundles(),
            &places.namespaces(),
            &places.records(),
            &places.ended_folder(),
        ] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(RunError::io(format!("make `{}`", folder.display())))?;
        }
        Ok(places)
    }

    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }
    /// The OCI runtime's own state.
    pub fn runc(&self) -> PathBuf {
        self.run.join("runc")
    }
    pub fn bundles(&self) -> PathBuf {
        self.run.join("bundles")
    }
    pub fn bundle(&self, instance: &str) -> PathBuf {
        self.bundles().join(instance)
    }
    /// One file an instance, under which its network namespace is mounted.
    pub fn namespaces(&self) -> PathBuf {
        self.run.join("netns")
    }
    pub fn namespace(&self, instance: &str) -> PathBuf {
        self.namespaces().join(instance)
    }
    /// One file an instance: what a daemon that starts again needs to know of it.
    pub fn records(&self) -> PathBuf {
        self.run.join("instances")
    }
    pub fn record(&self, instance: &str) -> PathBuf {
        self.records().join(format!("{instance}.json"))
    }
    fn ended_folder(&self) -> PathBuf {
        self.run.join("ended")
    }
    /// What a module was that ended and is not to run again until the machine starts anew.
    pub fn ended(&self, module: &ModuleName) -> PathBuf {
        self.ended_folder().join(format!("{module}.json"))
    }
    /// Mounted into every container.
    pub fn hosts(&self) -> PathBuf {
        self.run.join("hosts")
    }
    pub fn addresses(&self) -> PathBuf {
        self.state.join("addresses.json")
    }
    pub fn store(&self) -> PathBuf {
        self.state.join("store")
    }
    pub fn logs(&self) -> &Path {
        &self.logs
    }
}
