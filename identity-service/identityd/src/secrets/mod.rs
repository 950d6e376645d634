//! The deployment secrets that a module may have: kept sealed, opened for live instances only.
//!
//! The version of each that counts is decided in [`edgewarden_decisions::secrets`].
//!
//! * `vault`: the envelopes on disk · `release`: opening and handing on · `source`: the same for the Workload API socket

mod release;
mod source;
mod vault;

use std::sync::Arc;

use edgewarden_keystore::Keystore;

use crate::keys::Keys;
use crate::ledger::Ledger;

pub use release::{accept, agreement_key, list, release_files};
pub use source::of_instance;
pub use vault::Vault;

/// The parts of the service that secrets are taken in and handed out with.
pub struct Desk {
    pub ledger: Arc<Ledger>,
    pub keystore: Arc<dyn Keystore>,
    pub keys: Arc<Keys>,
    pub vault: Vault,
}
