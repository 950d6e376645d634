//! The endorsement key and its certificate (TCG EK Credential Profile for TPM 2.0, version 2.5).

use tss_esapi::Context;
use tss_esapi::abstraction::{AsymmetricAlgorithmSelection, ek, nv};
use tss_esapi::handles::{NvIndexTpmHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::NvAuth;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::Public;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::link::{Fault, fault, handles};
use super::objects::{Loaded, with_primary};
use super::templates;
use crate::error::KeystoreError;

/// EK certificates by NV index, best first. Every TPM's vendor fills the RSA-2048 one (template L-1) if any.
const CERTIFICATES: [(u32, AsymmetricAlgorithmSelection); 3] = [
    (0x01c0_0002, AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048)),
    (0x01c0_000a, AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256)),
    (0x01c0_0016, AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP384)),
];
/// Intermediates: certificates one after the other, in as many indices as it takes.
const CHAIN_FIRST: u32 = 0x01c0_0100;
const CHAIN_LAST: u32 = 0x01c0_01ff;
/// Most certificates that are sent.
const CERTIFICATES_MAX: usize = 8;
/// Handle of an EK that someone made persistent (TCG Registry of Reserved TPM 2.0 Handles).
const PERSISTENT: u32 = 0x8101_0001;

/// An endorsement key that has a certificate.
pub(super) struct Endorsement {
    /// DER; the key's own first.
    pub(super) certificates: Vec<Vec<u8>>,
    kind: AsymmetricAlgorithmSelection,
}

pub(super) fn find(context: &mut Context) -> Result<Endorsement, Fault> {
    let numbers = |context: &mut Context, first| {
        handles(context, first).map(|found| found.into_iter().map(u32::from).collect::<Vec<_>>())
    };
    let lowest = CERTIFICATES.iter().fold(u32::MAX, |lowest, (index, _)| lowest.min(*index));
    let present = numbers(context, lowest)?;
    let Some((index, kind)) = CERTIFICATES.into_iter().find(|(index, _)| present.contains(index)) else {
        return Err(KeystoreError::NoEndorsementCertificate.into());
    };
    let own = read(context, index)?;
    let own = certificates(&own).into_iter().next().ok_or(KeystoreError::EndorsementCertificate)?;
    let mut chain = Vec::new();
    for index in numbers(context, CHAIN_FIRST)? {
        if (CHAIN_FIRST..=CHAIN_LAST).contains(&index) {
            chain.extend(read(context, index)?);
        }
    }
    let mut all = vec![own];
    all.extend(certificates(&chain));
    all.truncate(CERTIFICATES_MAX);
    Ok(Endorsement { certificates: all, kind })
}

fn read(context: &mut Context, index: u32) -> Result<Vec<u8>, Fault> {
    let wrong = fault("TPM2_NV_Read");
    let index = NvIndexTpmHandle::new(index).map_err(&wrong)?;
    context
        .execute_with_session(Some(AuthSession::Password), |context| {
            nv::read_full(context, NvAuth::Owner, index)
        })
        .map_err(&wrong)
}

/// The certificates at the beginning of `bytes`. NV memory is larger than what it holds: padding ends the list.
fn certificates(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Ok((rest, _)) = X509Certificate::from_der(bytes) {
        let length = bytes.len() - rest.len();
        found.extend(bytes.get(..length).map(<[u8]>::to_vec));
        bytes = rest;
    }
    found
}

impl Endorsement {
    /// Runs `work` with the endorsement key: the persistent one if it is there and is the certificate's, else the
    /// primary of the profile's template.
    pub(super) fn with_key<T>(
        &self,
        context: &mut Context,
        work: impl FnOnce(&mut Context, &Loaded) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if let Some(key) = self.persistent(context)? {
            let result = work(context, &key);
            let mut object = ObjectHandle::from(key.handle);
            let closed = context.tr_close(&mut object).map_err(fault("close the endorsement key"));
            let value = result?;
            closed?;
            return Ok(value);
        }
        let template = ek::create_ek_public_from_default_template_2(self.kind, None)
            .map_err(fault("make a template"))?;
        with_primary(context, templates::ENDORSEMENT, template, |context, key| {
            if self.certifies(&key.public) {
                work(context, key)
            } else {
                Err(KeystoreError::EndorsementCertificate.into())
            }
        })
    }

    fn persistent(&self, context: &mut Context) -> Result<Option<Loaded>, Fault> {
        let there = handles(context, PERSISTENT)?.into_iter().any(|handle| u32::from(handle) == PERSISTENT);
        if !there {
            return Ok(None);
        }
        let wrong = fault("TPM2_ReadPublic");
        let handle = TpmHandle::Persistent(PersistentTpmHandle::new(PERSISTENT).map_err(&wrong)?);
        let mut object = context.tr_from_tpm_public(handle).map_err(&wrong)?;
        match context.read_public(object.into()) {
            Ok((public, _, _)) if self.certifies(&public) => {
                Ok(Some(Loaded { handle: object.into(), public }))
            }
            other => {
                context.tr_close(&mut object).map_err(&wrong)?;
                other.map(|_| None).map_err(&wrong)
            }
        }
    }

    /// True when the certificate is for this key. The key is looked for in the certificate's public key bits and
    /// not through its algorithm, which vendors fill in differently (rsaEncryption, id-RSAES-OAEP).
    fn certifies(&self, public: &Public) -> bool {
        let Some(Ok((_, certificate))) = self.certificates.first().map(|der| X509Certificate::from_der(der))
        else {
            return false;
        };
        let bits = &certificate.public_key().subject_public_key.data;
        match public {
            Public::Rsa { unique, .. } => {
                let modulus = unique.value();
                modulus.len() >= 256 && bits.windows(modulus.len()).any(|window| window == modulus)
            }
            Public::Ecc { unique, .. } => {
                let (x, y) = (unique.x().value(), unique.y().value());
                x.len() >= 32 && [&[4], x, y].concat() == **bits
            }
            Public::KeyedHash { .. } | Public::SymCipher { .. } => false,
        }
    }
}
