//! The key that secrets for this gateway are encrypted to: an ECDH key of the token (PKCS #11 version 2.40,
//! CKM_ECDH1_DERIVE with CKD_NULL), which may derive and nothing else.
//!
//! The derived value is a session object that may be read; it is read and destroyed. The library binding makes copies
//! of it while reading that cannot be wiped.

use aws_lc_rs::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use zeroize::Zeroizing;

use super::fault::{Fault, fault};
use crate::ecdsa::NUMBER_BYTES;
use crate::error::KeystoreError;

pub(super) struct AgreementKey {
    pub(super) handle: ObjectHandle,
    /// Uncompressed.
    pub(super) point: Vec<u8>,
}

impl AgreementKey {
    /// `peer` is an uncompressed point of the curve, which the facade has checked.
    pub(super) fn agree(&self, session: &Session, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::ValueLen(32.into()),
        ];
        let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), peer));
        let derived = session.derive_key(&mechanism, self.handle, &template).map_err(fault)?;
        let read = session.get_attributes(derived, &[AttributeType::Value]);
        session.destroy_object(derived).map_err(fault)?;
        let mut found = read.map_err(fault)?;
        match (found.pop(), found.is_empty()) {
            (Some(Attribute::Value(value)), true) if value.len() == NUMBER_BYTES => Ok(Zeroizing::new(value)),
            (Some(Attribute::Value(value)), _) => {
                drop(Zeroizing::new(value));
                Err(KeystoreError::Answer("the shared secret has not 32 bytes").into())
            }
            _ => Err(KeystoreError::Answer("the token does not tell the secret that it derived").into()),
        }
    }

    /// The public and the private object are halves of one key.
    pub(super) fn check(&self, session: &Session) -> Result<(), Fault> {
        let failed = |_| KeystoreError::Answer("the random number generator failed");
        let own = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).map_err(failed)?;
        let peer = own.compute_public_key().map_err(failed)?;
        let by_token = self.agree(session, peer.as_ref())?;
        let other = KeystoreError::Answer("a private key in the token is not its public key's");
        let point = UnparsedPublicKey::new(&ECDH_P256, &self.point);
        agree_ephemeral(own, point, Fault::Final(other), |by_us| {
            if by_us == by_token.as_slice() {
                Ok(())
            } else {
                Err(KeystoreError::Answer("a private key in the token is not its public key's").into())
            }
        })
    }
}
