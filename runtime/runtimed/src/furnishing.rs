//! What an instance finds in its container beside its image: made before its start, removed with it.
//!
//! ```text
//! <run>/roots/<instance>        its root file system (`rootfs`)
//! <run>/files/<instance>/       hosts, files of the deployment, device nodes, volumes; root's alone
//! ```

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use edgewarden_names::Refusal;
use edgewarden_oci::execution::Execution;
use edgewarden_oci::tree;
use edgewarden_platform::user_namespace::{UserNamespace, UserRange};
use edgewarden_protocol::deployment::Module;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::devices::{self, DeviceNode};
use crate::error::RunError;
use crate::places::Places;
use crate::volumes::Volumes;
use crate::{rootfs, secrets};

/// Names that a deployment adds to a module's hosts file, kept to write it anew.
const EXTRA_HOSTS: &str = "extra-hosts";
const HOSTS: &str = "hosts";
/// A file system in memory whose device nodes work, wherever `<run>` lies.
const DEVICES: &str = "devices";
const SECRETS: &str = "secrets";

/// Paths on the machine of what was made.
#[derive(Debug)]
pub struct Furnished {
    pub root: PathBuf,
    pub hosts: PathBuf,
    pub secrets: Option<PathBuf>,
    pub files: Vec<PathBuf>,
    pub volumes: Vec<PathBuf>,
    pub devices: Vec<DeviceNode>,
}

/// Makes all of it; what a failed attempt made is removed by [`remove`]. Blocks.
pub fn furnish(
    places: &Places,
    instance: &str,
    execution: &Execution<'_>,
    users: UserRange,
    owner: (u32, u32),
) -> Result<Result<Furnished, Refusal>, RunError> {
    let module = execution.module;
    let folder = places.files(instance);
    let devices = match devices::found(module, &folder.join(DEVICES)) {
        Ok(devices) => devices,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let what = || RunError::io(format!("make what is in the container of `{instance}`"));
    remove(places, instance)?;
    DirBuilder::new().mode(0o700).create(&folder).map_err(what())?;
    let writable = if module.read_only { 0 } else { module.writable_bytes };
    let root = rootfs::make(&places.root(instance), execution.root, users, writable)?;
    if module.read_only {
        for place in execution.written_folders() {
            rootfs::make_folder(&root, &place, users).map_err(what())?;
        }
    }
    let mut files = Vec::new();
    for (number, file) in module.files.iter().enumerate() {
        let path = folder.join(format!("file-{number}"));
        let mode = if file.exec { 0o555 } else { 0o444 };
        write(&path, &file.text, mode).map_err(what())?;
        files.push(path);
    }
    if !devices.is_empty() {
        let at = folder.join(DEVICES);
        DirBuilder::new().mode(0o700).create(&at).map_err(what())?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), &at, Some("tmpfs"), flags, Some("size=64k,mode=700"))
            .map_err(|error| what()(error.into()))?;
        for device in &devices {
            device.make(owner).map_err(what())?;
        }
    }
    let secrets = (!module.secrets.is_empty()).then(|| folder.join(SECRETS));
    if let Some(place) = &secrets {
        secrets::make(place, owner)?;
    }
    let volumes = mount_volumes(&places.volumes(), execution, users, &folder)?;
    let hosts = match extra_hosts(module) {
        None => places.hosts(),
        Some(extra) => {
            std::fs::write(folder.join(EXTRA_HOSTS), extra).map_err(what())?;
            let path = folder.join(HOSTS);
            let common = std::fs::read_to_string(places.hosts()).unwrap_or_default();
            write(&path, "", 0o644).and_then(|()| write_hosts(&folder, &common)).map_err(what())?;
            path
        }
    };
    Ok(Ok(Furnished { root, hosts, secrets, files, volumes, devices }))
}

fn mount_volumes(
    volumes: &Volumes,
    execution: &Execution<'_>,
    users: UserRange,
    folder: &Path,
) -> Result<Vec<PathBuf>, RunError> {
    let module = execution.module;
    if module.volumes.is_empty() {
        return Ok(Vec::new());
    }
    let users = UserNamespace::of(users).map_err(RunError::io("make the module's user namespace"))?;
    let mut mounted = Vec::new();
    for (number, volume) in module.volumes.iter().enumerate() {
        let place = volume_place(folder, number);
        let first = tree::folder(execution.root, &volume.path);
        let first = first.map(|place| execution.root.join(place.trim_start_matches('/')));
        volumes.mount(&module.name, volume, first.as_deref(), &users, &place)?;
        mounted.push(place);
    }
    Ok(mounted)
}

/// Gives the volumes of an instance that is about to start the room that its deployment gives them: those that an instance
/// before had could not grow while it ran. Blocks.
pub fn grow_volumes(
    places: &Places,
    instance: &str,
    module: &Module,
    users: UserRange,
) -> Result<(), RunError> {
    if module.volumes.is_empty() {
        return Ok(());
    }
    let users = UserNamespace::of(users).map_err(RunError::io("make the module's user namespace"))?;
    for (number, volume) in module.volumes.iter().enumerate() {
        places.volumes().mount_larger(
            &module.name,
            volume,
            &users,
            &volume_place(&places.files(instance), number),
        )?;
    }
    Ok(())
}

fn volume_place(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("volume-{number}"))
}

fn extra_hosts(module: &Module) -> Option<String> {
    let line = |(name, address): (&String, &std::net::IpAddr)| format!("{address} {name}\n");
    (!module.extra_hosts.is_empty()).then(|| module.extra_hosts.iter().map(line).collect())
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Brings the hosts files up to date that have names of their own. In place: they are mounted in containers.
pub fn update_hosts(places: &Places, common: &str) -> io::Result<()> {
    for folder in std::fs::read_dir(places.all_files())? {
        let folder = folder?.path();
        if folder.join(EXTRA_HOSTS).exists() {
            write_hosts(&folder, common)?;
        }
    }
    Ok(())
}

fn write_hosts(folder: &Path, common: &str) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let text = format!("{common}{}", std::fs::read_to_string(folder.join(EXTRA_HOSTS))?);
    let file = std::fs::File::options().write(true).open(folder.join(HOSTS))?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

/// Unmounts and removes all of it; that there is nothing is no error. Blocks.
pub fn remove(places: &Places, instance: &str) -> Result<(), RunError> {
    rootfs::remove(&places.root(instance))?;
    let folder = places.files(instance);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(RunError::io(format!("read `{}`", folder.display()))(error)),
    };
    let what = || RunError::io(format!("remove `{}`", folder.display()));
    for entry in entries {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))).map_err(what())?;
        if kind.is_dir() {
            while umount2(&path, MntFlags::MNT_DETACH).is_ok() {}
            // Whatever is still mounted there keeps it from being removed, and its contents from being lost.
            std::fs::remove_dir(&path).map_err(what())?;
        } else {
            std::fs::remove_file(&path).map_err(what())?;
        }
    }
    std::fs::remove_dir(&folder).map_err(what())
}
