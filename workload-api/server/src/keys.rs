//! The calls of `edgewarden.keys.v1`: parsed and bounded here, carried out by the [`KeySource`] on a thread that may
//! block.
//!
//! The caller is judged when a call comes and again before its answer goes out: what a chip took seconds for is not
//! given to a process that is no longer the module's, nor after the verdict has failed.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{KeyName, Reason, Refusal};
use edgewarden_workload_wire::keys::{
    self, CAPABILITY_BYTES_MAX, CAPABILITY_LIFETIME_MAX, CIPHERTEXT_OVERHEAD_MAX, CONTEXT_BYTES_MAX,
    DATA_BYTES_MAX, Operation, Operations, Purpose, Use, Wanted,
};
use edgewarden_workload_wire::keysapi as api;
use edgewarden_workload_wire::keysapi::keys_server::Keys;
use prost::bytes::Bytes;
use tonic::{Request, Response, Status, async_trait};

use crate::caller::Caller;
use crate::key_source::KeySource;
use crate::source::IdentitySource;
use crate::status::{authorize, status, unknown};
use crate::turns::Turns;

/// Largest request: the data, and room for the names, the capability and the context.
pub const KEYS_REQUEST_BYTES_MAX: usize = DATA_BYTES_MAX + 4 * 1024;
/// More than there are operations.
const OPERATIONS_MAX: usize = 16;

pub(super) struct KeysService {
    pub(super) source: Arc<dyn IdentitySource>,
    pub(super) turns: Turns,
}

impl KeysService {
    async fn call<Q: Send + 'static, T: Send + 'static>(
        &self,
        request: Request<Q>,
        work: impl FnOnce(&dyn KeySource, Q) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0.clone());
        let caller = caller.ok_or_else(|| status(&unknown()))?;
        let turn = self.turns.mine().await;
        authorize(&*self.source, &caller)?;
        let keys = self.source.keys();
        let keys = keys.ok_or_else(|| Status::unimplemented("this socket does not offer resident keys"))?;
        let place = keys.admit().map_err(|refusal| status(&refusal))?;
        drop(turn);
        let request = request.into_inner();
        // Goes on to its end when the caller goes away, with its place held until then.
        let worked = tokio::task::spawn_blocking(move || {
            let _place = place;
            work(&*keys, request).inspect_err(|refusal| keys.refused(refusal))
        });
        let answer = worked.await.map_err(|error| {
            tracing::error!(%error, "a call of a resident key ended without an answer");
            status(&Refusal::new(Reason::Internal, "key", "see the log of identityd"))
        })?;
        authorize(&*self.source, &caller)?;
        answer.map(Response::new).map_err(|refusal| status(&refusal))
    }
}

fn name(text: &str) -> Result<KeyName, Refusal> {
    KeyName::parse(text).map_err(|error| Refusal::new(Reason::RequestInvalid, "key", error))
}

fn at_most(what: &str, bytes: &[u8], max: usize) -> Result<(), Refusal> {
    if bytes.len() <= max {
        return Ok(());
    }
    let rule = format!("{} bytes are over the limit of {max}", bytes.len());
    Err(Refusal::new(Reason::RequestTooLarge, what, rule))
}

fn by(key: &str, capability: &Bytes) -> Result<Use, Refusal> {
    at_most("capability", capability, CAPABILITY_BYTES_MAX)?;
    Ok(Use { key: name(key)?, capability: capability.to_vec() })
}

fn purpose(number: i32) -> Result<Purpose, Refusal> {
    match api::Purpose::try_from(number) {
        Ok(api::Purpose::Sign) => Ok(Purpose::Sign),
        Ok(api::Purpose::Encrypt) => Ok(Purpose::Encrypt),
        Ok(api::Purpose::Secret) => {
            Err(Refusal::new(Reason::RequestInvalid, "purpose", "a secret is made by Seal"))
        }
        Ok(api::Purpose::Unspecified) | Err(_) => {
            Err(Refusal::new(Reason::RequestInvalid, "purpose", "it is not one that there is"))
        }
    }
}

fn wanted(wanted: Option<api::Wanted>) -> Result<Wanted, Refusal> {
    let Some(wanted) = wanted else { return Ok(Wanted::default()) };
    let invalid = |rule| Refusal::new(Reason::RequestInvalid, "wanted", rule);
    if wanted.operations.len() > OPERATIONS_MAX {
        return Err(invalid("more operations than there are"));
    }
    let operations: Option<Vec<_>> = wanted.operations.iter().copied().map(operation).collect();
    let operations = operations.ok_or_else(|| invalid("an operation is not one that there is"))?;
    let lifetime = match wanted.lifetime_seconds {
        0 => CAPABILITY_LIFETIME_MAX,
        seconds => Duration::from_secs(seconds.into()),
    };
    if lifetime > CAPABILITY_LIFETIME_MAX {
        return Err(invalid("a capability lives an hour at most"));
    }
    Ok(Wanted { operations: Operations::of(&operations), lifetime })
}

fn operation(number: i32) -> Option<Operation> {
    match api::Operation::try_from(number).ok()? {
        api::Operation::Unspecified => None,
        api::Operation::Sign => Some(Operation::Sign),
        api::Operation::Certify => Some(Operation::Certify),
        api::Operation::Encrypt => Some(Operation::Encrypt),
        api::Operation::Decrypt => Some(Operation::Decrypt),
        api::Operation::Seal => Some(Operation::Seal),
        api::Operation::Unseal => Some(Operation::Unseal),
        api::Operation::Delete => Some(Operation::Delete),
    }
}

fn key(key: &keys::Key) -> api::Key {
    let purpose = match key.purpose {
        Purpose::Sign => api::Purpose::Sign,
        Purpose::Encrypt => api::Purpose::Encrypt,
        Purpose::Secret => api::Purpose::Secret,
    };
    api::Key {
        name: key.name.to_string(),
        purpose: purpose.into(),
        generation: key.generation,
        created: key.created.0,
    }
}

fn capability(capability: keys::Capability) -> api::Capability {
    api::Capability { token: capability.token.into(), not_after: capability.not_after.0 }
}

#[async_trait]
impl Keys for KeysService {
    async fn create_key(
        &self,
        request: Request<api::CreateKeyRequest>,
    ) -> Result<Response<api::CreateKeyResponse>, Status> {
        self.call(request, |keys, request| {
            let purpose = purpose(request.purpose)?;
            let (made, right, public) =
                keys.create(&name(&request.key)?, purpose, wanted(request.wanted)?)?;
            Ok(api::CreateKeyResponse {
                key: Some(key(&made)),
                capability: Some(capability(right)),
                public_key: public.unwrap_or_default().into(),
            })
        })
        .await
    }

    async fn grant(
        &self,
        request: Request<api::GrantRequest>,
    ) -> Result<Response<api::GrantResponse>, Status> {
        self.call(request, |keys, request| {
            let (found, right) = keys.grant(&name(&request.key)?, wanted(request.wanted)?)?;
            Ok(api::GrantResponse { key: Some(key(&found)), capability: Some(capability(right)) })
        })
        .await
    }

    async fn public_key(
        &self,
        request: Request<api::PublicKeyRequest>,
    ) -> Result<Response<api::PublicKeyResponse>, Status> {
        self.call(request, |keys, request| {
            let public_key = keys.public_key(&name(&request.key)?)?.into();
            Ok(api::PublicKeyResponse { public_key })
        })
        .await
    }

    async fn sign(&self, request: Request<api::SignRequest>) -> Result<Response<api::SignResponse>, Status> {
        self.call(request, |keys, request| {
            at_most("message", &request.message, DATA_BYTES_MAX)?;
            let by = by(&request.key, &request.capability)?;
            Ok(api::SignResponse { signature: keys.sign(&by, &request.message)?.into() })
        })
        .await
    }

    async fn certify(
        &self,
        request: Request<api::CertifyRequest>,
    ) -> Result<Response<api::CertifyResponse>, Status> {
        self.call(request, |keys, request| {
            if !request.nonce.is_empty() && !(16..=32).contains(&request.nonce.len()) {
                return Err(Refusal::new(Reason::RequestInvalid, "nonce", "it has 16 to 32 bytes"));
            }
            let certified = keys.certify(&by(&request.key, &request.capability)?, &request.nonce)?;
            let attestation = certified.attestation.map(|attestation| api::KeyAttestation {
                message: attestation.message.into(),
                signature: attestation.signature.into(),
                key_public: attestation.key_public.into(),
                ak_public: attestation.ak_public.into(),
            });
            Ok(api::CertifyResponse {
                spiffe_id: certified.id.to_string(),
                x509_svid: certified.chain_der.into_iter().map(Bytes::from).collect(),
                bundle: certified.bundle_der.into_iter().map(Bytes::from).collect(),
                not_after: certified.not_after.0,
                attestation,
            })
        })
        .await
    }

    async fn encrypt(
        &self,
        request: Request<api::EncryptRequest>,
    ) -> Result<Response<api::EncryptResponse>, Status> {
        self.call(request, |keys, request| {
            at_most("plaintext", &request.plaintext, DATA_BYTES_MAX)?;
            at_most("context", &request.context, CONTEXT_BYTES_MAX)?;
            let by = by(&request.key, &request.capability)?;
            let ciphertext = keys.encrypt(&by, &request.plaintext, &request.context)?.into();
            Ok(api::EncryptResponse { ciphertext })
        })
        .await
    }

    async fn decrypt(
        &self,
        request: Request<api::DecryptRequest>,
    ) -> Result<Response<api::DecryptResponse>, Status> {
        self.call(request, |keys, request| {
            at_most("ciphertext", &request.ciphertext, DATA_BYTES_MAX + CIPHERTEXT_OVERHEAD_MAX)?;
            at_most("context", &request.context, CONTEXT_BYTES_MAX)?;
            let by = by(&request.key, &request.capability)?;
            let plaintext = keys.decrypt(&by, &request.ciphertext, &request.context)?;
            Ok(api::DecryptResponse { plaintext: Bytes::from_owner(plaintext) })
        })
        .await
    }

    async fn seal(&self, request: Request<api::SealRequest>) -> Result<Response<api::SealResponse>, Status> {
        self.call(request, |keys, request| {
            at_most("secret", &request.secret, DATA_BYTES_MAX)?;
            let by = by(&request.key, &request.capability)?;
            let (sealed, right) = keys.seal(&by, &request.secret, wanted(request.wanted)?)?;
            Ok(api::SealResponse { key: Some(key(&sealed)), capability: Some(capability(right)) })
        })
        .await
    }

    async fn unseal(
        &self,
        request: Request<api::UnsealRequest>,
    ) -> Result<Response<api::UnsealResponse>, Status> {
        self.call(request, |keys, request| {
            let secret = keys.unseal(&by(&request.key, &request.capability)?)?;
            Ok(api::UnsealResponse { secret: Bytes::from_owner(secret) })
        })
        .await
    }

    async fn delete_key(
        &self,
        request: Request<api::DeleteKeyRequest>,
    ) -> Result<Response<api::DeleteKeyResponse>, Status> {
        self.call(request, |keys, request| {
            keys.delete(&by(&request.key, &request.capability)?)?;
            Ok(api::DeleteKeyResponse {})
        })
        .await
    }

    async fn list_keys(
        &self,
        request: Request<api::ListKeysRequest>,
    ) -> Result<Response<api::ListKeysResponse>, Status> {
        self.call(request, |keys, _| {
            Ok(api::ListKeysResponse { keys: keys.list()?.iter().map(key).collect() })
        })
        .await
    }
}
