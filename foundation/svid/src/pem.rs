//! PEM (RFC 7468) of certificates and of one private key, which is wiped from memory.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Characters in one line of base64 (RFC 7468 section 2).
const LINE: usize = 64;

/// One block after the other, in the order given.
pub fn certificates(all_der: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for der in all_der {
        append(&mut text, "CERTIFICATE", &STANDARD.encode(der));
    }
    text
}

/// A PKCS#8 key that is not encrypted.
pub fn private_key(pkcs8_der: &[u8]) -> Zeroizing<String> {
    // Room for all, at once: what a growing buffer leaves behind would not be wiped.
    let room = pkcs8_der.len().saturating_mul(2).saturating_add(128);
    let mut body = Zeroizing::new(String::with_capacity(room));
    STANDARD.encode_string(pkcs8_der, &mut body);
    let mut text = Zeroizing::new(String::with_capacity(room));
    append(&mut text, "PRIVATE KEY", &body);
    text
}

fn append(text: &mut String, label: &str, body: &str) {
    for part in ["-----BEGIN ", label, "-----\n"] {
        text.push_str(part);
    }
    let mut rest = body;
    while !rest.is_empty() {
        let (line, more) = rest.split_at_checked(LINE).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    for part in ["-----END ", label, "-----\n"] {
        text.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_lines_of_64_characters() {
        let one = certificates(&[vec![0; 48]]);
        assert_eq!(
            one,
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", "A".repeat(64))
        );
        let two = certificates(&[vec![0; 48], vec![0; 51]]);
        assert!(two.starts_with(&one));
        assert!(two.ends_with("\nAAAA\n-----END CERTIFICATE-----\n"));
        assert_eq!(certificates(&[]), "");
    }

    #[test]
    fn a_key_is_written_without_growing() {
        for length in [0, 1, 47, 48, 121, 138, 5000] {
            let text = private_key(&vec![7; length]);
            assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\n"));
            assert!(text.ends_with("-----END PRIVATE KEY-----\n"));
            assert!(text.len() <= length * 2 + 128, "{length}");
        }
    }
}
