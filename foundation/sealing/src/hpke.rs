//! Key encapsulation, key schedule and the one message of a context (RFC 9180 sections 4.1, 5.1 and 5.2).

use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::schedule::{expand, extract, extract_public};

/// DHKEM(P-256, HKDF-SHA256).
const KEM: u16 = 0x0010;
/// HKDF-SHA256.
const KDF: u16 = 0x0001;
/// Its length, and that of the KEM's shared secret.
const SECRET_BYTES: usize = 32;
/// AES-GCM's tag.
pub const TAG_BYTES: usize = 16;
/// Base mode.
const MODE: u8 = 0x00;

/// The AEAD is the part of a suite that differs between ours and the one of the RFC's vectors.
pub struct Suite {
    aead: &'static Algorithm,
    id: u16,
}

pub const SUITE: Suite = Suite { aead: &AES_256_GCM, id: 0x0002 };

impl Suite {
    fn kem_suite() -> Vec<u8> {
        [b"KEM".as_slice(), &KEM.to_be_bytes()].concat()
    }

    fn hpke_suite(&self) -> Vec<u8> {
        [b"HPKE".as_slice(), &KEM.to_be_bytes(), &KDF.to_be_bytes(), &self.id.to_be_bytes()].concat()
    }

    /// From what ECDH gave (section 4.1, `ExtractAndExpand`) to key and nonce (section 5.1, `KeySchedule`).
    pub fn context(
        &self,
        shared_point: &[u8],
        encapsulated: &[u8],
        recipient: &[u8],
        info: &[u8],
    ) -> Option<Context> {
        let kem = Self::kem_suite();
        let pseudorandom = extract(b"", &kem, b"eae_prk", shared_point);
        let both = [encapsulated, recipient].concat();
        let shared_secret = expand(&pseudorandom, &kem, b"shared_secret", &both, SECRET_BYTES)?;

        let suite = self.hpke_suite();
        let mut context = vec![MODE];
        context.extend(extract_public(&suite, b"psk_id_hash", b""));
        context.extend(extract_public(&suite, b"info_hash", info));
        let secret = extract(&shared_secret, &suite, b"secret", b"");
        let key = expand(&secret, &suite, b"key", &context, self.aead.key_len())?;
        let nonce = expand(&secret, &suite, b"base_nonce", &context, NONCE_LEN)?;
        let nonce = nonce.first_chunk::<NONCE_LEN>().copied()?;
        let key = LessSafeKey::new(UnboundKey::new(self.aead, &key).ok()?);
        Some(Context { key, nonce })
    }
}

/// Good for one message: the nonce is that of sequence number 0, and using it up takes the context.
pub struct Context {
    key: LessSafeKey,
    nonce: [u8; NONCE_LEN],
}

impl Context {
    /// Ciphertext and tag. `None` when the library fails.
    pub fn seal(self, associated: &[u8], plaintext: &[u8]) -> Option<Vec<u8>> {
        // Encrypted in place: room for the tag first, so that no copy of the plaintext is left behind by growing.
        let mut bytes = Vec::with_capacity(plaintext.len().checked_add(TAG_BYTES)?);
        bytes.extend_from_slice(plaintext);
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(associated), &mut bytes).ok()?;
        Some(bytes)
    }

    /// The plaintext. `None` when key, tag or `associated` is another.
    pub fn open(self, associated: &[u8], ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(ciphertext.to_vec());
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        let length = self.key.open_in_place(nonce, Aad::from(associated), &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::aead::AES_128_GCM;
    use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};

    // RFC 9180 appendix A.3.1: base mode, DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, sequence number 0.
    const INFO: &str = "4f6465206f6e2061204772656369616e2055726e";
    const EPHEMERAL: &str = "4995788ef4b9d6132b249ce59a77281493eb39af373d236a1fe415cb0c2d7beb";
    const ENCAPSULATED: &str = "04a92719c6195d5085104f469a8b9814d5838ff72b60501e2c4466e5e67b325ac98536d7b61a1af4b78e5b7f951c0900be863c403ce65c9bfcb9382657222d18c4";
    const RECIPIENT: &str = "04fe8c19ce0905191ebc298a9245792531f26f0cece2460639e8bc39cb7f706a826a779b4cf969b8a0e539c7f62fb3d30ad6aa8f80e30f1d128aafd68a2ce72ea0";
    const RECIPIENT_KEY: &str = "f3ce7fdae57e1a310d87f1ebbde6f328be0a99cdbcadf4d6589cf29de4b8ffd2";
    const SHARED_SECRET: &str = "c0d26aeab536609a572b07695d933b589dcf363ff9d93c93adea537aeabb8cb8";
    const KEY: &str = "868c066ef58aae6dc589b6cfdd18f97e";
    const NONCE: &str = "4e0bc5018beba4bf004cca59";
    const ASSOCIATED: &str = "436f756e742d30";
    const PLAINTEXT: &str = "4265617574792069732074727574682c20747275746820626561757479";
    const CIPHERTEXT: &str =
        "5ad590bb8baa577f8619db35a36311226a896e7342a6d836d8b7bcd2f20b6c7f9076ac232e3ab2523f39513434";

    const VECTOR_SUITE: Suite = Suite { aead: &AES_128_GCM, id: 0x0001 };

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex).unwrap()
    }

    fn ecdh(key: &str, peer: &str) -> Vec<u8> {
        let key = PrivateKey::from_private_key(&ECDH_P256, &bytes(key)).unwrap();
        let peer = UnparsedPublicKey::new(&ECDH_P256, bytes(peer));
        agree(&key, &peer, (), |x| Ok(x.to_vec())).unwrap()
    }

    #[test]
    fn the_vector_of_the_rfc() {
        let shared = ecdh(EPHEMERAL, RECIPIENT);
        assert_eq!(shared, ecdh(RECIPIENT_KEY, ENCAPSULATED));
        let kem = Suite::kem_suite();
        let both = [bytes(ENCAPSULATED), bytes(RECIPIENT)].concat();
        let pseudorandom = extract(b"", &kem, b"eae_prk", &shared);
        let secret = expand(&pseudorandom, &kem, b"shared_secret", &both, SECRET_BYTES).unwrap();
        assert_eq!(hex::encode(&*secret), SHARED_SECRET);

        let context =
            || VECTOR_SUITE.context(&shared, &bytes(ENCAPSULATED), &bytes(RECIPIENT), &bytes(INFO)).unwrap();
        assert_eq!(hex::encode(context().nonce), NONCE);
        let sealed = context().seal(&bytes(ASSOCIATED), &bytes(PLAINTEXT)).unwrap();
        assert_eq!(hex::encode(&sealed), CIPHERTEXT);
        let opened = context().open(&bytes(ASSOCIATED), &bytes(CIPHERTEXT)).unwrap();
        assert_eq!(hex::encode(&*opened), PLAINTEXT);
        // The key itself, by the cipher alone.
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &bytes(KEY)).unwrap());
        let mut again = bytes(PLAINTEXT);
        let nonce = Nonce::try_assume_unique_for_key(&bytes(NONCE)).unwrap();
        key.seal_in_place_append_tag(nonce, Aad::from(bytes(ASSOCIATED)), &mut again).unwrap();
        assert_eq!(hex::encode(again), CIPHERTEXT);
    }

    #[test]
    fn another_suite_is_another_key() {
        let shared = ecdh(EPHEMERAL, RECIPIENT);
        let (enc, recipient, info) = (bytes(ENCAPSULATED), bytes(RECIPIENT), bytes(INFO));
        let ours = SUITE.context(&shared, &enc, &recipient, &info).unwrap();
        let theirs = VECTOR_SUITE.context(&shared, &enc, &recipient, &info).unwrap();
        assert_ne!(ours.nonce, theirs.nonce);
        assert_eq!(ours.key.algorithm(), &AES_256_GCM);
    }
}
