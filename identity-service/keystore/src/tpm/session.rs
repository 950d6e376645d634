//! Salted sessions, which keep what crosses the TPM's bus from whoever sits on it.
//!
//! The session key comes from a secret encrypted to the storage key (TPM 2.0 Library Part 1, "Salted Session").
//! An interposer could offer a key of its own in its place, so the storage key is pinned when a TPM is first used
//! with a state folder. That also tells another TPM, or a cleared one, from the right one.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_platform::durable;
use tss_esapi::Context;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::SessionHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::SymmetricDefinition;

use super::link::{Fault, fault};
use super::objects::{Loaded, and_flush, with_primary};
use super::{convert, templates};
use crate::error::KeystoreError;

/// A SHA-256 in hexadecimal.
const PIN_BYTES: usize = 64;

/// Mark of the right storage key.
pub(super) struct SaltPin {
    path: PathBuf,
}

impl SaltPin {
    pub(super) fn new(state: &Path) -> Self {
        Self { path: state.join("tpm-storage-key") }
    }

    /// Pins the TPM's storage key if none is pinned yet, else compares.
    pub(super) fn establish(&self, context: &mut Context) -> Result<(), Fault> {
        with_primary(context, templates::OWNER, templates::storage_key()?, |_, key| {
            if self.read()?.is_none() {
                let pin = fingerprint(key)?;
                durable::write(&self.path, pin.as_bytes(), 0o600)
                    .map_err(|source| KeystoreError::File { path: self.path.clone(), source })?;
            }
            self.check(key)
        })
    }

    fn read(&self) -> Result<Option<Vec<u8>>, KeystoreError> {
        durable::read(&self.path, PIN_BYTES)
            .map_err(|source| KeystoreError::File { path: self.path.clone(), source })
    }

    fn check(&self, key: &Loaded) -> Result<(), Fault> {
        let pinned = self.read()?;
        if pinned.as_ref().is_none_or(|pinned| pinned.len() != PIN_BYTES) {
            return Err(
                KeystoreError::Corrupted { path: self.path.clone(), found: "not 64 characters" }.into()
            );
        }
        if pinned.as_deref() == Some(fingerprint(key)?.as_bytes()) {
            Ok(())
        } else {
            Err(KeystoreError::OtherTpm { path: self.path.clone() }.into())
        }
    }

    /// Starts a session salted with `storage_key` that encrypts the first parameter of commands and responses.
    fn start(&self, context: &mut Context, storage_key: &Loaded) -> Result<AuthSession, Fault> {
        self.check(storage_key)?;
        let session = context
            .start_auth_session(
                Some(storage_key.handle),
                None,
                None,
                SessionType::Hmac,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .map_err(fault("TPM2_StartAuthSession"))?
            .ok_or(KeystoreError::Answer("TPM2_StartAuthSession gave no session"))?;
        let (attributes, mask) =
            SessionAttributesBuilder::new().with_decrypt(true).with_encrypt(true).build();
        if let Err(error) = context.tr_sess_set_attributes(session, attributes, mask) {
            let _ = context.flush_context(SessionHandle::from(session).into());
            return Err(fault("set session attributes")(error));
        }
        Ok(session)
    }

    /// Runs `work` with a salted session and the storage key.
    pub(super) fn with_storage<T>(
        &self,
        context: &mut Context,
        work: impl FnOnce(&mut Context, AuthSession, &Loaded) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        with_primary(context, templates::OWNER, templates::storage_key()?, |context, key| {
            let session = self.start(context, key)?;
            and_flush(context, SessionHandle::from(session).into(), |context| work(context, session, key))
        })
    }

    /// Runs `work` with a salted session; no key is loaded, so that `work` has all slots.
    pub(super) fn with_session<T>(
        &self,
        context: &mut Context,
        work: impl FnOnce(&mut Context, AuthSession) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let template = templates::storage_key()?;
        let session =
            with_primary(context, templates::OWNER, template, |context, key| self.start(context, key))?;
        and_flush(context, SessionHandle::from(session).into(), |context| work(context, session))
    }
}

fn fingerprint(key: &Loaded) -> Result<String, Fault> {
    let bytes = convert::public_bytes(&key.public)?;
    Ok(hex::encode(digest(&SHA256, &bytes)))
}
