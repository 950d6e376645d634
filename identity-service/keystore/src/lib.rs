//! The home of a gateway's private keys.
//!
//! * [`Keystore`]: what every store does · [`open`]: opens the configured one, and never another
//! * [`Description`], [`Health`]: what people are shown · [`KeystoreError`]: what went wrong and what to do next
//! * [`CaKey`]: a store's gateway CA key, for `edgewarden_ca`
//!
//! Implementations, one folder each: `tpm` (a TPM 2.0, or a simulated one), `pkcs11` (a token) and `software` (an
//! encrypted file). A store that is a device has one thread that talks to it, `owner`.
//! Every store is opened behind one checking facade, which distrusts what goes in and what comes out.

mod ca_key;
mod certified;
mod checked;
mod contract;
mod ecdsa;
mod error;
mod gate;
mod key_folder;
mod name;
mod owner;
mod pkcs11;
mod sealed_folder;
mod secret_file;
mod software;
mod tpm;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use edgewarden_protocol::config;

pub use ca_key::CaKey;
pub use contract::{
    Description, Health, KeyAttestation, Keystore, Lockout, NONCE_BYTES_MAX, Quote, RESIDENT_KEYS_MAX,
    SECRET_BYTES_MAX,
};
pub use error::KeystoreError;
pub use software::change_passphrase;
pub use tpm::TSS_LOG_ENVIRONMENT;

/// Opens the configured store. The configured store is the store: when it does not open, nothing else is tried.
/// `state` is the folder for what must outlive a restart, made if it is not there.
pub fn open(config: &config::Keystore, state: &Path) -> Result<Arc<dyn Keystore>, KeystoreError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(|source| KeystoreError::File { path: state.to_owned(), source })?;
    match config {
        config::Keystore::Tpm { device } => Ok(Arc::new(checked::Checked::new(tpm::Tpm::open(
            tpm::Transport::Device(device.clone()),
            state,
        )?))),
        config::Keystore::DangerousSimulatedTpm { address } => {
            Ok(Arc::new(checked::Checked::new(tpm::Tpm::open(tpm::Transport::Simulated(*address), state)?)))
        }
        config::Keystore::Pkcs11 { module, token, pin_file, .. } => {
            Ok(Arc::new(checked::Checked::new(pkcs11::Pkcs11::open(module, token, pin_file, state)?)))
        }
        config::Keystore::Software { passphrase_file } => {
            Ok(Arc::new(checked::Checked::new(software::Software::open(passphrase_file, state)?)))
        }
    }
}
