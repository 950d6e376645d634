//! Sealed values: keyed-hash objects under the storage key, kept as files that only this TPM can open.
//!
//! The object's authorization value is a hash of the value's name, so that files cannot be swapped for one another.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use tss_esapi::Context;
use tss_esapi::structures::{Auth, Private, Public, SensitiveData};
use tss_esapi::traits::UnMarshall as _;
use zeroize::Zeroizing;

use super::link::{Fault, fault};
use super::objects::and_flush;
use super::session::SaltPin;
use super::{convert, templates};
use crate::KeystoreError;

/// File format: this, then TPMT_PUBLIC and the private part of TPM2B_PRIVATE, each after its length (two bytes,
/// big-endian).
const MAGIC: &[u8] = b"edgewarden sealed 1\n";
fn authorization(name: &str) -> Result<Auth, Fault> {
    let hash = digest(&SHA256, format!("edgewarden sealed value {name}").as_bytes());
    Auth::try_from(hash.as_ref()).map_err(fault("make an authorization value"))
}

pub(super) fn seal(
    context: &mut Context,
    pin: &SaltPin,
    name: &str,
    secret: &[u8],
) -> Result<Vec<u8>, Fault> {
    let wrong = fault("TPM2_Create");
    let template = templates::sealed_value()?;
    let authorization = authorization(name)?;
    let secret = SensitiveData::try_from(secret).map_err(&wrong)?;
    let created = pin.with_storage(context, |context, session, storage_key| {
        context
            .execute_with_session(Some(session), |context| {
                context.create(storage_key.handle, template, Some(authorization), Some(secret), None, None)
            })
            .map_err(&wrong)
    })?;
    let mut blob = MAGIC.to_vec();
    for part in [convert::public_bytes(&created.out_public)?.as_slice(), created.out_private.value()] {
        let length =
            u16::try_from(part.len()).map_err(|_| KeystoreError::Answer("a sealed value is too long"))?;
        blob.extend(length.to_be_bytes());
        blob.extend_from_slice(part);
    }
    Ok(blob)
}

/// The two parts of a file.
fn parts(blob: &[u8]) -> Option<(&[u8], &[u8])> {
    fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
    }
    let (public, rest) = part(blob.strip_prefix(MAGIC)?)?;
    let (private, rest) = part(rest)?;
    rest.is_empty().then_some((public, private))
}

pub(super) fn unseal(
    context: &mut Context,
    pin: &SaltPin,
    name: &str,
    blob: &[u8],
    path: &Path,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let corrupted = |found| Fault::Final(KeystoreError::Corrupted { path: path.to_owned(), found });
    let (public, private) = parts(blob).ok_or_else(|| corrupted("not the form of a sealed value"))?;
    let public = Public::unmarshall(public).map_err(|_| corrupted("a malformed public part"))?;
    let private = Private::try_from(private).map_err(|_| corrupted("a malformed private part"))?;
    if public.object_attributes() != templates::sealed_value()?.object_attributes() {
        return Err(corrupted("attributes that no sealed value has"));
    }
    pin.with_storage(context, |context, session, storage_key| {
        let object = context
            .execute_with_session(Some(session), |context| context.load(storage_key.handle, private, public))
            .map_err(fault("TPM2_Load"))
            .map_err(|fault| refused(fault, &corrupted, "been sealed by another TPM, or been changed"))?;
        and_flush(context, object.into(), |context| {
            context.tr_set_auth(object.into(), authorization(name)?).map_err(fault("set authorization"))?;
            let secret = context
                .execute_with_session(Some(session), |context| context.unseal(object.into()))
                .map_err(fault("TPM2_Unseal"))
                .map_err(|fault| refused(fault, &corrupted, "been sealed under another name"))?;
            Ok(Zeroizing::new(secret.value().to_vec()))
        })
    })
}

/// What the TPM refuses about a file says that the file is wrong, not that the TPM is.
fn refused(fault: Fault, corrupted: &impl Fn(&'static str) -> Fault, found: &'static str) -> Fault {
    match fault {
        Fault::Final(KeystoreError::Tpm { .. }) => corrupted(found),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_strictly() {
        let good = [MAGIC, &[0, 1, 7, 0, 2, 8, 9]].concat();
        assert_eq!(parts(&good), Some((&[7][..], &[8, 9][..])));
        for length in 0..good.len() {
            assert_eq!(parts(&good[..length]), None, "{length}");
        }
        assert_eq!(parts(&[&good[..], &[0]].concat()), None);
    }
}
