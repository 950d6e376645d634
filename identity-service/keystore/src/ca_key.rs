//! The gateway CA's key of any store, as a signer of certificates.

use edgewarden_ca::{CaSigner, SignError};

use crate::contract::Keystore;

/// The gateway CA's key of a store, as `edgewarden_ca` wants it: `IssuingCa::create(&CaKey(&*keystore), …)`.
#[derive(Clone, Copy)]
pub struct CaKey<'a>(pub &'a dyn Keystore);

impl std::fmt::Debug for CaKey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CaKey(..)")
    }
}

impl CaSigner for CaKey<'_> {
    fn public_point(&self) -> Result<Vec<u8>, SignError> {
        self.0.ca_public().map_err(SignError::new)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.0.ca_sign(message).map_err(SignError::new)
    }
}
