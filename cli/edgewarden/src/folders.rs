//! Makes the folders of a gateway with the owners that keep its processes apart.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use edgewarden_platform::durable;
use edgewarden_protocol::config::{Config, Keystore};
use edgewarden_protocol::enrol::EVENT_LOG_BYTES_MAX;
use edgewarden_protocol::layout::Layout;
use nix::fcntl::OFlag;

use crate::exit::Problem;

/// System user of `identityd`.
pub const IDENTITY_USER: &str = "ew-identity";
/// System user of `gatewayd`.
pub const GATEWAY_USER: &str = "ew-gateway";

/// A system user's ids.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

const ROOT: Ids = Ids { uid: 0, gid: 0 };

/// Ids of a system user. Fails with the command that makes one when there is none of this name.
pub fn user(name: &str) -> Result<Ids, Problem> {
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Ok(Ids { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        Ok(None) => Err(Problem::text(format!(
            "the system user `{name}` does not exist\nhint: useradd --system --no-create-home {name}"
        ))),
        Err(error) => Err(Problem::failed(error)),
    }
}

/// Makes the gateway's folders. What is there keeps its content and gets the right owner and mode.
pub fn prepare(layout: &Layout) -> Result<(), Problem> {
    let identity = user(IDENTITY_USER)?;
    let gateway = user(GATEWAY_USER)?;
    let made = [
        (layout.identity_state(), identity, 0o700),
        (layout.gateway_state(), gateway, 0o700),
        (layout.runtime_state(), ROOT, 0o700),
        (layout.logs(), ROOT, 0o700),
        (layout.identity_run(), identity, 0o755),
        // Searchable, because a container's process walks through it to its own socket; not readable.
        (layout.identity_run().join("workload"), identity, 0o711),
        (layout.runtime_run(), ROOT, 0o755),
        (layout.gateway_run(), gateway, 0o755),
    ];
    for (path, owner, mode) in made {
        make(&path, owner, mode)
            .map_err(|error| Problem::text(format!("cannot make `{}`: {error}", path.display())))?;
    }
    Ok(())
}

/// A folder may lie in one that belongs to a daemon's user, who could put a link in its place at any moment: so the
/// folder is opened, and what is opened gets the owner.
fn make(path: &Path, owner: Ids, mode: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    let folder = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    fchown(&folder, Some(owner.uid), Some(owner.gid))?;
    folder.set_permissions(Permissions::from_mode(mode))
}

/// Gives `identityd` a copy of this boot's event log, which Linux lets only root read. Called before each of its starts.
pub fn copy_event_log(layout: &Layout, config: &Config) -> Result<(), Problem> {
    // Only a TPM's quote says anything about a log.
    if !matches!(config.keystore, Keystore::Tpm { .. } | Keystore::DangerousSimulatedTpm { .. }) {
        return Ok(());
    }
    let (from, to) = (&config.attestation.event_log, layout.event_log_copy());
    copy(from, &to, user(IDENTITY_USER)?)
        .map_err(|error| Problem::text(format!("cannot copy the event log `{}`: {error}", from.display())))
}

/// Copies a small file; when there is none, there is no copy either. The folder of the copy may belong to its owner:
/// no name in it is trusted.
fn copy(from: &Path, to: &Path, owner: Ids) -> io::Result<()> {
    let Some(bytes) = durable::read(from, EVENT_LOG_BYTES_MAX)? else { return durable::remove(to) };
    let temporary = to.with_extension("new");
    durable::remove(&temporary)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&bytes)?;
    fchown(&file, Some(owner.uid), Some(owner.gid))?;
    file.set_permissions(Permissions::from_mode(0o400))?;
    fs::rename(&temporary, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    const OTHER: Ids = Ids { uid: 64_904, gid: 64_905 };

    #[test]
    fn the_event_log_is_copied_for_its_reader_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (log, copied) = (folder.path().join("log"), folder.path().join("event_log"));
        for text in ["first boot", "second boot, whose log is longer"] {
            fs::write(&log, text).unwrap();
            copy(&log, &copied, OTHER).unwrap();
            assert_eq!(fs::read_to_string(&copied).unwrap(), text);
            let metadata = copied.symlink_metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (OTHER.uid, OTHER.gid));
            assert_eq!(metadata.mode() & 0o7777, 0o400);
        }
        // No old log stands in for one that is gone.
        fs::remove_file(&log).unwrap();
        copy(&log, &copied, OTHER).unwrap();
        assert!(!copied.exists());
        copy(&log, &copied, OTHER).unwrap();
    }

    #[test]
    fn no_link_and_no_flood_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (secret, copied) = (at("secret"), at("event_log"));
        fs::write(&secret, "root's").unwrap();
        symlink(&secret, at("link")).unwrap();
        assert!(copy(&at("link"), &copied, OTHER).is_err(), "a link in the log's place");
        let long = fs::File::create(at("long")).unwrap();
        long.set_len(EVENT_LOG_BYTES_MAX as u64 + 1).unwrap();
        assert!(copy(&at("long"), &copied, OTHER).is_err(), "too long");
        assert!(copy(folder.path(), &copied, OTHER).is_err(), "a folder");
        assert!(!copied.exists());
        // Links that the owner of the folder put where we write.
        for name in ["event_log", "event_log.new"] {
            symlink(&secret, at(name)).unwrap();
        }
        fs::write(at("log"), "log").unwrap();
        copy(&at("log"), &copied, OTHER).unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "root's");
        assert_ne!(secret.metadata().unwrap().uid(), OTHER.uid);
        assert!(copied.symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn a_link_in_a_folders_place_gets_no_owner() {
        let folder = tempfile::tempdir().unwrap();
        let (roots, link) = (folder.path().join("roots"), folder.path().join("workload"));
        fs::create_dir(&roots).unwrap();
        symlink(&roots, &link).unwrap();
        assert!(make(&link, OTHER, 0o711).is_err());
        assert_ne!(roots.metadata().unwrap().uid(), OTHER.uid);
        let made = folder.path().join("a/b");
        make(&made, OTHER, 0o711).unwrap();
        let metadata = made.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (OTHER.uid, OTHER.gid, 0o711));
    }
}
