//! Keys in a TPM 2.0. Nothing about the gateway's own is on disk: attestation, gateway CA and agreement key are
//! primaries, derived by the TPM from its seeds and the fixed templates in `templates`, so they survive restarts and
//! power cuts. Resident keys are files that only this TPM can load.
//!
//! * `link`: the connection, which `crate::owner` owns and takes requests for
//! * `templates`, `objects`: which keys, and how they are loaded and flushed
//! * `endorsement`: EK and its certificate; `attest`: quote and proof; `pcr`: extending
//! * `sealed`: secrets; `resident`: keys for modules; `agreement`: secrets that others encrypt for this gateway
//!
//! All keys have `noDA`: a TPM that lost power without TPM2_Shutdown counts a failed try, and a few of those would
//! lock keys that are under dictionary-attack protection. Secrets cross the bus only in a salted, encrypted
//! session whose salt key is pinned at first use, so that an interposer on the bus cannot put in its own.
//!
//! Trusts the TPM. Distrusts the bus for secrets, and the state folder for integrity.

mod agreement;
mod attest;
mod blob;
mod convert;
mod endorsement;
mod link;
mod objects;
mod pcr;
mod resident;
mod sealed;
mod session;
mod templates;

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, Proof};
use tss_esapi::Context;
use zeroize::Zeroizing;

pub(crate) use self::link::Transport;
use self::resident::KeyFile;
use self::session::SaltPin;
use crate::contract::{Description, Health, KeyAttestation, Keystore, Quote};
use crate::error::KeystoreError;
use crate::gate::Gate;
use crate::key_folder::KeyFolder;
use crate::owner::{Owner, Priority};
use crate::sealed_folder::SealedFolder;

/// The TSS prints to standard error on its own unless this variable is set before the process starts, so whoever
/// starts `identityd` sets it. (A process cannot safely set its own variables once it has threads.)
pub const TSS_LOG_ENVIRONMENT: (&str, &str) = ("TSS2_LOG", "all+none");

pub(crate) struct Tpm {
    owner: Owner<Transport>,
    description: Description,
    sealed: SealedFolder,
    keys: KeyFolder,
    gate: Gate,
    pin: Arc<SaltPin>,
}

impl Tpm {
    /// Connects, clears away what a process that died left in the TPM, and checks that it is the TPM of this state
    /// folder.
    pub(crate) fn open(transport: Transport, state: &Path) -> Result<Self, KeystoreError> {
        let simulated = matches!(transport, Transport::Simulated(_));
        let pin = Arc::new(SaltPin::new(state));
        let sealed = SealedFolder::open(state, "tpm")?;
        let keys = KeyFolder::open(state, "tpm")?;
        let owner = Owner::start(transport)?;
        let found = owner.request(Priority::Other, {
            let pin = Arc::clone(&pin);
            move |context| {
                pin.establish(context)?;
                Ok(link::maker(context))
            }
        })?;
        let description = if simulated {
            Description { text: "simulated tpm (dangerous)".into(), hardware: false, dangerous: true }
        } else {
            Description { text: format!("tpm ({found})"), hardware: true, dangerous: false }
        };
        Ok(Self { owner, description, sealed, keys, gate: Gate::default(), pin })
    }

    /// Has the owner do something with a resident key.
    fn with_key<T: Send + 'static>(
        &self,
        name: &str,
        mut work: impl FnMut(&mut Context, &KeyFile) -> Result<T, link::Fault> + Send + 'static,
    ) -> Result<T, KeystoreError> {
        let _place = self.gate.enter()?;
        let (blob, path) = (self.keys.read(name)?, self.keys.path(name));
        let file = KeyFile { name: name.to_owned(), blob, path, pin: Arc::clone(&self.pin) };
        self.owner.request(Priority::Other, move |context| work(context, &file))
    }
}

impl Keystore for Tpm {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    fn health(&self) -> Result<Health, KeystoreError> {
        let lockout = self.owner.request(Priority::Other, link::lockout)?;
        Ok(Health { description: self.describe(), lockout: Some(lockout) })
    }

    fn device_keys(&self) -> Result<DeviceKeys, KeystoreError> {
        self.owner.request(Priority::Attest, attest::device_keys)
    }

    fn prove(
        &self,
        challenge: &Challenge,
        gateway: &GatewayName,
        domain: &TrustDomain,
        event_log: Vec<u8>,
    ) -> Result<Proof, KeystoreError> {
        let request = attest::Request {
            challenge: challenge.clone(),
            gateway: gateway.clone(),
            domain: domain.clone(),
            pin: Arc::clone(&self.pin),
        };
        let mut proof =
            self.owner.request(Priority::Attest, move |context| attest::prove(context, &request))?;
        proof.event_log = event_log.into();
        Ok(Proof::Tpm(Box::new(proof)))
    }

    fn ca_public(&self) -> Result<Vec<u8>, KeystoreError> {
        self.owner.request(Priority::Certificate, |context| {
            let public = templates::gateway_ca()?;
            objects::with_primary(context, templates::OWNER, public, |_, key| convert::point(&key.public))
        })
    }

    fn ca_sign(&self, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        let hash = digest(&SHA256, message);
        self.owner.request(Priority::Certificate, move |context| {
            let public = templates::gateway_ca()?;
            objects::with_primary(context, templates::OWNER, public, |context, key| {
                objects::sign(context, key.handle, hash.as_ref())
            })
        })
    }

    fn quote(&self, nonce: &[u8], pcrs: &[u8]) -> Result<Quote, KeystoreError> {
        let (nonce, pcrs) = (nonce.to_vec(), pcrs.to_vec());
        self.owner.request(Priority::Attest, move |context| attest::quote(context, &nonce, &pcrs))
    }

    fn device_sign(&self, _: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported(
            "a TPM",
            "sign foreign data with its attestation key, which is restricted",
        ))
    }

    fn seal(&self, name: &str, secret: &[u8]) -> Result<(), KeystoreError> {
        let secret = Zeroizing::new(secret.to_vec());
        let (pin, owned) = (Arc::clone(&self.pin), name.to_owned());
        let blob = self
            .owner
            .request(Priority::Other, move |context| sealed::seal(context, &pin, &owned, &secret))?;
        self.sealed.write(name, &blob)
    }

    fn unseal(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let blob = self.sealed.read(name)?;
        let path = self.sealed.path(name);
        let (pin, owned) = (Arc::clone(&self.pin), name.to_owned());
        self.owner
            .request(Priority::Other, move |context| sealed::unseal(context, &pin, &owned, &blob, &path))
    }

    fn forget(&self, name: &str) -> Result<(), KeystoreError> {
        self.sealed.remove(name)
    }

    fn create_key(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        let _place = self.gate.enter()?;
        self.keys.check_free(name)?;
        let (pin, owned) = (Arc::clone(&self.pin), name.to_owned());
        let (point, file) =
            self.owner.request(Priority::Other, move |context| resident::create(context, &pin, &owned))?;
        self.keys.add(name, &file)?;
        Ok(point)
    }

    fn key_public(&self, name: &str) -> Result<Vec<u8>, KeystoreError> {
        self.with_key(name, |context, file| file.with_key(context, |_, key| convert::point(&key.public)))
    }

    fn key_sign(&self, name: &str, message: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        let hash = digest(&SHA256, message);
        self.with_key(name, move |context, file| {
            file.with_key(context, |context, key| objects::sign(context, key.handle, hash.as_ref()))
        })
    }

    fn key_certify(&self, name: &str, nonce: &[u8]) -> Result<KeyAttestation, KeystoreError> {
        let nonce = nonce.to_vec();
        self.with_key(name, move |context, file| attest::certify_resident(context, file, &nonce))
    }

    fn delete_key(&self, name: &str) -> Result<(), KeystoreError> {
        // The TPM keeps nothing of it.
        self.keys.remove(name)
    }

    fn agreement_public(&self) -> Result<Vec<u8>, KeystoreError> {
        let pin = Arc::clone(&self.pin);
        self.owner.request(Priority::Other, move |context| agreement::public(context, &pin))
    }

    fn agree(&self, peer_point: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let _place = self.gate.enter()?;
        let (pin, peer) = (Arc::clone(&self.pin), peer_point.to_vec());
        self.owner.request(Priority::Other, move |context| agreement::agree(context, &pin, &peer))
    }

    fn pcr_extend(&self, pcr: u8, digest: &[u8; 32]) -> Result<[u8; 32], KeystoreError> {
        let mut extension = pcr::Extension::new(pcr, *digest);
        self.owner.request(Priority::Other, move |context| extension.run(context))
    }
}
