//! Signs the one message of a TLS handshake that needs the gateway CA's key: a renewal shows the certificate that it
//! renews (RFC 7030 section 3.3.2), and the connection is `runtimed`'s.
//!
//! `runtimed` gives a hash and nothing else. What is signed is built here (RFC 8446 section 4.4.3) and begins with 64
//! spaces and the words "TLS 1.3, client CertificateVerify": it is no certificate, no request, no entry of the audit log,
//! and no server's part of a handshake. So whoever has `runtimed` can show the gateway CA's certificate to a TLS server as
//! long as it has `runtimed`, and can have nothing else signed.

use edgewarden_names::{Reason, Refusal};

const CONTEXT: &[u8] = b"TLS 1.3, client CertificateVerify";
/// SHA-256 and SHA-384: the hashes of the TLS 1.3 cipher suites.
const HASH_BYTES: [usize; 2] = [32, 48];

/// The content of a client's CertificateVerify for a transcript with this hash.
pub fn certificate_verify(transcript_hash: &[u8]) -> Result<Vec<u8>, Refusal> {
    if !HASH_BYTES.contains(&transcript_hash.len()) {
        let rule = "a transcript's hash has 32 or 48 bytes (RFC 8446 section 4.4.1)";
        return Err(Refusal::new(Reason::RequestInvalid, "handshake", rule));
    }
    let mut content = vec![b' '; 64];
    content.extend_from_slice(CONTEXT);
    content.push(0);
    content.extend_from_slice(transcript_hash);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 8446 section 4.4.3, with the client's words.
    #[test]
    fn what_is_signed_is_built_as_the_rfc_says() {
        let content = certificate_verify(&[1; 32]).unwrap();
        let expected = format!(
            "{}{}00{}",
            "20".repeat(64),
            "544c5320312e332c20636c69656e7420436572746966696361746556657269667900".trim_end_matches("00"),
            "01".repeat(32)
        );
        assert_eq!(hex::encode(content), expected);
        assert_eq!(certificate_verify(&[1; 48]).unwrap().len(), 64 + 33 + 1 + 48);
    }

    #[test]
    fn anything_but_a_hash_is_refused() {
        for length in [0, 1, 20, 31, 33, 47, 49, 64, 130, 4096] {
            let refusal = certificate_verify(&vec![b' '; length]).unwrap_err();
            assert_eq!(refusal.reason, Reason::RequestInvalid, "{length}");
        }
    }
}
