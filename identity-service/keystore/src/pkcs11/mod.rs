//! Keys in a PKCS#11 token (OASIS PKCS #11 version 2.40 and later): a hardware security module, a smart card, or
//! SoftHSM2, which is software and is shown as such.
//!
//! * `module`: the loaded library · `token`: finding a token and logging in, which `crate::owner` does and repeats
//! * `pin`: the PIN, tried once and not again until its file changes, so that we never lock a token
//! * `keys`: which keys, and what they must be like · `record`: which keys they were at the first open
//! * `sealed`: secrets, under a key of the token
//!
//! A token is found by its label, never by a slot number, for those change. Nothing of it is attested: that a key
//! cannot leave is what the token says of it. Trusts the token and its library, which runs in this process.

mod fault;
mod keys;
mod module;
mod pin;
mod record;
mod sealed;
mod token;

use std::path::Path;

use edgewarden_ca::certificate_request;
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, Proof, binding};
use zeroize::Zeroizing;

use self::token::Token;
use crate::owner::{Owner, Priority};
use crate::sealed_folder::SealedFolder;
use crate::{CaKey, Description, Health, KeyAttestation, Keystore, KeystoreError, Quote};

pub(crate) struct Pkcs11 {
    owner: Owner<Token>,
    description: Description,
    sealed: SealedFolder,
    device_public: Vec<u8>,
}

impl Pkcs11 {
    /// Loads the library, finds the token, checks that it can do all that is needed, logs in, and finds the keys or,
    /// when `state` says that there never were any, makes them.
    pub(crate) fn open(
        module: &Path,
        token: &str,
        pin_file: &Path,
        state: &Path,
    ) -> Result<Self, KeystoreError> {
        let sealed = SealedFolder::open(state, "pkcs11")?;
        let owner = Owner::start(Token::new(module, token, pin_file, state))?;
        let (text, device_public) = owner.request(Priority::Other, |connection| {
            Ok((connection.description.clone(), connection.keys.device.point.clone()))
        })?;
        // No chip proves itself here, so none is claimed.
        let description = Description { text, hardware: false, dangerous: false };
        Ok(Self { owner, description, sealed, device_public })
    }
}

impl Keystore for Pkcs11 {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn health(&self) -> Result<Health, KeystoreError> {
        self.owner.request(Priority::Other, |connection| connection.check())?;
        Ok(Health { description: self.describe(), lockout: None })
    }

    fn device_keys(&self) -> Result<DeviceKeys, KeystoreError> {
        Ok(DeviceKeys::None { device_public: self.device_public.clone().into() })
    }

    fn prove(
        &self,
        challenge: &Challenge,
        gateway: &GatewayName,
        domain: &TrustDomain,
        _: Vec<u8>,
    ) -> Result<Proof, KeystoreError> {
        if challenge.credential.is_some() {
            return Err(KeystoreError::Request(
                "the challenge is for a TPM, and this store is a PKCS#11 token",
            ));
        }
        let csr = certificate_request(&CaKey(self), gateway, domain)
            .map_err(|error| KeystoreError::Csr(Box::new(error)))?;
        let signature = self.device_sign(&binding(challenge.nonce.as_slice(), &csr))?;
        Ok(Proof::None { csr: csr.into(), signature: signature.into() })
    }

    fn ca_public(&self) -> Result<Vec<u8>, KeystoreError> {
        self.owner.request(Priority::Certificate, |connection| Ok(connection.keys.gateway_ca.point.clone()))
    }

    fn ca_sign(&self, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        let hash = keys::hash(message);
        self.owner.request(Priority::Certificate, move |connection| {
            connection.keys.gateway_ca.sign(&connection.session, &hash)
        })
    }

    fn quote(&self, _: &[u8], _: &[u8]) -> Result<Quote, KeystoreError> {
        Err(KeystoreError::Unsupported("a PKCS#11", "quote PCRs, for it has none"))
    }

    fn device_sign(&self, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        let hash = keys::hash(message);
        self.owner.request(Priority::Attest, move |connection| {
            connection.keys.device.sign(&connection.session, &hash)
        })
    }

    fn seal(&self, name: &str, secret: &[u8]) -> Result<(), KeystoreError> {
        let secret = Zeroizing::new(secret.to_vec());
        let owned = name.to_owned();
        let blob = self.owner.request(Priority::Other, move |connection| {
            sealed::seal(&connection.session, connection.keys.sealing, &owned, &secret)
        })?;
        self.sealed.write(name, &blob)
    }

    fn unseal(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let blob = self.sealed.read(name)?;
        let (path, owned) = (self.sealed.path(name), name.to_owned());
        self.owner.request(Priority::Other, move |connection| {
            sealed::unseal(&connection.session, connection.keys.sealing, &owned, &blob, &path)
        })
    }

    fn create_key(&self, _: &str) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a PKCS#11", "make resident keys"))
    }

    fn key_public(&self, _: &str) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a PKCS#11", "make resident keys"))
    }

    fn key_sign(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a PKCS#11", "make resident keys"))
    }

    fn key_certify(&self, _: &str, _: &[u8]) -> Result<KeyAttestation, KeystoreError> {
        Err(KeystoreError::Unsupported("a PKCS#11", "make resident keys"))
    }

    fn delete_key(&self, _: &str) -> Result<(), KeystoreError> {
        Err(KeystoreError::Unsupported("a PKCS#11", "make resident keys"))
    }

    fn agreement_public(&self) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a PKCS#11", "agree on a key"))
    }

    fn agree(&self, _: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        Err(KeystoreError::Unsupported("a PKCS#11", "agree on a key"))
    }

    fn pcr_extend(&self, _: u8, _: &[u8; 32]) -> Result<[u8; 32], KeystoreError> {
        Err(KeystoreError::Unsupported("a PKCS#11", "extend PCRs"))
    }
}
