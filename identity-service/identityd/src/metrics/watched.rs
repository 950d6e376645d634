//! The subject of metrics and health.

use std::sync::Arc;

use edgewarden_keystore::Keystore;

use crate::issuance::Issuance;
use crate::keys::Keys;
use crate::ledger::Ledger;

/// The parts of the service that are looked at.
pub(crate) struct Watched {
    pub ledger: Arc<Ledger>,
    pub issuance: Arc<Issuance>,
    pub keys: Arc<Keys>,
    pub keystore: Arc<dyn Keystore>,
}
