//! Encryption to the public key of a key that stays where it is: HPKE (RFC 9180) in base mode, one message a context.
//!
//! * [`seal`]: to a P-256 point, with a fresh ephemeral key · [`open`]: with the caller's own ECDH, such as a TPM's
//!
//! Suite: DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM (RFC 9180 section 7: 0x0010, 0x0001, 0x0002).
//!
//! Trusts the caller for the authenticity of the recipient's point. Distrusts every byte of what is opened. Base mode
//! does not say who sealed: a signature around the whole does.

mod hpke;
mod schedule;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use zeroize::Zeroizing;

use hpke::SUITE;
pub use hpke::TAG_BYTES;

/// An uncompressed P-256 point (SEC 1 section 2.3.3).
pub const POINT_BYTES: usize = 65;
/// The x coordinate of a P-256 point: what ECDH yields.
pub const SHARED_BYTES: usize = 32;
/// Longest plaintext.
pub const PLAINTEXT_BYTES_MAX: usize = 64 * 1024;
/// Longest `info` and longest associated data.
pub const CONTEXT_BYTES_MAX: usize = 4096;

/// A ciphertext that only the holder of the recipient's key can open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The ephemeral public point, `enc` in RFC 9180.
    pub encapsulated: Vec<u8>,
    /// Ciphertext and tag.
    pub ciphertext: Vec<u8>,
}

/// Error of sealing: an input out of bounds, or the library's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the recipient's key is not an uncompressed P-256 point")]
    Recipient,
    #[error("the plaintext is longer than {PLAINTEXT_BYTES_MAX} bytes")]
    Plaintext,
    #[error("the context is longer than {CONTEXT_BYTES_MAX} bytes")]
    Context,
    #[error("the cryptographic library failed")]
    Failed,
}

/// `E` is the error of the caller's ECDH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError<E> {
    /// Altered, for another key, or for another context: which one cannot be told.
    #[error("it does not open with this key and this context")]
    Opaque,
    #[error("it is not of the form of a sealed message")]
    Malformed,
    /// Says nothing about the message: try again.
    #[error("the key agreement failed")]
    Agree(E),
}

/// Seals to a recipient's point. `info` and `associated` must be the same when it is opened.
pub fn seal(recipient: &[u8], info: &[u8], associated: &[u8], plaintext: &[u8]) -> Result<Sealed, SealError> {
    check_point(recipient).ok_or(SealError::Recipient)?;
    if plaintext.len() > PLAINTEXT_BYTES_MAX {
        return Err(SealError::Plaintext);
    }
    if info.len() > CONTEXT_BYTES_MAX || associated.len() > CONTEXT_BYTES_MAX {
        return Err(SealError::Context);
    }
    let ephemeral = PrivateKey::generate(&ECDH_P256).map_err(|_| SealError::Failed)?;
    let encapsulated = ephemeral.compute_public_key().map_err(|_| SealError::Failed)?.as_ref().to_vec();
    let peer = UnparsedPublicKey::new(&ECDH_P256, recipient);
    let shared = agree(&ephemeral, peer, SealError::Recipient, |x| Ok(Zeroizing::new(x.to_vec())))?;
    let context = SUITE.context(&shared, &encapsulated, recipient, info).ok_or(SealError::Failed)?;
    let ciphertext = context.seal(associated, plaintext).ok_or(SealError::Failed)?;
    Ok(Sealed { encapsulated, ciphertext })
}

/// Opens what was sealed to `own`. `agree` is ECDH of the key of that point with the point that it is given: the x
/// coordinate. The point has the right form; whether it is on the curve is for `agree` to check, as it must.
pub fn open<E>(
    sealed: &Sealed,
    own: &[u8],
    info: &[u8],
    associated: &[u8],
    agree: impl FnOnce(&[u8]) -> Result<Zeroizing<Vec<u8>>, E>,
) -> Result<Zeroizing<Vec<u8>>, OpenError<E>> {
    check_point(&sealed.encapsulated).ok_or(OpenError::Malformed)?;
    check_point(own).ok_or(OpenError::Malformed)?;
    let length = sealed.ciphertext.len().checked_sub(TAG_BYTES).ok_or(OpenError::Malformed)?;
    if length > PLAINTEXT_BYTES_MAX || info.len() > CONTEXT_BYTES_MAX || associated.len() > CONTEXT_BYTES_MAX
    {
        return Err(OpenError::Malformed);
    }
    let shared = agree(&sealed.encapsulated).map_err(OpenError::Agree)?;
    if shared.len() != SHARED_BYTES {
        return Err(OpenError::Malformed);
    }
    let context = SUITE.context(&shared, &sealed.encapsulated, own, info).ok_or(OpenError::Opaque)?;
    context.open(associated, &sealed.ciphertext).ok_or(OpenError::Opaque)
}

fn check_point(point: &[u8]) -> Option<()> {
    (point.len() == POINT_BYTES && point.first() == Some(&4)).then_some(())
}
