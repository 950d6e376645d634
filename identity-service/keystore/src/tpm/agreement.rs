//! The key that secrets for this gateway are encrypted to: a primary for ECDH only (TPM 2.0 Library Part 3,
//! TPM2_ECDH_ZGen).
//!
//! All of it goes through a salted session. The shared secret is what the encryption of other secrets rests on, so it
//! crosses the bus encrypted; and the public key comes back authenticated, for who could put in one of their own would
//! get every secret that is meant for this gateway.

use tss_esapi::Context;
use tss_esapi::structures::{EccParameter, EccPoint};
use zeroize::Zeroizing;

use super::link::{Fault, fault};
use super::objects::{Loaded, and_flush};
use super::session::SaltPin;
use super::{convert, templates};
use crate::ecdsa::NUMBER_BYTES;
use crate::error::KeystoreError;
use tss_esapi::interface_types::session_handles::AuthSession;

fn with_key<T>(
    context: &mut Context,
    pin: &SaltPin,
    work: impl FnOnce(&mut Context, AuthSession, &Loaded) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let template = templates::agreement_key()?;
    pin.with_session(context, |context, session| {
        let created = context
            .execute_with_session(Some(session), |context| {
                context.create_primary(templates::OWNER, template, None, None, None, None)
            })
            .map_err(fault("TPM2_CreatePrimary"))?;
        let key = Loaded { handle: created.key_handle, public: created.out_public };
        and_flush(context, key.handle.into(), |context| work(context, session, &key))
    })
}

pub(super) fn public(context: &mut Context, pin: &SaltPin) -> Result<Vec<u8>, Fault> {
    with_key(context, pin, |_, _, key| convert::point(&key.public))
}

/// `peer` is an uncompressed point of the curve: the facade has checked it, and the TPM checks it again.
pub(super) fn agree(context: &mut Context, pin: &SaltPin, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let wrong = fault("TPM2_ECDH_ZGen");
    let no_point = || KeystoreError::Request("the peer's key is not a P-256 point");
    let (x, y) = peer
        .strip_prefix(&[4])
        .and_then(|coordinates| coordinates.split_at_checked(NUMBER_BYTES))
        .ok_or_else(no_point)?;
    let parameter = |bytes: &[u8]| EccParameter::try_from(bytes).map_err(&wrong);
    let peer = EccPoint::new(parameter(x)?, parameter(y)?);
    with_key(context, pin, |context, session, key| {
        let shared = context
            .execute_with_session(Some(session), |context| context.ecdh_z_gen(key.handle, peer))
            .map_err(&wrong)?;
        Ok(Zeroizing::new(convert::padded(shared.x().value())?))
    })
}
