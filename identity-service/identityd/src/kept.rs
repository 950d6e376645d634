//! Secrets that the keystore seals for us: made at their first use, then the same for the life of the gateway.

use std::sync::PoisonError;

use edgewarden_keystore::KeystoreError;
use edgewarden_names::Refusal;
use zeroize::Zeroizing;

use crate::metrics::Operation;
use crate::requests::keystore_refusal;
use crate::service::{Service, internal, random};

/// The secret of that name, 32 bytes. Blocks on the keystore.
///
/// Made only when the keystore says that there is none: a store that does not answer, or not rightly, is an error and
/// never a new secret.
pub fn secret(service: &Service, name: &str) -> Result<Zeroizing<[u8; 32]>, Refusal> {
    // Two first askers must not each make one.
    let _one_at_a_time = service.storage_key.lock().unwrap_or_else(PoisonError::into_inner);
    let unseal = || service.metrics.keystore(Operation::Seal, || service.keystore.unseal(name));
    let unsealed = match unseal() {
        Err(KeystoreError::NotSealed(_)) => {
            let fresh = Zeroizing::new(random()?);
            let seal = || service.keystore.seal(name, fresh.as_slice());
            let sealed = service.metrics.keystore(Operation::Seal, seal);
            sealed.and_then(|()| unseal())
        }
        unsealed => unsealed,
    };
    let bytes = unsealed.map_err(|error| keystore_refusal(name, &error))?;
    let secret: &[u8; 32] = bytes.as_slice().try_into().map_err(|error| internal(name, &error))?;
    Ok(Zeroizing::new(*secret))
}
