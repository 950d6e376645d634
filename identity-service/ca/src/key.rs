use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};
use zeroize::Zeroizing;

use crate::CaError;

/// A P-256 key in this process. `rcgen` has such a type too, but keeps an unwiped copy of the private key.
pub(crate) struct LocalKey(EcdsaKeyPair);

impl LocalKey {
    pub(crate) fn generate() -> Result<Self, CaError> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Self).map_err(|_| CaError::Random)
    }

    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, CaError> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
            .map(Self)
            .map_err(|_| CaError::Key("not a P-256 private key in PKCS#8"))
    }

    pub(crate) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, CaError> {
        let document = self.0.to_pkcs8v1().map_err(|_| CaError::Key("cannot be written as PKCS#8"))?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    pub(crate) fn point(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }
}

impl PublicKeyData for LocalKey {
    fn der_bytes(&self) -> &[u8] {
        self.point()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for LocalKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature =
            self.0.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_ref().to_vec())
    }
}
