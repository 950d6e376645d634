//! The gateway CA's key in a TLS handshake with an EST server: the key is `identityd`'s, and so is what it signs.
//!
//! rustls says what to sign; of that only the transcript's hash goes to `identityd`, which builds the rest anew. What is
//! not a TLS 1.3 client's CertificateVerify (RFC 8446 section 4.4.3) is not asked for.

use std::sync::Arc;

use edgewarden_ca::{CaSigner, SignError};
use edgewarden_protocol::ask::{self, Ask as _, NoAnswer};
use edgewarden_protocol::control::questions::Est;
use edgewarden_protocol::est::questions::Handshake;

use crate::context::Context;
use crate::identity::CallError;

/// 64 spaces, the context string and a zero byte.
const BEFORE_HASH: usize = 64 + CONTEXT.len() + 1;
const CONTEXT: &[u8] = b"TLS 1.3, client CertificateVerify";

/// Asked in a thread of its own: rustls calls it in the midst of a handshake, on a thread that drives one.
pub struct HandshakeKey {
    pub context: Arc<Context>,
    /// Uncompressed P-256 point.
    pub point: Vec<u8>,
}

impl CaSigner for HandshakeKey {
    fn public_point(&self) -> Result<Vec<u8>, SignError> {
        Ok(self.point.clone())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let hash = transcript_hash(message).ok_or_else(|| {
            SignError::new(std::io::Error::other("not a CertificateVerify of a TLS 1.3 client"))
        })?;
        let question = Est(Box::new(Handshake { transcript_hash: hash.into() }.into_request()));
        let asked = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    // A connection of its own: the daemon's belongs to the daemon's runtime.
                    let client = crate::identity::Client::new(&self.context.layout);
                    runtime.block_on(client.call(question)).map_err(std::io::Error::other)
                })
                .join()
                .unwrap_or_else(|_| Err(std::io::Error::other("the thread that asks identityd ended")))
        });
        let signature = ask::answer::<Handshake>(*asked.map_err(SignError::new)?);
        signature.map(|signature| signature.0).map_err(|none| {
            SignError::new(match none {
                NoAnswer::Refused(failure) => CallError::Refused(failure.refusal),
                NoAnswer::Other(_) => CallError::Unexpected,
            })
        })
    }
}

fn transcript_hash(message: &[u8]) -> Option<&[u8]> {
    let (before, hash) = message.split_at_checked(BEFORE_HASH)?;
    let (spaces, rest) = before.split_at_checked(64)?;
    let is_ours = spaces.iter().all(|byte| *byte == b' ') && rest.strip_prefix(CONTEXT) == Some(&[0]);
    (is_ours && matches!(hash.len(), 32 | 48)).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clients_certificate_verify_has_a_hash_to_sign() {
        let message = |context: &[u8], hash: usize| [&[b' '; 64][..], context, &[0], &vec![7; hash]].concat();
        assert_eq!(transcript_hash(&message(CONTEXT, 32)), Some(&[7; 32][..]));
        assert_eq!(transcript_hash(&message(CONTEXT, 48)), Some(&[7; 48][..]));
        for bad in [
            Vec::new(),
            message(b"TLS 1.3, server CertificateVerify", 32),
            message(CONTEXT, 31),
            message(CONTEXT, 33),
            message(CONTEXT, 64),
            message(b"TLS 1.3, client CertificateVerif", 32),
            vec![0x30; 200],
            [b"x", &message(CONTEXT, 32)[1..]].concat(),
        ] {
            assert_eq!(transcript_hash(&bad), None, "{}", String::from_utf8_lossy(&bad));
        }
    }
}
