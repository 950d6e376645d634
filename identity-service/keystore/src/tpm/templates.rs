//! The keys that Edgewarden has in a TPM, as templates. A primary is a function of the hierarchy's seed and its
//! template, so these files *are* the keys: change a byte and every gateway has another key.

use aws_lc_rs::digest::{SHA256, digest};
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, KeyedHashScheme,
    Public, PublicBuilder, PublicEccParameters, PublicKeyedHashParameters, SymmetricDefinitionObject,
};

use super::link::{Fault, fault};
use crate::error::KeystoreError;

pub(super) const OWNER: Hierarchy = Hierarchy::Owner;
pub(super) const ENDORSEMENT: Hierarchy = Hierarchy::Endorsement;

/// Text in the templates' `unique` that makes our primaries different from other programs'.
const ATTESTATION_KEY: &str = "edgewarden attestation key 1";
const GATEWAY_CA: &str = "edgewarden gateway ca 1";
const AGREEMENT_KEY: &str = "edgewarden agreement key 1";
/// Before a resident key's name, in what its policy is the hash of.
const RESIDENT_KEY: &str = "edgewarden resident key";

/// `unique` of a P-256 template: X is a hash of the purpose, Y is zero.
fn unique(purpose: Option<&str>) -> Result<EccPoint, Fault> {
    let x =
        purpose.map_or_else(|| vec![0; 32], |purpose| digest(&SHA256, purpose.as_bytes()).as_ref().to_vec());
    let parameter = |bytes: Vec<u8>| EccParameter::try_from(bytes).map_err(fault("make a template"));
    Ok(EccPoint::new(parameter(x)?, parameter(vec![0; 32])?))
}

/// Attributes that all have: born in this TPM, never leave it, outside dictionary-attack protection.
fn attributes() -> ObjectAttributesBuilder {
    ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
}

fn p256(
    attributes: ObjectAttributesBuilder,
    symmetric: SymmetricDefinitionObject,
    scheme: EccScheme,
    purpose: Option<&str>,
) -> Result<Public, Fault> {
    let wrong = fault("make a template");
    let parameters =
        PublicEccParameters::new(symmetric, scheme, EccCurve::NistP256, KeyDerivationFunctionScheme::Null);
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes.build().map_err(&wrong)?)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(unique(purpose)?)
        .build()
        .map_err(&wrong)
}

fn ecdsa() -> EccScheme {
    EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256))
}

/// Signs only what the TPM itself made (restricted): quotes and certifications.
pub(super) fn attestation_key() -> Result<Public, Fault> {
    let attributes = attributes().with_restricted(true).with_sign_encrypt(true);
    p256(attributes, SymmetricDefinitionObject::Null, ecdsa(), Some(ATTESTATION_KEY))
}

/// Signs certificates. In the owner hierarchy: who clears the TPM for a new owner ends the gateway's identity.
pub(super) fn gateway_ca() -> Result<Public, Fault> {
    p256(attributes().with_sign_encrypt(true), SymmetricDefinitionObject::Null, ecdsa(), Some(GATEWAY_CA))
}

/// Agrees on secrets with those who encrypt for this gateway, and does nothing else.
pub(super) fn agreement_key() -> Result<Public, Fault> {
    p256(
        attributes().with_decrypt(true),
        SymmetricDefinitionObject::Null,
        EccScheme::Null,
        Some(AGREEMENT_KEY),
    )
}

/// A signing key beneath the storage key. Its policy binds it to its name: see `resident`.
pub(super) fn resident_key(name: &str) -> Result<Public, Fault> {
    let attributes = attributes().with_sign_encrypt(true);
    let key = p256(attributes, SymmetricDefinitionObject::Null, ecdsa(), None)?;
    let Public::Ecc { object_attributes, name_hashing_algorithm, parameters, unique, .. } = key else {
        return Err(KeystoreError::Answer("the TSS made another template").into());
    };
    let policy = digest(&SHA256, format!("{RESIDENT_KEY} {name}").as_bytes());
    let auth_policy = Digest::try_from(policy.as_ref()).map_err(fault("make a template"))?;
    Ok(Public::Ecc { object_attributes, name_hashing_algorithm, auth_policy, parameters, unique })
}

/// The storage key that resident keys and sealed values are under, and that sessions are salted with: the TCG's P-256 template for
/// a storage root key (TPM 2.0 Provisioning Guidance, section 7.5.1).
pub(super) fn storage_key() -> Result<Public, Fault> {
    let attributes = attributes().with_restricted(true).with_decrypt(true);
    p256(attributes, SymmetricDefinitionObject::AES_128_CFB, EccScheme::Null, None)
}

/// A sealed value: data, not a key.
pub(super) fn sealed_value() -> Result<Public, Fault> {
    let wrong = fault("make a template");
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_user_with_auth(true)
        .with_no_da(true);
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes.build().map_err(&wrong)?)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
        .map_err(&wrong)
}
