//! Files and folders of `runtimed`, below [`Layout`].

use std::fs::{File, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt as _};
use std::path::{Path, PathBuf};

use edgewarden_names::ModuleName;
use edgewarden_protocol::layout::Layout;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::error::RunError;
use crate::volumes::Volumes;

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
            &places.all_files(),
        ] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(RunError::io(format!("make `{}`", folder.display())))?;
        }
        // Modules pass through as users of their own; what else is here is in folders that they cannot enter.
        for folder in [&places.run, &places.roots()] {
            std::fs::create_dir_all(folder)
                .and_then(|()| std::fs::set_permissions(folder, Permissions::from_mode(0o711)))
                .map_err(RunError::io(format!("let modules pass through `{}`", folder.display())))?;
        }
        Ok(places)
    }

    /// Lock file that keeps a root to one daemon.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }
    /// The OCI runtime's own state.
    pub fn runc(&self) -> PathBuf {
        self.run.join("runc")
    }
    /// Folder with an OCI bundle for each instance.
    pub fn bundles(&self) -> PathBuf {
        self.run.join("bundles")
    }
    pub fn bundle(&self, instance: &str) -> PathBuf {
        self.bundles().join(instance)
    }
    /// Folder with a file for each instance, under which its network namespace is mounted.
    pub fn namespaces(&self) -> PathBuf {
        self.run.join("netns")
    }
    pub fn namespace(&self, instance: &str) -> PathBuf {
        self.namespaces().join(instance)
    }
    /// Folder with a file for each instance: what a daemon that starts again needs to know of it.
    pub fn records(&self) -> PathBuf {
        self.run.join("instances")
    }
    pub fn record(&self, instance: &str) -> PathBuf {
        self.records().join(format!("{instance}.json"))
    }
    /// The packet filter's rules, as they were put in force last.
    pub fn rules(&self) -> PathBuf {
        self.run.join("rules.nft")
    }
    fn ended_folder(&self) -> PathBuf {
        self.run.join("ended")
    }
    /// A module that ended and is not to run again until the machine starts anew, with its refusal; JSON.
    pub fn ended(&self, module: &ModuleName) -> PathBuf {
        self.ended_folder().join(format!("{module}.json"))
    }
    /// Folder with a folder for each instance, in which its root file system is mounted.
    pub fn roots(&self) -> PathBuf {
        self.run.join("roots")
    }
    pub fn root(&self, instance: &str) -> PathBuf {
        self.roots().join(instance)
    }
    /// Folder with a folder for each instance: what else is mounted in its container.
    pub fn all_files(&self) -> PathBuf {
        self.run.join("files")
    }
    pub fn files(&self, instance: &str) -> PathBuf {
        self.all_files().join(instance)
    }
    /// Volumes of modules, for as long as nobody removes them.
    pub fn volumes(&self) -> Volumes {
        Volumes::new(self.state.join("volumes"))
    }
    /// Mounted into every container.
    pub fn hosts(&self) -> PathBuf {
        self.run.join("hosts")
    }
    /// Opens the folder of an instance's Workload API socket. The folders above it belong to `identityd`'s user, who must
    /// not have another folder of the gateway mounted into a module by a link: from the first of them on none is
    /// followed. What is opened is compared with what was mounted.
    pub fn open_workload_folder(layout: &Layout, instance: &str) -> std::io::Result<OwnedFd> {
        let other = |what| std::io::Error::other(format!("the folder is not {what}"));
        let run = layout.identity_run();
        let top = run.parent().ok_or_else(|| other("below the run folder"))?;
        let folder = layout.workload_folder(instance);
        let below = folder.strip_prefix(top).map_err(|_| other("below the run folder"))?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(openat2(&File::open(top)?, below, how)?)
    }
    /// The table of module numbers.
    pub fn addresses(&self) -> PathBuf {
        self.state.join("addresses.json")
    }
    /// Folder of the content store.
    pub fn store(&self) -> PathBuf {
        self.state.join("store")
    }
    pub fn logs(&self) -> &Path {
        &self.logs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, remove_dir_all, rename};
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_of_identityds_user_leads_a_mount_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        // Links above the run folder are the operator's own.
        create_dir_all(folder.path().join("real")).unwrap();
        symlink(folder.path().join("real"), folder.path().join("root")).unwrap();
        let layout = Layout::new(folder.path().join("root"));
        let ours = layout.workload_folder("alerts-1");
        create_dir_all(&ours).unwrap();
        let secret = folder.path().join("secret");
        create_dir_all(secret.join("workload/alerts-1")).unwrap();
        create_dir_all(secret.join("alerts-1")).unwrap();
        assert!(Places::open_workload_folder(&layout, "alerts-1").is_ok());
        for outside in ["../../..", "alerts-2", "/etc"] {
            assert!(Places::open_workload_folder(&layout, outside).is_err(), "{outside}");
        }
        remove_dir_all(&ours).unwrap();
        symlink(&secret, &ours).unwrap();
        assert!(Places::open_workload_folder(&layout, "alerts-1").is_err(), "the folder itself");
        let workload = layout.identity_run().join("workload");
        rename(&workload, workload.with_extension("old")).unwrap();
        symlink(&secret, &workload).unwrap();
        assert!(Places::open_workload_folder(&layout, "alerts-1").is_err(), "the folder above");
        std::fs::write(folder.path().join("file"), "").unwrap();
        std::fs::remove_file(&workload).unwrap();
        create_dir_all(&workload).unwrap();
        std::fs::write(&ours, "").unwrap();
        assert!(Places::open_workload_folder(&layout, "alerts-1").is_err(), "a file");
    }
}
