//! The token's library. PKCS#11 knows applications, not users within one: a library is initialized once in a process
//! and finalized when nobody uses it any more, so that a new start sees tokens that came or went.
//!
//! Its code runs in this process, beside the keys' PIN: a file that others than root or we may change is not loaded.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};

use super::fault::{Fault, fault};
use crate::error::KeystoreError;

/// Write by the group or by others.
const OTHERS_WRITE: u32 = 0o022;

/// Libraries by their real path, and how many [`Module`]s there are of each. A library stays loaded: unloading is
/// what libraries do worst.
static LOADED: Mutex<BTreeMap<PathBuf, (Pkcs11, usize)>> = Mutex::new(BTreeMap::new());

/// Entries are whole at any point, so they are after a panic too.
fn loaded() -> MutexGuard<'static, BTreeMap<PathBuf, (Pkcs11, usize)>> {
    LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An initialized library, until the last of them is dropped.
pub(super) struct Module {
    path: PathBuf,
    pub(super) library: Pkcs11,
}

impl Module {
    pub(super) fn acquire(path: &Path) -> Result<Self, Fault> {
        let failed = |detail: String| Fault::Final(KeystoreError::Module { path: path.to_owned(), detail });
        if !path.is_absolute() {
            return Err(failed("it is not an absolute path".into()));
        }
        let real = path.canonicalize().map_err(|error| failed(error.to_string()))?;
        let metadata = real.metadata().map_err(|error| failed(error.to_string()))?;
        let owned = metadata.uid() == 0 || metadata.uid() == nix::unistd::Uid::effective().as_raw();
        if !metadata.is_file() || !owned || metadata.mode() & OTHERS_WRITE != 0 {
            return Err(failed("it is not a regular file that only root may change".into()));
        }
        let mut all = loaded();
        let library = match all.get(&real) {
            Some((library, _)) => library.clone(),
            None => Pkcs11::new(&real).map_err(|error| failed(error.to_string()))?,
        };
        let (library, users) = all.entry(real.clone()).or_insert((library, 0));
        if *users == 0 {
            library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(|error| {
                match fault(error) {
                    // What libraries say when they may not read their own configuration, and about much else.
                    Fault::Final(error) | Fault::Garbled(error) => failed(format!(
                        "{error}; files that it needs outside /etc and /usr are named in `library_files`"
                    )),
                    lost @ Fault::Lost(_) => lost,
                }
            })?;
        }
        *users += 1;
        Ok(Self { path: real, library: library.clone() })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Some((library, users)) = loaded().get_mut(&self.path) {
            *users = users.saturating_sub(1);
            if *users == 0
                && let Err(error) = library.clone().finalize()
            {
                tracing::debug!(%error, "the PKCS#11 library was not finalized");
            }
        }
    }
}
