//! Keys in a TPM 2.0. Nothing about them is on disk: attestation key and gateway CA key are primaries, derived
//! by the TPM from its seeds and the fixed templates in `templates`, so they survive restarts and power cuts.
//!
//! * `link`: the connection, which `crate::owner` owns and takes requests for
//! * `templates`, `objects`: which keys, and how they are loaded and flushed
//! * `endorsement`: EK and its certificate; `attest`: quote and proof; `sealed`: secrets
//!
//! All keys have `noDA`: a TPM that lost power without TPM2_Shutdown counts a failed try, and a few of those would
//! lock keys that are under dictionary-attack protection. Secrets cross the bus only in a salted, encrypted
//! session whose salt key is pinned at first use, so that an interposer on the bus cannot put in its own.
//!
//! Trusts the TPM. Distrusts the bus for secrets, and the state folder for integrity.

mod attest;
mod convert;
mod endorsement;
mod link;
mod objects;
mod sealed;
mod session;
mod templates;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::enrol::{Challenge, DeviceKeys, Proof};
use zeroize::Zeroizing;

use self::session::SaltPin;
use crate::owner::{Owner, Priority};
use crate::sealed_folder::SealedFolder;
use crate::{Description, Health, KeyAttestation, Keystore, KeystoreError, Quote};

/// The TSS prints to standard error on its own unless this variable is set before the process starts, so whoever
/// starts `identityd` sets it. (A process cannot safely set its own variables once it has threads.)
pub const TSS_LOG_ENVIRONMENT: (&str, &str) = ("TSS2_LOG", "all+none");

/// How a TPM is reached.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    /// A character device such as `/dev/tpmrm0`.
    Device(PathBuf),
    /// swtpm's TCP transport: commands at this port, control at the next.
    Simulated(SocketAddr),
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => path.display().fmt(f),
            Self::Simulated(address) => address.fmt(f),
        }
    }
}

pub(crate) struct Tpm {
    owner: Owner<Transport>,
    description: Description,
    sealed: SealedFolder,
    pin: Arc<SaltPin>,
}

impl Tpm {
    /// Connects, clears away what a process that died left in the TPM, and checks that it is the TPM of this state
    /// folder.
    pub(crate) fn open(transport: Transport, state: &Path) -> Result<Self, KeystoreError> {
        let simulated = matches!(transport, Transport::Simulated(_));
        let pin = Arc::new(SaltPin::new(state));
        let sealed = SealedFolder::open(state, "tpm")?;
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
        Ok(Self { owner, description, sealed, pin })
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

    fn create_key(&self, _: &str) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a TPM", "make resident keys"))
    }

    fn key_public(&self, _: &str) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a TPM", "make resident keys"))
    }

    fn key_sign(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a TPM", "make resident keys"))
    }

    fn key_certify(&self, _: &str, _: &[u8]) -> Result<KeyAttestation, KeystoreError> {
        Err(KeystoreError::Unsupported("a TPM", "make resident keys"))
    }

    fn delete_key(&self, _: &str) -> Result<(), KeystoreError> {
        Err(KeystoreError::Unsupported("a TPM", "make resident keys"))
    }

    fn agreement_public(&self) -> Result<Vec<u8>, KeystoreError> {
        Err(KeystoreError::Unsupported("a TPM", "agree on a key"))
    }

    fn agree(&self, _: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        Err(KeystoreError::Unsupported("a TPM", "agree on a key"))
    }

    fn pcr_extend(&self, _: u8, _: &[u8; 32]) -> Result<[u8; 32], KeystoreError> {
        Err(KeystoreError::Unsupported("a TPM", "extend PCRs"))
    }
}
