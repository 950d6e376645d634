//! `edgewarden keystore`: what is done to the keys' store while `identityd` does not run.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use edgewarden_protocol::config;
use edgewarden_protocol::layout::Layout;

use crate::exit::Problem;

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
    pub fn run(self, layout: &Layout) -> Result<(), Problem> {
        let Self::Passphrase { new } = self;
        let config = super::load(layout)?;
        let config::Keystore::Software { passphrase_file } = &config.keystore else {
            return Err(Problem::text(
                "only a software keystore has a passphrase; change a token's PIN with its own tool",
            ));
        };
        if std::os::unix::net::UnixStream::connect(layout.control_socket()).is_ok() {
            return Err(Problem::text("`identityd` runs\nhint: stop it first; modules go on without it"));
        }
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| Problem::text(format!("cannot use `{path}`: {error}"))
        };
        // Before anything changes: what identityd cannot read would lock it out.
        let old = fs::metadata(passphrase_file).map_err(failed(passphrase_file))?;
        std::os::unix::fs::lchown(&new, Some(old.uid()), Some(old.gid())).map_err(failed(&new))?;
        fs::set_permissions(&new, Permissions::from_mode(old.mode() & 0o7777)).map_err(failed(&new))?;
        edgewarden_keystore::change_passphrase(&layout.identity_state(), passphrase_file, &new)
            .map_err(Problem::failed)?;
        // The last step. When it was cut off before, the same command does the rest.
        fs::rename(&new, passphrase_file).map_err(failed(passphrase_file))?;
        let folder = passphrase_file.parent().unwrap_or(Path::new("/"));
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
    }
}
