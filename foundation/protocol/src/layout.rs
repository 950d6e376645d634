//! Paths of a gateway's files and sockets. `--root DIR` moves all of them, so that many gateways run side by side.

use std::path::{Path, PathBuf};

/// Paths beneath the root folder of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// `root` is `/` on a gateway.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root folder; `/` on a gateway of its own.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `etc/edgewarden/config.toml`
    pub fn config_file(&self) -> PathBuf {
        self.root.join("etc/edgewarden/config.toml")
    }

    fn state(&self) -> PathBuf {
        self.root.join("var/lib/edgewarden")
    }

    fn run(&self) -> PathBuf {
        self.root.join("run/edgewarden")
    }

    /// Keys, certificates, verdict, counters and the audit log. Owner `ew-identity`, mode 0700.
    pub fn identity_state(&self) -> PathBuf {
        self.state().join("identity")
    }

    /// Locked (flock(2)) by who works on the identity state.
    pub fn identity_lock(&self) -> PathBuf {
        self.identity_state().join("lock")
    }

    /// Images, root file systems and what runs. Owner root, mode 0700.
    pub fn runtime_state(&self) -> PathBuf {
        self.state().join("runtime")
    }

    /// The upstream queue. Owner `ew-gateway`, mode 0700.
    pub fn gateway_state(&self) -> PathBuf {
        self.state().join("gateway")
    }

    /// Folder of the modules' output, one file a module. Owner root.
    pub fn logs(&self) -> PathBuf {
        self.state().join("logs")
    }

    /// Socket where `identityd` answers [`crate::control`] requests. Peers are told apart by their user.
    pub fn control_socket(&self) -> PathBuf {
        self.run().join("identityd/control.sock")
    }

    /// Socket where `runtimed` answers the command line (root only).
    pub fn runtime_socket(&self) -> PathBuf {
        self.run().join("runtimed/control.sock")
    }

    /// Socket where `gatewayd` answers the command line (root only).
    pub fn gateway_socket(&self) -> PathBuf {
        self.run().join("gatewayd/control.sock")
    }

    /// The folder of one module instance's Workload API socket, `api.sock`. `identityd` makes it;
    /// `runtimed` mounts it into that one container.
    pub fn workload_folder(&self, instance: &str) -> PathBuf {
        self.run().join("identityd/workload").join(instance)
    }

    /// The Workload API socket of an instance, or of a reserved name (`runtimed`, `gatewayd`).
    pub fn workload_socket(&self, instance: &str) -> PathBuf {
        self.workload_folder(instance).join("api.sock")
    }

    /// The socket of an instance's IoT Edge workload API, in the same folder.
    pub fn iotedge_socket(&self, instance: &str) -> PathBuf {
        self.workload_folder(instance).join("workload.sock")
    }

    /// Folders that `runtimed` and `runc` use while modules run.
    pub fn runtime_run(&self) -> PathBuf {
        self.run().join("runtimed")
    }

    /// Run folder of `gatewayd`.
    pub fn gateway_run(&self) -> PathBuf {
        self.run().join("gatewayd")
    }

    /// Run folder of `identityd`.
    pub fn identity_run(&self) -> PathBuf {
        self.run().join("identityd")
    }

    /// A copy of the boot's event log for `identityd`, made as root before it starts: Linux lets only root read the
    /// log itself. Owner `ew-identity`, mode 0400.
    pub fn event_log_copy(&self) -> PathBuf {
        self.identity_run().join("event_log")
    }
}
