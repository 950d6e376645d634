//! Resident keys: signing keys that the TPM made under the storage key, kept as files that only this TPM can load.
//!
//! A key's authorization policy is a hash of its name. No policy session can ever fulfil it; the key is used by its
//! (empty) authorization value. But the policy is a part of what the TPM signs and checks, so files cannot be swapped
//! for one another, and a certification tells which name the key has. (TPM 2.0 Library Part 1, section 16, "Names".)
//!
//! Making and loading happen in a salted session, so the TPM's answers are authenticated: nobody on the bus can put a
//! key of theirs in the place of one of ours.

use std::path::PathBuf;
use std::sync::Arc;

use tss_esapi::Context;
use tss_esapi::structures::Public;

use super::link::{Fault, fault};
use super::objects::{Loaded, and_flush};
use super::session::SaltPin;
use super::{blob, convert, templates};
use crate::error::KeystoreError;

/// First line of a file; the rest is as in `blob`.
const MAGIC: &[u8] = b"edgewarden tpm key 1\n";

/// A new key: its public point, and the file for it. Nothing of it stays in the TPM.
pub(super) fn create(context: &mut Context, pin: &SaltPin, name: &str) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let template = templates::resident_key(name)?;
    let created = pin.with_storage(context, |context, session, storage_key| {
        let template = template.clone();
        context
            .execute_with_session(Some(session), |context| {
                context.create(storage_key.handle, template, None, None, None, None)
            })
            .map_err(fault("TPM2_Create"))
    })?;
    if !is_like(&created.out_public, &template) {
        return Err(KeystoreError::Answer("the TPM made another key than it was asked for").into());
    }
    let file = blob::write(MAGIC, &created.out_public, &created.out_private)?;
    Ok((convert::point(&created.out_public)?, file))
}

/// The same key but for the point.
fn is_like(public: &Public, template: &Public) -> bool {
    let (
        Public::Ecc { object_attributes, name_hashing_algorithm, auth_policy, parameters, .. },
        Public::Ecc {
            object_attributes: attributes,
            name_hashing_algorithm: name_algorithm,
            auth_policy: policy,
            parameters: of_template,
            ..
        },
    ) = (public, template)
    else {
        return false;
    };
    object_attributes == attributes
        && name_hashing_algorithm == name_algorithm
        && auth_policy == policy
        && parameters == of_template
}

/// A resident key's file.
pub(super) struct KeyFile {
    pub(super) name: String,
    pub(super) blob: Vec<u8>,
    pub(super) path: PathBuf,
    pub(super) pin: Arc<SaltPin>,
}

impl KeyFile {
    fn corrupted(&self, found: &'static str) -> Fault {
        KeystoreError::Corrupted { path: self.path.clone(), found }.into()
    }

    /// Runs `work` with the key loaded. Neither storage key nor session are: `work` has all other slots.
    pub(super) fn with_key<T>(
        &self,
        context: &mut Context,
        work: impl FnOnce(&mut Context, &Loaded) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (public, private) = blob::read(MAGIC, &self.blob).map_err(|found| self.corrupted(found))?;
        if !is_like(&public, &templates::resident_key(&self.name)?) {
            return Err(self.corrupted("the key of another name, or of another kind"));
        }
        let mut loaded = None;
        let storage = self.pin.with_storage(context, |context, session, storage_key| {
            let of_file = public.clone();
            let handle = context
                .execute_with_session(Some(session), |context| {
                    context.load(storage_key.handle, private, of_file)
                })
                .map_err(fault("TPM2_Load"))
                .map_err(|fault| {
                    let corrupted = |found| self.corrupted(found);
                    blob::refused(fault, &corrupted, "been made by another TPM, or been changed")
                })?;
            loaded = Some(handle);
            Ok(())
        });
        let Some(handle) = loaded else {
            // Without a handle it is the error that says why.
            return storage.and(Err(KeystoreError::Answer("TPM2_Load gave no key").into()));
        };
        let key = Loaded { handle, public };
        // Flushed also when the storage key or the session could not be.
        and_flush(context, handle.into(), |context| {
            storage?;
            work(context, &key)
        })
    }
}
