//! `edgewarden keystore`: what is done to the keys' store while `identityd` does not run.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use edgewarden_protocol::config;
use edgewarden_protocol::layout::Layout;
use nix::fcntl::OFlag;

use crate::exit::Problem;

/// Subcommands of `keystore`.
#[derive(Debug, Subcommand)]
pub enum Keystore {
    /// Encrypt a software keystore under another passphrase. `identityd` must not run.
    Passphrase {
        /// File with the new passphrase. It takes the place of the configured one.
        #[arg(value_name = "FILE")]
        new: PathBuf,
    },
}

impl Keystore {
    /// Encrypts the software keystore anew. Fails while `identityd` runs.
    pub fn run(self, layout: &Layout) -> Result<(), Problem> {
        let Self::Passphrase { new } = self;
        let config = super::load(layout)?;
        let config::Keystore::Software { passphrase_file } = &config.keystore else {
            return Err(Problem::text(
                "only a software keystore has a passphrase; change a token's PIN with its own tool",
            ));
        };
        // Held to the end: an identityd that starts meanwhile would write the keys under the old passphrase again.
        let _lock = lock(layout)?;
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| Problem::text(format!("cannot use `{path}`: {error}"))
        };
        // Before anything changes: what cannot be moved into place, or identityd cannot read, would lock it out.
        let folder = passphrase_file.parent().unwrap_or(Path::new("/"));
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).map_err(failed(path));
        if device(&new)? != device(folder)? {
            let hint = format!("write it beside `{}`, from where it can be moved", passphrase_file.display());
            return Err(Problem::text(format!(
                "`{}` is on another file system\nhint: {hint}",
                new.display()
            )));
        }
        let old = fs::metadata(passphrase_file).map_err(failed(passphrase_file))?;
        std::os::unix::fs::lchown(&new, Some(old.uid()), Some(old.gid())).map_err(failed(&new))?;
        fs::set_permissions(&new, Permissions::from_mode(old.mode() & 0o7777)).map_err(failed(&new))?;
        edgewarden_keystore::change_passphrase(&layout.identity_state(), passphrase_file, &new)
            .map_err(Problem::failed)?;
        // The last step. When it was cut off before, the same command does the rest.
        fs::rename(&new, passphrase_file).map_err(failed(passphrase_file))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
    }
}

/// Keeps `identityd` from the state for as long as it is held. The folder is another user's: no link is followed.
fn lock(layout: &Layout) -> Result<Option<File>, Problem> {
    let path = layout.identity_lock();
    let failed = |error: std::io::Error| Problem::text(format!("cannot use `{}`: {error}", path.display()));
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = match File::options().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        // No identityd has run here, so there are no keys: that is what the change will say.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            Err(Problem::text("`identityd` runs\nhint: stop it first; modules go on without it"))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}
