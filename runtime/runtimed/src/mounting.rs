//! What is mounted in a container, as `mounts` of the OCI runtime-spec: the kernel's file systems, the folders that every
//! module has, and what its deployment declares. Outer folders come before those that lie in them.

use std::path::{Path, PathBuf};

use edgewarden_oci::execution::Execution;
use serde_json::{Value, json};

use crate::devices::DeviceNode;
use crate::secrets::PLACE;

/// Folders of the machine that are mounted in a container.
#[derive(Debug)]
pub struct Sources<'a> {
    /// Mounted at `/run/edgewarden`.
    pub workload_folder: &'a Path,
    /// Mounted at `/etc/hosts`.
    pub hosts: &'a Path,
    /// Folder of the module's secrets, if it has any.
    pub secrets: Option<&'a Path>,
    /// Of the module's `files` and `volumes`, in their order.
    pub files: &'a [PathBuf],
    pub volumes: &'a [PathBuf],
}

fn tmpfs(place: &str, options: &[&str]) -> Value {
    let options = [&["nosuid", "nodev"], options].concat();
    json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options})
}

fn bind(place: &str, source: &Path, options: &[&str]) -> Value {
    let options = [&["bind", "nosuid"], options].concat();
    json!({"destination": place, "type": "bind", "source": source, "options": options})
}

/// All mounts. `root` is the container's root file system, mounted.
pub fn mounts(
    execution: &Execution<'_>,
    root: &Path,
    sources: &Sources<'_>,
    devices: &[DeviceNode],
) -> Vec<Value> {
    let module = execution.module;
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "nodev", "noexec", "ro"]}),
        // A part of the root file system that stays writable, with what the image has there.
        bind("/run", &root.join("run"), &["rw", "nodev", "noexec"]),
    ];
    let mut declared = Vec::new();
    for (place, options) in [("/dev/shm", "size=16m"), ("/tmp", "size=16m")] {
        if !module.temporary.iter().any(|folder| folder.path == place) {
            declared.push((place.to_owned(), tmpfs(place, &["noexec", "mode=1777", options])));
        }
    }
    for folder in &module.temporary {
        let size = format!("size={}", folder.bytes_max);
        let run = if folder.exec { "exec" } else { "noexec" };
        declared.push((folder.path.clone(), tmpfs(&folder.path, &[run, "mode=1777", &size])));
    }
    if module.read_only {
        for place in execution.written_folders() {
            let source = root.join(place.trim_start_matches('/'));
            declared.push((place.clone(), bind(&place, &source, &["rw", "nodev"])));
        }
    }
    for (volume, source) in module.volumes.iter().zip(sources.volumes) {
        let access = if volume.read_only { "ro" } else { "rw" };
        declared.push((volume.path.clone(), bind(&volume.path, source, &[access, "nodev"])));
    }
    for (file, source) in module.files.iter().zip(sources.files) {
        let options: &[&str] = if file.exec { &["ro", "nodev"] } else { &["ro", "nodev", "noexec"] };
        declared.push((file.path.clone(), bind(&file.path, source, options)));
    }
    for device in devices {
        declared.push((device.place.clone(), bind(&device.place, &device.node, &["rw", "noexec"])));
    }
    // A path is shorter than what lies in it.
    declared.sort_by_key(|(place, _)| place.len());
    mounts.extend(declared.into_iter().map(|(_, mount)| mount));
    let ours = ["ro", "nodev", "noexec"];
    mounts.push(bind("/run/edgewarden", sources.workload_folder, &ours));
    mounts.push(bind("/etc/hosts", sources.hosts, &ours));
    if let Some(secrets) = sources.secrets {
        mounts.push(bind(PLACE, secrets, &ours));
    }
    mounts
}
