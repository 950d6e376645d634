//! Loading, using and flushing keys. A TPM has as few as three slots, so nothing stays loaded between requests.

use tss_esapi::Context;
use tss_esapi::constants::response_code::Tss2ResponseCodeKind;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::handles::{KeyHandle, ObjectHandle};
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Digest, HashcheckTicket, Public, SignatureScheme};
use tss_esapi::tss2_esys::TPMT_TK_HASHCHECK;

use super::convert;
use super::link::{Fault, fault};

/// A key that is loaded.
pub(super) struct Loaded {
    pub(super) handle: KeyHandle,
    pub(super) public: Public,
}

/// Runs `work` and flushes `handle` after it, whatever came of it.
pub(super) fn and_flush<T>(
    context: &mut Context,
    handle: ObjectHandle,
    work: impl FnOnce(&mut Context) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let result = work(context);
    let flushed = flush(context, handle);
    // What went wrong first is what to report.
    let value = result?;
    flushed?;
    Ok(value)
}

fn flush(context: &mut Context, handle: ObjectHandle) -> Result<(), Fault> {
    match context.flush_context(handle) {
        // TPM_RC_HANDLE: it is not in the TPM any more, and its slot is free. A process that started meanwhile swept it.
        Err(tss_esapi::Error::Tss2Error(code)) if code.kind() == Some(Tss2ResponseCodeKind::Handle) => Ok(()),
        other => other.map_err(fault("TPM2_FlushContext")),
    }
}

/// Creates a primary for as long as `work` takes.
pub(super) fn with_primary<T>(
    context: &mut Context,
    hierarchy: Hierarchy,
    template: Public,
    work: impl FnOnce(&mut Context, &Loaded) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let created = context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(hierarchy, template, None, None, None, None)
        })
        .map_err(fault("TPM2_CreatePrimary"))?;
    let key = Loaded { handle: created.key_handle, public: created.out_public };
    and_flush(context, key.handle.into(), |context| work(context, &key))
}

/// Signs a SHA-256 digest; DER.
pub(super) fn sign(context: &mut Context, key: KeyHandle, hash: &[u8]) -> Result<Vec<u8>, Fault> {
    let wrong = fault("TPM2_Sign");
    // The null ticket: the key is not restricted, so it signs a digest that the TPM did not make.
    let ticket = HashcheckTicket::try_from(TPMT_TK_HASHCHECK {
        tag: TPM2_ST_HASHCHECK,
        hierarchy: TPM2_RH_NULL,
        digest: tss_esapi::tss2_esys::TPM2B_DIGEST::default(),
    })
    .map_err(&wrong)?;
    let hash = Digest::try_from(hash).map_err(&wrong)?;
    let signature = context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.sign(key, hash, SignatureScheme::Null, ticket)
        })
        .map_err(&wrong)?;
    Ok(convert::signature_der(&signature)?)
}
