//! Secrets that the keystore seals for us: made at their first use, then the same for the life of the gateway.

use std::sync::{Arc, Mutex, PoisonError};

use edgewarden_keystore::{Keystore, KeystoreError};
use edgewarden_names::Refusal;
use zeroize::Zeroizing;

use crate::metrics::{Metrics, Operation};
use crate::refuse::{internal, keystore_refusal, random};

/// Secrets of the gateway's own that the keystore seals, each made at its first use.
pub struct KeptSecrets {
    keystore: Arc<dyn Keystore>,
    metrics: Arc<Metrics>,
    /// Held while a secret is made or released.
    one_at_a_time: Mutex<()>,
}

impl std::fmt::Debug for KeptSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeptSecrets(..)")
    }
}

impl KeptSecrets {
    /// Over a keystore; makes nothing yet.
    pub fn new(keystore: Arc<dyn Keystore>, metrics: Arc<Metrics>) -> Self {
        Self { keystore, metrics, one_at_a_time: Mutex::new(()) }
    }

    /// The secret of that name, 32 bytes. Blocks on the keystore.
    ///
    /// Made only when the keystore says that there is none: a store that does not answer, or not rightly, is an error and
    /// never a new secret.
    pub fn secret(&self, name: &str) -> Result<Zeroizing<[u8; 32]>, Refusal> {
        // Two first askers must not each make one.
        let _one_at_a_time = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let unseal = || self.metrics.keystore(Operation::Seal, || self.keystore.unseal(name));
        let unsealed = match unseal() {
            Err(KeystoreError::NotSealed(_)) => {
                let fresh = Zeroizing::new(random()?);
                let seal = || self.keystore.seal(name, fresh.as_slice());
                let sealed = self.metrics.keystore(Operation::Seal, seal);
                sealed.and_then(|()| unseal())
            }
            unsealed => unsealed,
        };
        let bytes = unsealed.map_err(|error| keystore_refusal(name, &error))?;
        let secret: &[u8; 32] = bytes.as_slice().try_into().map_err(|error| internal(name, &error))?;
        Ok(Zeroizing::new(*secret))
    }
}
