//! Owners and modes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use edgewarden_protocol::config::{Config, Keystore};
use edgewarden_protocol::est::EstAuth;
use edgewarden_protocol::layout::Layout;

use super::Programs;

/// Kind of a file system node; `Device` is a character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Link,
    Device,
    Other,
}

/// Owner, mode and kind of one file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    pub size: u64,
}

impl Node {
    /// Rights of this user with these groups: 4 read, 2 write, 1 search or execute.
    pub fn rights(&self, uid: u32, groups: &[u32]) -> u32 {
        let bits = if uid == self.uid {
            self.mode >> 6
        } else if groups.contains(&self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        bits & 7
    }
}

fn look(path: &Path, follow: bool) -> Option<Node> {
    let metadata = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) }.ok()?;
    let file_type = metadata.file_type();
    let kind = if file_type.is_file() {
        Kind::File
    } else if file_type.is_dir() {
        Kind::Folder
    } else if file_type.is_symlink() {
        Kind::Link
    } else if file_type.is_char_device() {
        Kind::Device
    } else {
        Kind::Other
    };
    Some(Node {
        kind,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mode: metadata.mode() & 0o7777,
        size: metadata.size(),
    })
}

/// The folders of a gateway, all of them.
pub fn folders(layout: &Layout) -> [PathBuf; 8] {
    [
        layout.identity_state(),
        layout.gateway_state(),
        layout.runtime_state(),
        layout.logs(),
        layout.identity_run(),
        layout.identity_run().join("workload"),
        layout.runtime_run(),
        layout.gateway_run(),
    ]
}

/// Looks at the gateway's folders, files and programs, and at every folder above them. Those that are not there are
/// left out.
pub fn gather(layout: &Layout, config: Option<&Config>, programs: &Programs) -> BTreeMap<PathBuf, Node> {
    let mut nodes = BTreeMap::new();
    let mut add = |path: &Path, follow: bool| {
        if let Some(node) = look(path, follow) {
            nodes.insert(path.to_path_buf(), node);
        }
    };
    for folder in folders(layout) {
        for above in folder.ancestors().skip(1) {
            add(above, true);
        }
    }
    // Where a daemon is meant to find a folder of its own, a link may be somebody's trap.
    for folder in folders(layout) {
        add(&folder, false);
    }
    let file = layout.config_file();
    add(&file, false);
    if let Some(folder) = file.parent() {
        add(folder, true);
    }
    if let Some(fleet) = config.and_then(|config| config.fleet.as_ref()) {
        add(&fleet.root, true);
    }
    if let Some(est) = config.and_then(|config| config.est.as_ref()) {
        add(&est.trust_anchors, true);
        if let EstAuth::Basic { password_file: secret, .. } | EstAuth::Certificate { key_file: secret, .. } =
            &est.auth
        {
            add(secret, true);
        }
    }
    for path in config.into_iter().flat_map(|config| config.runtime.secret_files()) {
        add(path, true);
    }
    for path in config.map(Config::operator_keys).unwrap_or_default() {
        add(path, true);
    }
    match config.map(|config| &config.keystore) {
        Some(Keystore::Tpm { device }) => add(device, true),
        Some(Keystore::Pkcs11 { module, pin_file, library_files, .. }) => {
            for path in [module, pin_file].into_iter().chain(library_files) {
                add(path, true);
            }
        }
        Some(Keystore::Software { passphrase_file }) => add(passphrase_file, true),
        Some(Keystore::DangerousSimulatedTpm { .. }) | None => {}
    }
    for path in programs.found() {
        add(path, true);
    }
    nodes
}
