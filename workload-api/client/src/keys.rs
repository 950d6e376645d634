//! Calls `edgewarden.keys.v1` on a Workload API socket.
//!
//! Trusts whoever serves the socket with what it says, but not with how much, and not with its shape.

use std::path::Path;

use edgewarden_names::{KeyName, SpiffeId, UnixTime};
use edgewarden_svid::der;
use edgewarden_workload_wire::keys::{Attestation, Capability, Certified, Key, Operation, Purpose, Wanted};
use edgewarden_workload_wire::keysapi as api;
use edgewarden_workload_wire::keysapi::keys_client::KeysClient;
use tonic::Status;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use crate::socket::{FetchError, REPLY_BYTES_MAX, connect, secured};

/// Error of a call to the key service.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Try again later.
    #[error(transparent)]
    Connect(FetchError),
    /// `reason: rule`, as in the table of refusals of docs/keys.md.
    #[error("the key service answered: {}", .0.message())]
    Refused(#[source] Box<Status>),
    #[error("the key service's answer has no valid {0}")]
    Answer(&'static str),
}

impl CallError {
    /// The stable reason code of a refusal, such as `key.capability`.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(status) => status.message().split_once(": ").map(|(reason, _)| reason),
            Self::Connect(_) | Self::Answer(_) => None,
        }
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// One connection to the key service. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    calls: KeysClient<Channel>,
}

impl Client {
    /// `socket` is a module's Workload API socket.
    pub async fn connect(socket: &Path) -> Result<Self, CallError> {
        let channel = connect(socket).await.map_err(CallError::Connect)?;
        Ok(Self { calls: KeysClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX) })
    }

    /// Makes a key. A signing key comes with its public half, DER SubjectPublicKeyInfo; others with nothing there.
    pub async fn create_key(
        &self,
        name: &KeyName,
        purpose: Purpose,
        wanted: Wanted,
    ) -> Result<(Key, Capability, Vec<u8>), CallError> {
        let request = api::CreateKeyRequest {
            key: name.to_string(),
            purpose: purpose_number(purpose),
            wanted: Some(wanted_message(wanted)),
        };
        let answer = self.calls.clone().create_key(secured(request)).await?.into_inner();
        Ok((key(answer.key)?, capability(answer.capability)?, answer.public_key.to_vec()))
    }

    /// A new capability for a key that exists.
    pub async fn grant(&self, name: &KeyName, wanted: Wanted) -> Result<(Key, Capability), CallError> {
        let request = api::GrantRequest { key: name.to_string(), wanted: Some(wanted_message(wanted)) };
        let answer = self.calls.clone().grant(secured(request)).await?.into_inner();
        Ok((key(answer.key)?, capability(answer.capability)?))
    }

    /// DER SubjectPublicKeyInfo of a signing key.
    pub async fn public_key(&self, name: &KeyName) -> Result<Vec<u8>, CallError> {
        let request = api::PublicKeyRequest { key: name.to_string() };
        Ok(self.calls.clone().public_key(secured(request)).await?.into_inner().public_key.to_vec())
    }

    /// ECDSA P-256 with SHA-256, DER.
    pub async fn sign(
        &self,
        name: &KeyName,
        right: &Capability,
        message: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        let request = api::SignRequest {
            key: name.to_string(),
            capability: right.token.clone().into(),
            message: message.to_vec().into(),
        };
        Ok(self.calls.clone().sign(secured(request)).await?.into_inner().signature.to_vec())
    }

    /// The module's X.509-SVID for a signing key. With a nonce of 16 to 32 bytes also the TPM's proof of the key.
    pub async fn certify(
        &self,
        name: &KeyName,
        right: &Capability,
        nonce: &[u8],
    ) -> Result<Certified, CallError> {
        let request = api::CertifyRequest {
            key: name.to_string(),
            capability: right.token.clone().into(),
            nonce: nonce.to_vec().into(),
        };
        let answer = self.calls.clone().certify(secured(request)).await?.into_inner();
        let certificates = |list: Vec<prost::bytes::Bytes>| {
            let list = der::split(&list.concat()).ok().filter(|list| !list.is_empty());
            list.ok_or(CallError::Answer("certificates"))
        };
        Ok(Certified {
            id: SpiffeId::parse(&answer.spiffe_id).map_err(|_| CallError::Answer("SPIFFE ID"))?,
            chain_der: certificates(answer.x509_svid)?,
            bundle_der: certificates(answer.bundle)?,
            not_after: UnixTime(answer.not_after),
            attestation: answer.attestation.map(|attestation| Attestation {
                message: attestation.message.to_vec(),
                signature: attestation.signature.to_vec(),
                key_public: attestation.key_public.to_vec(),
                ak_public: attestation.ak_public.to_vec(),
            }),
        })
    }

    /// Encrypts. `context` is authenticated and not part of the ciphertext.
    pub async fn encrypt(
        &self,
        name: &KeyName,
        right: &Capability,
        plaintext: &[u8],
        context: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        let request = api::EncryptRequest {
            key: name.to_string(),
            capability: right.token.clone().into(),
            plaintext: plaintext.to_vec().into(),
            context: context.to_vec().into(),
        };
        Ok(self.calls.clone().encrypt(secured(request)).await?.into_inner().ciphertext.to_vec())
    }

    /// The plaintext. `context` is what it was encrypted with.
    pub async fn decrypt(
        &self,
        name: &KeyName,
        right: &Capability,
        ciphertext: &[u8],
        context: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CallError> {
        let request = api::DecryptRequest {
            key: name.to_string(),
            capability: right.token.clone().into(),
            ciphertext: ciphertext.to_vec().into(),
            context: context.to_vec().into(),
        };
        let answer = self.calls.clone().decrypt(secured(request)).await?.into_inner();
        Ok(Zeroizing::new(answer.plaintext.to_vec()))
    }

    /// Keeps a secret under a name. `replace`: a capability for SEAL of the secret that is there.
    pub async fn seal(
        &self,
        name: &KeyName,
        secret: &[u8],
        replace: Option<&Capability>,
        wanted: Wanted,
    ) -> Result<(Key, Capability), CallError> {
        let request = api::SealRequest {
            key: name.to_string(),
            secret: secret.to_vec().into(),
            capability: replace.map(|right| right.token.clone()).unwrap_or_default().into(),
            wanted: Some(wanted_message(wanted)),
        };
        let answer = self.calls.clone().seal(secured(request)).await?.into_inner();
        Ok((key(answer.key)?, capability(answer.capability)?))
    }

    /// The secret, which is wiped when it is dropped.
    pub async fn unseal(&self, name: &KeyName, right: &Capability) -> Result<Zeroizing<Vec<u8>>, CallError> {
        let request = api::UnsealRequest { key: name.to_string(), capability: right.token.clone().into() };
        let answer = self.calls.clone().unseal(secured(request)).await?.into_inner();
        Ok(Zeroizing::new(answer.secret.to_vec()))
    }

    /// Destroys a key or secret for good.
    pub async fn delete_key(&self, name: &KeyName, right: &Capability) -> Result<(), CallError> {
        let request = api::DeleteKeyRequest { key: name.to_string(), capability: right.token.clone().into() };
        self.calls.clone().delete_key(secured(request)).await?;
        Ok(())
    }

    /// The keys of the caller's module.
    pub async fn list_keys(&self) -> Result<Vec<Key>, CallError> {
        let answer = self.calls.clone().list_keys(secured(api::ListKeysRequest {})).await?.into_inner();
        answer.keys.into_iter().map(|one| key(Some(one))).collect()
    }
}

fn purpose_number(purpose: Purpose) -> i32 {
    match purpose {
        Purpose::Sign => api::Purpose::Sign,
        Purpose::Encrypt => api::Purpose::Encrypt,
        Purpose::Secret => api::Purpose::Secret,
    }
    .into()
}

fn wanted_message(wanted: Wanted) -> api::Wanted {
    let number = |operation: &Operation| match operation {
        Operation::Sign => api::Operation::Sign.into(),
        Operation::Certify => api::Operation::Certify.into(),
        Operation::Encrypt => api::Operation::Encrypt.into(),
        Operation::Decrypt => api::Operation::Decrypt.into(),
        Operation::Seal => api::Operation::Seal.into(),
        Operation::Unseal => api::Operation::Unseal.into(),
        Operation::Delete => api::Operation::Delete.into(),
    };
    api::Wanted {
        operations: Operation::ALL
            .iter()
            .filter(|one| wanted.operations.contains(**one))
            .map(number)
            .collect(),
        // 0 would stand for the longest.
        lifetime_seconds: u32::try_from(wanted.lifetime.as_secs()).unwrap_or(u32::MAX).max(1),
    }
}

fn key(key: Option<api::Key>) -> Result<Key, CallError> {
    let key = key.ok_or(CallError::Answer("key"))?;
    let purpose = match api::Purpose::try_from(key.purpose) {
        Ok(api::Purpose::Sign) => Purpose::Sign,
        Ok(api::Purpose::Encrypt) => Purpose::Encrypt,
        Ok(api::Purpose::Secret) => Purpose::Secret,
        Ok(api::Purpose::Unspecified) | Err(_) => return Err(CallError::Answer("purpose")),
    };
    let name = KeyName::parse(&key.name).map_err(|_| CallError::Answer("key name"))?;
    Ok(Key { name, purpose, generation: key.generation, created: UnixTime(key.created) })
}

fn capability(capability: Option<api::Capability>) -> Result<Capability, CallError> {
    let capability = capability.ok_or(CallError::Answer("capability"))?;
    Ok(Capability { token: capability.token.to_vec(), not_after: UnixTime(capability.not_after) })
}
