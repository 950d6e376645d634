use std::fmt;

use crate::label::text_type;

/// Error of a text that is no digest; holds its first 100 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is `sha256:` and 64 lower-case hexadecimal digits, not `{}`", .0.escape_debug())]
pub struct DigestError(Box<str>);

/// A SHA-256 digest in OCI notation (OCI image-spec, descriptor, "Digests").
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
// INVARIANT: begins with `PREFIX`.
pub struct Digest(Box<str>);

/// SHA-256 (FIPS 180-4).
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

const PREFIX: &str = "sha256:";

impl Digest {
    /// Parses `sha256:` and 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix(PREFIX).unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.into()))
        } else {
            let shown: String = text.chars().take(100).collect();
            Err(DigestError(shown.into()))
        }
    }

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_sha256(&sha256(bytes))
    }

    /// From the 32 bytes that a SHA-256 function returned.
    pub fn from_sha256(bytes: &[u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", hex::encode(bytes)).into())
    }

    /// The 64 hexadecimal digits without the algorithm.
    pub fn hex(&self) -> &str {
        self.0.split_at(PREFIX.len()).1
    }
}
text_type!(Digest, DigestError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests() {
        let good = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(Digest::parse(&good).unwrap().hex(), "0f".repeat(32));
        assert_eq!(Digest::from_sha256(&[0x0f; 32]).as_str(), good);
        // FIPS 180-4's example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").hex(), abc);
        for bad in [
            String::new(),
            "sha256:".into(),
            format!("sha256:{}", "0F".repeat(32)),
            format!("sha256:{}", "0f".repeat(31)),
            format!("sha256:{}", "0f".repeat(33)),
            format!("sha512:{}", "0f".repeat(64)),
            format!("{good} "),
            format!("sha256:../{}", "0".repeat(61)),
        ] {
            assert!(Digest::parse(&bad).is_err(), "{bad}");
        }
    }
}
