//! The PIN. Tokens lock after a few wrong ones, often for good, so a PIN that was refused once is not tried again
//! until its file changes, not after a restart either. What is remembered is which file it was, nothing of the PIN.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki::slot::TokenInfo;
use cryptoki::types::RawAuthPin;
use edgewarden_platform::durable;

use super::fault::{Fault, fault};
use crate::error::KeystoreError;
use crate::secret_file::{self, SecretFile};

/// More than [`version`] makes.
const VERSION_BYTES_MAX: usize = 256;

pub(super) struct Pin {
    path: PathBuf,
    /// File that keeps the refusal of a PIN.
    refusal: PathBuf,
    /// The same, should the disk be full.
    refused: Option<String>,
}

/// Device, inode and times of a file: which one it is, and when it was last changed or touched.
fn version(metadata: &Metadata) -> String {
    format!(
        "{} {} {} {}.{:09} {}.{:09}",
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

impl Pin {
    pub(super) fn new(path: &Path, state: &Path) -> Self {
        Self { path: path.to_owned(), refusal: state.join("pkcs11-pin-refused"), refused: None }
    }

    /// Logs in, if that cannot cost the token's last try.
    pub(super) fn log_in(&mut self, session: &Session, token: &str, info: &TokenInfo) -> Result<(), Fault> {
        let file = SecretFile::open(&self.path, secret_file::PIN)?;
        let version = version(&file.metadata);
        if self.was_refused(&version)? {
            return Err(self.refused().into());
        }
        let state = PinState {
            set: info.user_pin_initialized(),
            locked: info.user_pin_locked(),
            final_try: info.user_pin_final_try(),
        };
        if let Some(problem) = state.problem() {
            return Err(KeystoreError::PinState { token: token.to_owned(), problem }.into());
        }
        let pin = file.read()?;
        let longest = if info.max_pin_length() == 0 { usize::MAX } else { info.max_pin_length() };
        if !(info.min_pin_length()..=longest).contains(&pin.len()) {
            let problem = "has a PIN that is too short or too long for the token";
            return Err(KeystoreError::SecretFile { kind: "PIN", path: self.path.clone(), problem }.into());
        }
        // Wiped when it is dropped, as `pin` is.
        let secret = RawAuthPin::new(Box::new(pin.to_vec()));
        drop(pin);
        match session.login_with_raw(cryptoki::session::UserType::User, &secret) {
            Ok(()) => self.forget(),
            // By another session of this process: a token knows applications only.
            Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                self.remember(version);
                Err(self.refused().into())
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => {
                Err(KeystoreError::PinState { token: token.to_owned(), problem: LOCKED }.into())
            }
            Err(error) => Err(fault(error)),
        }
    }

    fn refused(&self) -> KeystoreError {
        KeystoreError::PinRefused { path: self.path.clone() }
    }

    fn was_refused(&self, version: &str) -> Result<bool, KeystoreError> {
        let failed = |source| KeystoreError::File { path: self.refusal.clone(), source };
        let kept = durable::read(&self.refusal, VERSION_BYTES_MAX).map_err(failed)?;
        Ok(self.refused.as_deref() == Some(version) || kept.as_deref() == Some(version.as_bytes()))
    }

    fn remember(&mut self, version: String) {
        if let Err(error) = durable::write(&self.refusal, version.as_bytes(), 0o600) {
            tracing::error!(%error, "that the PIN was refused is kept in memory only; a restart tries it once more");
        }
        self.refused = Some(version);
    }

    fn forget(&mut self) -> Result<(), Fault> {
        self.refused = None;
        durable::remove(&self.refusal)
            .map_err(|source| KeystoreError::File { path: self.refusal.clone(), source }.into())
    }
}

const LOCKED: &str = "has locked its user PIN; its security officer has to unlock it";

/// A token's flags about its user PIN before a login.
struct PinState {
    set: bool,
    locked: bool,
    final_try: bool,
}

impl PinState {
    fn problem(&self) -> Option<&'static str> {
        if self.locked {
            Some(LOCKED)
        } else if !self.set {
            Some("has no user PIN; set one, and put it in the PIN file")
        } else if self.final_try {
            Some(
                "has one try of its PIN left, which is not risked here; log in with the right PIN by hand once",
            )
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_try_is_not_risked() {
        let good = || PinState { set: true, locked: false, final_try: false };
        assert_eq!(good().problem(), None);
        for bad in [
            PinState { set: false, ..good() },
            PinState { locked: true, ..good() },
            PinState { final_try: true, ..good() },
        ] {
            assert!(bad.problem().is_some());
        }
    }
}
