//! Sealed values: keyed-hash objects under the storage key, kept as files that only this TPM can open.
//!
//! The object's authorization value is a hash of the value's name, so that files cannot be swapped for one another.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use tss_esapi::Context;
use tss_esapi::structures::{Auth, SensitiveData};
use zeroize::Zeroizing;

use super::link::{Fault, fault};
use super::objects::and_flush;
use super::session::SaltPin;
use super::{blob, templates};
use crate::error::KeystoreError;

/// First line of a file; the rest is as in `blob`.
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
    blob::write(MAGIC, &created.out_public, &created.out_private)
}

pub(super) fn unseal(
    context: &mut Context,
    pin: &SaltPin,
    name: &str,
    blob: &[u8],
    path: &Path,
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let corrupted = |found| Fault::Final(KeystoreError::Corrupted { path: path.to_owned(), found });
    let (public, private) = blob::read(MAGIC, blob).map_err(corrupted)?;
    if public.object_attributes() != templates::sealed_value()?.object_attributes() {
        return Err(corrupted("attributes that no sealed value has"));
    }
    pin.with_storage(context, |context, session, storage_key| {
        let object = context
            .execute_with_session(Some(session), |context| context.load(storage_key.handle, private, public))
            .map_err(fault("TPM2_Load"))
            .map_err(|fault| {
                blob::refused(fault, &corrupted, "been sealed by another TPM, or been changed")
            })?;
        and_flush(context, object.into(), |context| {
            context.tr_set_auth(object.into(), authorization(name)?).map_err(fault("set authorization"))?;
            let secret = context
                .execute_with_session(Some(session), |context| context.unseal(object.into()))
                .map_err(fault("TPM2_Unseal"))
                .map_err(|fault| blob::refused(fault, &corrupted, "been sealed under another name"))?;
            Ok(Zeroizing::new(secret.value().to_vec()))
        })
    })
}
