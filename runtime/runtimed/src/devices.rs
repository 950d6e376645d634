//! Device nodes of the gateway in a container: copies that belong to the module's user, in a folder that only root enters.
//!
//! A link such as `/dev/serial/by-id/…` is followed at each start, so that what was plugged in elsewhere is found again.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::container::{Device, DeviceAccess};
use edgewarden_protocol::deployment::Module;
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod};
use serde_json::{Value, json};

/// Character devices with which a module would have the whole machine, or the gateway's keys: major and minor number, `None`
/// for all (admin-guide/devices of the kernel).
const NEVER: [(&str, u64, Option<u64>); 11] = [
    ("memory", 1, Some(1)),
    ("kernel memory", 1, Some(2)),
    ("input and output ports", 1, Some(4)),
    ("the kernel's log", 1, Some(11)),
    ("raw disks", 21, None),
    ("keyboards and mice of others", 10, Some(223)),
    ("the TPM", 10, Some(224)),
    ("disks", 10, Some(236)),
    ("disks", 10, Some(237)),
    ("registers of processors", 202, None),
    ("registers of processors", 203, None),
];

/// Major numbers of pseudo-terminals' slaves, whose nodes are devpts' own.
const PTS_FIRST: u64 = 136;
const PTS_LAST: u64 = 143;

/// A node that is to be in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Path in the container.
    pub place: String,
    /// The copy; a terminal itself, which only works where the kernel made it.
    pub node: PathBuf,
    terminal: bool,
    access: DeviceAccess,
    major: u64,
    minor: u64,
}

impl DeviceNode {
    /// Rule of the device cgroup, as in `linux.resources.devices` of the runtime-spec.
    pub fn allowed(&self) -> Value {
        json!({"allow": true, "type": "c", "major": self.major, "minor": self.minor, "access": self.access.letters()})
    }

    /// Makes the node; one that is there is replaced.
    pub fn make(&self, owner: (u32, u32)) -> std::io::Result<()> {
        if self.terminal {
            return chown(&self.node, Some(owner.0), Some(owner.1));
        }
        if let Some(folder) = self.node.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        drop(std::fs::remove_file(&self.node));
        let mode = match self.access {
            DeviceAccess::Read => Mode::S_IRUSR,
            DeviceAccess::Write => Mode::S_IWUSR,
            DeviceAccess::Both => Mode::S_IRUSR | Mode::S_IWUSR,
        };
        mknod(&self.node, SFlag::S_IFCHR, mode, makedev(self.major, self.minor))?;
        // The umask must not decide what the module may do.
        std::fs::set_permissions(&self.node, std::fs::Permissions::from_mode(mode.bits()))?;
        chown(&self.node, Some(owner.0), Some(owner.1))
    }
}

/// The module's devices, as they are plugged in now. `folder`: of the copies.
pub fn found(module: &Module, folder: &Path) -> Result<Vec<DeviceNode>, Refusal> {
    let numbered = module.devices.iter().enumerate();
    numbered.map(|(number, device)| find(module, device, folder.join(number.to_string()))).collect()
}

fn find(module: &Module, device: &Device, node: PathBuf) -> Result<DeviceNode, Refusal> {
    let path = Path::new(&device.path);
    let refused = |reason, rule: String| Refusal::new(reason, &module.name, rule);
    let shown = path.display();
    let metadata = path.metadata().map_err(|error| {
        refused(
            Reason::DeviceMissing,
            format!("the device `{shown}` cannot be found on the gateway: {error}"),
        )
    })?;
    let kind = metadata.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Err(refused(Reason::DeviceMissing, format!("`{shown}` is no device")));
    }
    let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
    if let Some(what) = never(path, kind.is_block_device(), major, minor) {
        let rule = format!("`{shown}` is {what} of the gateway, which no module is given");
        return Err(refused(Reason::DeviceForbidden, rule));
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let terminal = (PTS_FIRST..=PTS_LAST).contains(&major);
    let node = if terminal { real } else { node };
    Ok(DeviceNode { place: device.place().to_owned(), node, terminal, access: device.access, major, minor })
}

/// Name of what nobody gets; `None` for what a deployment may give.
fn never(path: &Path, block: bool, major: u64, minor: u64) -> Option<&'static str> {
    if block {
        return Some("a disk");
    }
    // The numbers of these differ from boot to boot.
    let named = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = named.file_name().map_or(&b""[..], |name| name.as_encoded_bytes());
    if name.starts_with(b"tpm") {
        return Some("the TPM");
    }
    if name.starts_with(b"nvme") || name.starts_with(b"ng") {
        return Some("a disk");
    }
    let is =
        |(_, found, one): &&(&str, u64, Option<u64>)| *found == major && one.is_none_or(|one| one == minor);
    NEVER.iter().find(is).map(|(what, ..)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str) -> Module {
        let image = format!("r/a@sha256:{}", "ab".repeat(32));
        serde_json::from_value(
            json!({"name": "reader", "image": image, "devices": [{"path": path, "as": "/dev/plc"}]}),
        )
        .unwrap()
    }

    #[test]
    fn a_device_is_found_by_its_link_and_one_that_opens_the_machine_is_not_given() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("by-id");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let nodes = found(&module(link.to_str().unwrap()), folder.path()).unwrap();
        assert_eq!((nodes[0].major, nodes[0].minor, nodes[0].place.as_str()), (1, 5, "/dev/plc"));
        let reason = |path: &str| found(&module(path), folder.path()).unwrap_err().reason;
        assert_eq!(reason("/dev/nothing-there"), Reason::DeviceMissing);
        assert_eq!(reason("/etc/passwd"), Reason::DeviceMissing);
        for (path, kind, number) in [
            ("mem", SFlag::S_IFCHR, (1, 1)),
            ("disk", SFlag::S_IFBLK, (8, 0)),
            ("msr", SFlag::S_IFCHR, (202, 3)),
            ("tpmrm0", SFlag::S_IFCHR, (253, 0)),
            ("nvme0", SFlag::S_IFCHR, (240, 0)),
        ] {
            let path = folder.path().join(path);
            mknod(&path, kind, Mode::S_IRUSR, makedev(number.0, number.1)).unwrap();
            assert_eq!(reason(path.to_str().unwrap()), Reason::DeviceForbidden, "{}", path.display());
        }
    }
}
