//! Keys in a PKCS#11 token (OASIS PKCS #11 version 2.40 and later): a hardware security module, a smart card, or
//! SoftHSM2, which is software and is shown as such.
//!
//! * `module`: the loaded library · `token`: finding a token and logging in, which `crate::owner` does and repeats
//! * `pin`: the PIN, tried once and not again until its file changes, so that we never lock a token
//! * `keys`: which keys, and what they must be like · `record`: which keys they were at the first open
//! * `sealed`: secrets, under a key of the token · `resident`: keys for modules · `agreement`: secrets from others
//!
//! A token is found by its label, never by a slot number, for those change. Nothing of it is attested: that a key
//! cannot leave is what the token says of it. Trusts the token and its library, which runs in this process.

mod agreement;
mod fault;
mod keys;
mod module;
mod pin;
mod record;
mod resident;
mod sealed;
mod token;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use edgewarden_ca::certificate_request;
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, Proof, binding};
use zeroize::Zeroizing;

use self::resident::KeyFile;
use self::token::{Connection, Token};
use crate::ca_key::CaKey;
use crate::contract::{Description, Health, KeyAttestation, Keystore, Quote};
use crate::error::KeystoreError;
use crate::gate::Gate;
use crate::key_folder::KeyFolder;
use crate::owner::{Owner, Priority};
use crate::sealed_folder::SealedFolder;

pub(crate) struct Pkcs11 {
    owner: Owner<Token>,
    description: Description,
    sealed: SealedFolder,
    device_public: Vec<u8>,
    folder: KeyFolder,
    gate: Gate,
    /// Held while a resident key is made or destroyed, for the token tells names apart and nothing else does. As many
    /// wait as the gate lets in.
    changing: Mutex<()>,
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
        let folder = KeyFolder::open(state, "pkcs11")?;
        let owner = Owner::start(Token::new(module, token, pin_file, state))?;
        let (text, device_public) = owner.request(Priority::Other, |connection| {
            Ok((connection.description.clone(), connection.keys.device.point.clone()))
        })?;
        // No chip proves itself here, so none is claimed.
        let description = Description { text, hardware: false, dangerous: false };
        let (gate, changing) = (Gate::default(), Mutex::default());
        Ok(Self { owner, description, sealed, device_public, folder, gate, changing })
    }

    /// Token and folder say what is there, so a panic leaves nothing half changed.
    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the owner do something with a resident key.
    fn with_key<T: Send + 'static>(
        &self,
        name: &str,
        mut work: impl FnMut(&mut Connection, &KeyFile) -> Result<T, fault::Fault> + Send + 'static,
    ) -> Result<T, KeystoreError> {
        let _place = self.gate.enter()?;
        let (record, path) = (self.folder.read(name)?, self.folder.path(name));
        let file = KeyFile { name: name.to_owned(), record, path };
        self.owner.request(Priority::Other, move |connection| work(connection, &file))
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

    fn forget(&self, name: &str) -> Result<(), KeystoreError> {
        self.sealed.remove(name)
    }

    fn create_key(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        let _place = self.gate.enter()?;
        let _changing = self.changing();
        self.folder.check_free(name)?;
        let owned = name.to_owned();
        let point = self
            .owner
            .request(Priority::Other, move |connection| resident::create(&connection.shelf(), &owned))?;
        self.folder.add(name, &resident::record(&point))?;
        Ok(point)
    }

    fn key_public(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        self.with_key(name, |connection, file| file.public(&connection.shelf()))
    }

    fn key_sign(&self, name: &str, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        let hash = keys::hash(message);
        self.with_key(name, move |connection, file| file.sign(&connection.shelf(), &hash))
    }

    fn key_certify(&self, _: &str, _: &[u8]) -> Result<KeyAttestation, KeystoreError> {
        Err(KeystoreError::Unsupported("a PKCS#11", "prove where a key is"))
    }

    fn delete_key(&self, name: &str) -> Result<(), KeystoreError> {
        let _place = self.gate.enter()?;
        let _changing = self.changing();
        self.folder.remove(name)?;
        let owned = name.to_owned();
        self.owner.request(Priority::Other, move |connection| resident::destroy(&connection.shelf(), &owned))
    }

    fn agreement_public(&self) -> Result<Vec<u8>, KeystoreError> {
        self.owner.request(Priority::Other, |connection| Ok(connection.keys.agreement.point.clone()))
    }

    fn agree(&self, peer_point: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let _place = self.gate.enter()?;
        let peer = peer_point.to_vec();
        self.owner.request(Priority::Other, move |connection| {
            connection.keys.agreement.agree(&connection.session, &peer)
        })
    }

    fn pcr_extend(&self, _: u8, _: &[u8; 32]) -> Result<[u8; 32], KeystoreError> {
        Err(KeystoreError::Unsupported("a PKCS#11", "extend PCRs, for it has none"))
    }
}
