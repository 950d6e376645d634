//! TPM2_MakeCredential in software: a secret that only the TPM with this EK gives back, and only when it also holds
//! the key with this Name (TPM 2.0 Library Part 1, section 24, and annexes B.10 and C.6).

use aws_lc_rs::agreement::{ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents,
};
use edgewarden_evidence::HashAlg;
use edgewarden_evidence::tpm::{Curve, Key, Public, Symmetric};
use edgewarden_protocol::enrol::Credential;
use zeroize::Zeroizing;

use crate::ek::without_leading_zeros;

/// The EK cannot carry a credential: its point is not on the curve, or its algorithms are not of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no credential can be made for this endorsement key")]
pub struct CredentialError;

impl From<Unspecified> for CredentialError {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

/// Makes the credential for `secret` (at most 32 bytes).
pub fn make_credential(ek: &Public, name: &[u8], secret: &[u8]) -> Result<Credential, CredentialError> {
    if secret.len() > HashAlg::Sha256.size() {
        return Err(CredentialError);
    }
    let hash = ek.name_alg;
    let (seed, encrypted_secret) = match &ek.key {
        Key::Rsa { exponent, modulus, .. } if hash == HashAlg::Sha256 => rsa_seed(*exponent, modulus)?,
        Key::Ecc { curve, .. } => ecc_seed(hash, *curve, &ek.point().ok_or(CredentialError)?)?,
        Key::Rsa { .. } => return Err(CredentialError),
    };
    let (Key::Rsa { symmetric, .. } | Key::Ecc { symmetric, .. }) = &ek.key;
    let mut identity = sized(secret);
    encrypt(*symmetric, hash, &seed, name, &mut identity)?;
    let mac_key = kdf_a(hash, &seed, b"INTEGRITY", &[], hash.size())?;
    let mac = mac(hash, &mac_key, &[&identity, name])?;
    // TPMS_ID_OBJECT: the encrypted TPM2B has no size of its own around it.
    let mut id_object = sized(&mac);
    id_object.extend_from_slice(&identity);
    Ok(Credential { id_object: id_object.into(), encrypted_secret: encrypted_secret.into() })
}

type Seed = Zeroizing<Vec<u8>>;

/// A random seed, RSA-OAEP encrypted under the label `IDENTITY` with its terminating zero (annex B.10.4).
fn rsa_seed(exponent: u32, modulus: &[u8]) -> Result<(Seed, Vec<u8>), CredentialError> {
    let exponent = if exponent == 0 { 65537 } else { exponent }.to_be_bytes();
    let components = PublicKeyComponents { n: modulus, e: without_leading_zeros(&exponent) };
    let key: PublicEncryptingKey = components.try_into()?;
    let key = OaepPublicEncryptingKey::new(key)?;
    let mut seed = Zeroizing::new(vec![0; HashAlg::Sha256.size()]);
    aws_lc_rs::rand::fill(&mut seed)?;
    let mut out = vec![0; key.ciphertext_size()];
    let length = key.encrypt(&OAEP_SHA256_MGF1SHA256, &seed, &mut out, Some(b"IDENTITY\0"))?.len();
    out.truncate(length);
    Ok((seed, out))
}

/// A seed from one-pass Diffie-Hellman with a fresh key, which the TPM gets as TPMS_ECC_POINT (annex C.6.4).
fn ecc_seed(hash: HashAlg, curve: Curve, point: &[u8]) -> Result<(Seed, Vec<u8>), CredentialError> {
    let algorithm = match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
    };
    let ephemeral = PrivateKey::generate(algorithm)?;
    let ephemeral_public = ephemeral.compute_public_key()?;
    let (x, y) = coordinates(curve, ephemeral_public.as_ref())?;
    let (ek_x, _) = coordinates(curve, point)?;
    let seed = agree(&ephemeral, UnparsedPublicKey::new(algorithm, point), CredentialError, |z| {
        Ok(kdf_e(hash, z, b"IDENTITY", x, ek_x))
    })?;
    let mut out = sized(x);
    out.extend(sized(y));
    Ok((seed, out))
}

fn coordinates(curve: Curve, point: &[u8]) -> Result<(&[u8], &[u8]), CredentialError> {
    let (&4, xy) = point.split_first().ok_or(CredentialError)? else { return Err(CredentialError) };
    xy.split_at_checked(curve.size()).filter(|(_, y)| y.len() == curve.size()).ok_or(CredentialError)
}

/// AES in CFB mode with an IV of zeros; the key is used once (section 24.4).
fn encrypt(
    symmetric: Symmetric,
    hash: HashAlg,
    seed: &[u8],
    name: &[u8],
    in_out: &mut [u8],
) -> Result<(), CredentialError> {
    let (algorithm, size) = match symmetric {
        Symmetric::Aes128Cfb => (&AES_128, 16),
        Symmetric::Aes256Cfb => (&AES_256, 32),
        Symmetric::Null => return Err(CredentialError),
    };
    let key = kdf_a(hash, seed, b"STORAGE", name, size)?;
    let key = EncryptingKey::cfb128(UnboundCipherKey::new(algorithm, &key)?)?;
    key.less_safe_encrypt(in_out, EncryptionContext::Iv128(FixedLength::from([0; 16])))?;
    Ok(())
}

/// KDFa: SP 800-108 in counter mode with HMAC (Part 1, section 11.4.10.2).
fn kdf_a(
    hash: HashAlg,
    key: &[u8],
    label: &[u8],
    context: &[u8],
    size: usize,
) -> Result<Seed, CredentialError> {
    let bits = u32::try_from(size * 8).map_err(|_| CredentialError)?.to_be_bytes();
    let mut out = Zeroizing::new(Vec::new());
    for counter in 1_u32.. {
        if out.len() >= size {
            break;
        }
        out.extend(mac(hash, key, &[&counter.to_be_bytes(), label, &[0], context, &bits])?);
    }
    out.truncate(size);
    Ok(out)
}

/// KDFe: SP 800-56A, one digest's worth (Part 1, section 11.4.10.3).
fn kdf_e(hash: HashAlg, z: &[u8], label: &[u8], party_u: &[u8], party_v: &[u8]) -> Seed {
    Zeroizing::new(hash.digest(&[&1_u32.to_be_bytes(), z, label, &[0], party_u, party_v]))
}

fn mac(hash: HashAlg, key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>, CredentialError> {
    let algorithm = match hash {
        HashAlg::Sha256 => hmac::HMAC_SHA256,
        HashAlg::Sha384 => hmac::HMAC_SHA384,
        HashAlg::Sha512 => hmac::HMAC_SHA512,
        HashAlg::Sha1 => return Err(CredentialError),
    };
    let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
    for part in parts {
        context.update(part);
    }
    Ok(context.sign().as_ref().to_vec())
}

/// A TPM2B.
#[expect(clippy::expect_used, reason = "secrets, digests and coordinates have at most 64 bytes")]
fn sized(bytes: &[u8]) -> Vec<u8> {
    let size = u16::try_from(bytes.len()).expect("at most 64 bytes");
    let mut out = size.to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}
