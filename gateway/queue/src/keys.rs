//! Keys for one purpose each, from the storage key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

pub(crate) const TAG_BYTES: usize = 16;

/// The storage key: wiped when dropped, silent in `Debug`.
pub(crate) struct StorageKey(pub(crate) Zeroizing<[u8; 32]>);

impl std::fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StorageKey(..)")
    }
}

impl StorageKey {
    /// The key for one salt and purpose. `purpose` begins with a fixed text and may end with the queue's id.
    pub(crate) fn derive(&self, salt: &[u8], purpose: &[&[u8]]) -> Result<FrameKey, Unspecified> {
        let prk = Salt::new(HKDF_SHA256, salt).extract(self.0.as_slice());
        let okm = prk.expand(purpose, &AES_256_GCM)?;
        Ok(FrameKey(LessSafeKey::new(UnboundKey::from(okm))))
    }
}

/// Seals by a counter that the caller never repeats for one key.
#[derive(Debug)]
pub(crate) struct FrameKey(LessSafeKey);

/// The counter of a tag that stands alone, apart from all frames.
pub(crate) const ALONE: u64 = u64::MAX;

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    for (place, byte) in bytes.iter_mut().skip(4).zip(counter.to_be_bytes()) {
        *place = byte;
    }
    Nonce::assume_unique_for_key(bytes)
}

impl FrameKey {
    /// Encrypts in place and returns the tag.
    pub(crate) fn seal(
        &self,
        counter: u64,
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], Unspecified> {
        let tag = self.0.seal_in_place_separate_tag(nonce(counter), Aad::from(aad), data)?;
        tag.as_ref().try_into().map_err(|_| Unspecified)
    }

    /// Decrypts ciphertext with its tag behind it; the plaintext is the front of `data`.
    pub(crate) fn open<'a>(
        &self,
        counter: u64,
        aad: &[u8],
        data: &'a mut [u8],
    ) -> Result<&'a mut [u8], Unspecified> {
        self.0.open_in_place(nonce(counter), Aad::from(aad), data)
    }

    /// The tag over `bytes` alone.
    pub(crate) fn tag(&self, bytes: &[u8]) -> Result<[u8; TAG_BYTES], Unspecified> {
        self.seal(ALONE, bytes, &mut [])
    }

    pub(crate) fn check_tag(&self, bytes: &[u8], tag: &[u8; TAG_BYTES]) -> bool {
        self.open(ALONE, bytes, &mut tag.to_owned()).is_ok()
    }
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Unspecified> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes)
}
