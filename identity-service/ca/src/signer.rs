use std::cell::RefCell;

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};

use crate::{CaError, SignError, spki};

/// A P-256 key that signs but is not in this process, such as a gateway CA's in a TPM.
pub trait CaSigner {
    /// The uncompressed point, 65 bytes.
    fn public_point(&self) -> Result<Vec<u8>, SignError>;

    /// ECDSA P-256 with SHA-256, DER.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// Lets `rcgen` build with a [`CaSigner`], and keeps the reason when the key does not sign: `rcgen` drops it.
pub(crate) struct RemoteKey<'a> {
    signer: &'a dyn CaSigner,
    point: Vec<u8>,
    failure: RefCell<Option<SignError>>,
}

impl<'a> RemoteKey<'a> {
    pub(crate) fn new(signer: &'a dyn CaSigner) -> Result<Self, CaError> {
        let point = signer.public_point().map_err(CaError::Signer)?;
        spki::check_point(&point)?;
        Ok(Self { signer, point, failure: RefCell::new(None) })
    }

    pub(crate) fn point(&self) -> &[u8] {
        &self.point
    }

    /// The error to report when building with this key failed.
    pub(crate) fn explain(&self, error: rcgen::Error) -> CaError {
        self.failure.take().map_or(CaError::Build(error), CaError::Signer)
    }
}

impl PublicKeyData for RemoteKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for RemoteKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer.sign(message).map_err(|error| {
            self.failure.replace(Some(error));
            rcgen::Error::RemoteKeyError
        })
    }
}
