//! Proving what this gateway is: device keys, quotes, and the answer to a fleet's challenge
//! (TPM 2.0 Library Part 3: TPM2_ActivateCredential, TPM2_Certify, TPM2_Quote).

use std::cell::RefCell;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use edgewarden_ca::{CaSigner, SignError, certificate_request, spki};
use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::enrol::{Challenge, Credential, DeviceKeys, TpmProof, binding};
use tss_esapi::Context;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{AuthHandle, KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Attest, AttestInfo, Data, Digest, EncryptedSecret, IdObject, Nonce, Signature, SignatureScheme,
    SymmetricDefinition,
};
use tss_esapi::traits::Marshall as _;

use super::link::{Fault, fault};
use super::objects::{Loaded, and_flush, sign, with_primary};
use super::pcr::{read_pcrs, selection};
use super::resident::KeyFile;
use super::session::SaltPin;
use super::{convert, endorsement, templates};
use crate::contract::{KeyAttestation, Quote};
use crate::error::KeystoreError;

/// PCRs may be extended between quote and reading; so often is it tried.
const QUOTES_MAX: usize = 5;

/// A challenge and what its answer names.
pub(super) struct Request {
    pub(super) challenge: Challenge,
    pub(super) gateway: GatewayName,
    pub(super) domain: TrustDomain,
    pub(super) pin: Arc<SaltPin>,
}

fn with_attestation_key<T>(
    context: &mut Context,
    work: impl FnOnce(&mut Context, &Loaded) -> Result<T, Fault>,
) -> Result<T, Fault> {
    with_primary(context, templates::ENDORSEMENT, templates::attestation_key()?, work)
}

pub(super) fn device_keys(context: &mut Context) -> Result<DeviceKeys, Fault> {
    let endorsement = endorsement::find(context)?;
    let ek_public = endorsement.with_key(context, |_, key| convert::public_bytes(&key.public))?;
    let ak_public = with_attestation_key(context, |_, key| convert::public_bytes(&key.public))?;
    Ok(DeviceKeys::Tpm {
        ek_certificates: endorsement.certificates.into_iter().map(Into::into).collect(),
        ek_public: ek_public.into(),
        ak_public: ak_public.into(),
    })
}

/// The answer to a challenge, but for the event log.
pub(super) fn prove(context: &mut Context, request: &Request) -> Result<TpmProof, Fault> {
    let challenge = &request.challenge;
    let credential = challenge
        .credential
        .as_ref()
        .ok_or(KeystoreError::Request("the challenge has no credential to activate"))?;
    let secret = activate(context, &request.pin, credential)?;
    with_primary(context, templates::OWNER, templates::gateway_ca()?, |context, ca| {
        let csr = csr(context, ca, &request.gateway, &request.domain)?;
        let bound = binding(challenge.nonce.as_slice(), &csr);
        let data = || Data::try_from(bound.as_slice()).map_err(fault("bind to the nonce"));
        with_attestation_key(context, |context, ak| {
            let (certify, certify_signature) = certify(context, ca, ak, data()?)?;
            let (quote, quote_signature, _) = quoted(context, ak, &data()?, &challenge.pcrs)?;
            Ok(TpmProof {
                secret: secret.into(),
                quote: quote.into(),
                quote_signature: quote_signature.into(),
                event_log: Vec::new().into(),
                ca_public: convert::public_bytes(&ca.public)?.into(),
                certify: certify.into(),
                certify_signature: certify_signature.into(),
                csr: csr.into(),
            })
        })
    })
}

/// The attestation key's word for another key of the TPM: TPMS_ATTEST and TPMT_SIGNATURE.
fn certify(
    context: &mut Context,
    key: &Loaded,
    ak: &Loaded,
    data: Data,
) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let (certify, signature) = context
        .execute_with_sessions((Some(AuthSession::Password), Some(AuthSession::Password), None), |context| {
            context.certify(key.handle.into(), ak.handle, data, SignatureScheme::Null)
        })
        .map_err(fault("TPM2_Certify"))?;
    checked(&certify, &signature, ak)
}

/// The attestation key's word for a resident key.
pub(super) fn certify_resident(
    context: &mut Context,
    file: &KeyFile,
    nonce: &[u8],
) -> Result<KeyAttestation, Fault> {
    let data = Data::try_from(nonce).map_err(fault("bind to the nonce"))?;
    file.with_key(context, |context, key| {
        with_attestation_key(context, |context, ak| {
            let (message, signature) = certify(context, key, ak, data)?;
            Ok(KeyAttestation {
                message,
                signature,
                key_public: convert::public_bytes(&key.public)?,
                ak_public: convert::public_bytes(&ak.public)?,
            })
        })
    })
}

/// Gives back the secret that only the TPM with this endorsement key and this attestation key can read.
fn activate(context: &mut Context, pin: &SaltPin, credential: &Credential) -> Result<Vec<u8>, Fault> {
    let wrong = fault("TPM2_ActivateCredential");
    let id_object = IdObject::try_from(credential.id_object.as_slice()).map_err(&wrong)?;
    let encrypted = EncryptedSecret::try_from(credential.encrypted_secret.as_slice()).map_err(&wrong)?;
    let endorsement = endorsement::find(context)?;
    pin.with_session(context, |context, salted| {
        with_attestation_key(context, |context, ak| {
            endorsement.with_key(context, |context, ek| {
                let run = |context: &mut Context, authorization: AuthSession| {
                    context
                        .execute_with_sessions((Some(salted), Some(authorization), None), |context| {
                            context.activate_credential(ak.handle, ek.handle, id_object, encrypted)
                        })
                        .map(|secret| secret.value().to_vec())
                        .map_err(&wrong)
                };
                // The profile's older templates are used by policy only (B.3.3, B.3.4), the newer by password too.
                if ek.public.object_attributes().user_with_auth() {
                    return run(context, AuthSession::Password);
                }
                let session = policy_session(context)?;
                and_flush(context, SessionHandle::from(session).into(), |context| {
                    endorsement_policy(context, session)?;
                    run(context, session)
                })
            })
        })
    })
}

fn policy_session(context: &mut Context) -> Result<AuthSession, Fault> {
    Ok(context
        .start_auth_session(
            None,
            None,
            None,
            SessionType::Policy,
            SymmetricDefinition::AES_128_CFB,
            HashingAlgorithm::Sha256,
        )
        .map_err(fault("TPM2_StartAuthSession"))?
        .ok_or(KeystoreError::Answer("TPM2_StartAuthSession gave no session"))?)
}

/// PolicySecret of the endorsement hierarchy: PolicyA of the profile.
fn endorsement_policy(context: &mut Context, session: AuthSession) -> Result<(), Fault> {
    let wrong = fault("TPM2_PolicySecret");
    let policy = PolicySession::try_from(session).map_err(&wrong)?;
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.policy_secret(
                policy,
                AuthHandle::Endorsement,
                Nonce::default(),
                Digest::default(),
                Nonce::default(),
                None,
            )
        })
        .map(drop)
        .map_err(&wrong)
}

/// The gateway CA's key while it is loaded, for making its certificate request.
struct LoadedCa<'a> {
    context: RefCell<&'a mut Context>,
    key: KeyHandle,
    point: Vec<u8>,
    fault: RefCell<Option<Fault>>,
}

impl CaSigner for LoadedCa<'_> {
    fn public_point(&self) -> Result<Vec<u8>, SignError> {
        Ok(self.point.clone())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let hash = digest(&SHA256, message);
        sign(&mut self.context.borrow_mut(), self.key, hash.as_ref()).map_err(|fault| {
            self.fault.replace(Some(fault));
            SignError::new(KeystoreError::Answer("TPM2_Sign failed"))
        })
    }
}

fn csr(
    context: &mut Context,
    ca: &Loaded,
    gateway: &GatewayName,
    domain: &TrustDomain,
) -> Result<Vec<u8>, Fault> {
    let point = convert::point(&ca.public)?;
    let signer =
        LoadedCa { context: RefCell::new(context), key: ca.handle, point, fault: RefCell::new(None) };
    certificate_request(&signer, gateway, domain).map_err(|error| {
        // The fault says whether trying again helps; the wrapping says only where it happened.
        signer.fault.take().unwrap_or_else(|| KeystoreError::Csr(Box::new(error)).into())
    })
}

pub(super) fn quote(context: &mut Context, nonce: &[u8], pcrs: &[u8]) -> Result<Quote, Fault> {
    let data = Data::try_from(nonce).map_err(fault("bind to the nonce"))?;
    with_attestation_key(context, |context, ak| {
        let (message, signature, values) = quoted(context, ak, &data, pcrs)?;
        let point = convert::point(&ak.public)?;
        let ak_pem =
            spki::to_pem(&point).map_err(|_| KeystoreError::Answer("the attestation key is no point"))?;
        Ok(Quote { message, signature, ak_public: convert::public_bytes(&ak.public)?, ak_pem, pcrs: values })
    })
}

type Quoted = (Vec<u8>, Vec<u8>, Vec<(u8, [u8; 32])>);

/// Quotes, and reads the PCRs that the quote is over.
fn quoted(context: &mut Context, ak: &Loaded, data: &Data, pcrs: &[u8]) -> Result<Quoted, Fault> {
    let wrong = fault("TPM2_Quote");
    let (selection, slots) = selection(pcrs)?;
    for _ in 0..QUOTES_MAX {
        let (attest, signature) = context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.quote(ak.handle, data.clone(), SignatureScheme::Null, selection.clone())
            })
            .map_err(&wrong)?;
        let AttestInfo::Quote { info } = attest.attested() else {
            return Err(KeystoreError::Answer("TPM2_Quote gave another attestation").into());
        };
        // A TPM whose SHA-256 bank is off quotes nothing, without an error.
        if *info.pcr_selection() != selection {
            let quoted_none =
                info.pcr_selection().get_selections().iter().all(|bank| bank.selected().is_empty());
            let other = KeystoreError::Answer("other PCRs were quoted than were asked for");
            return Err(if quoted_none { KeystoreError::Sha256BankOff } else { other }.into());
        }
        let values = read_pcrs(context, &selection, pcrs, &slots)?;
        let all: Vec<u8> = values.iter().flat_map(|(_, value)| *value).collect();
        if info.pcr_digest().value() == digest(&SHA256, &all).as_ref() {
            let (message, signature) = checked(&attest, &signature, ak)?;
            return Ok((message, signature, values));
        }
    }
    Err(KeystoreError::Answer("the PCRs change faster than they are quoted").into())
}

/// TPMS_ATTEST and TPMT_SIGNATURE as bytes, after verifying one against the other: the bytes are written anew from
/// what the TSS parsed, and the bus is not trusted.
fn checked(attest: &Attest, signature: &Signature, ak: &Loaded) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let message = attest.marshall().map_err(fault("write TPMS_ATTEST"))?;
    let der = convert::signature_der(signature)?;
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, convert::point(&ak.public)?)
        .map_err(|_| KeystoreError::Answer("the attestation key is no point"))?
        .verify_sig(&message, &der)
        .map_err(|_| KeystoreError::Answer("the attestation is not signed by the attestation key"))?;
    Ok((message, signature.marshall().map_err(fault("write TPMT_SIGNATURE"))?))
}
