//! Makes the folders of a gateway with the owners that keep its processes apart.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use edgewarden_protocol::layout::Layout;

use crate::exit::Problem;

pub const IDENTITY_USER: &str = "ew-identity";
pub const GATEWAY_USER: &str = "ew-gateway";

/// A system user's ids.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

const ROOT: Ids = Ids { uid: 0, gid: 0 };

pub fn user(name: &str) -> Result<Ids, Problem> {
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) => Ok(Ids { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        Ok(None) => Err(Problem::text(format!(
            "the system user `{name}` does not exist\nhint: useradd --system --no-create-home {name}"
        ))),
        Err(error) => Err(Problem::failed(error)),
    }
}

/// Idempotent: what is there keeps its content and gets the right owner and mode.
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

fn make(path: &Path, owner: Ids, mode: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Without following a link that someone else may have put there.
    if fs::symlink_metadata(path)?.file_type().is_symlink() {
        return Err(io::Error::other("it is a symbolic link"));
    }
    chown(path, Some(owner.uid), Some(owner.gid))?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}
