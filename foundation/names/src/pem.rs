//! PEM (RFC 7468), strict: nothing before, between or after the blocks but white space.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

pub const CERTIFICATE: &str = "CERTIFICATE";
pub const PUBLIC_KEY: &str = "PUBLIC KEY";
/// PKCS#8, not encrypted.
pub const PRIVATE_KEY: &str = "PRIVATE KEY";
pub const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";

/// Longest text that is read.
const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Most blocks in one text.
const BLOCKS_MAX: usize = 32;
/// Bytes in one line of 64 characters (section 2).
const LINE_BYTES: usize = 48;

/// Text that is no PEM, or not as many blocks of the one kind as there should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not valid PEM: {0}")]
pub struct PemError(&'static str);

/// One block, 64 characters a line.
pub fn encode(label: &str, der: &[u8]) -> String {
    // Room for all, at once: what a growing buffer leaves behind of a secret would not be wiped.
    let mut text = String::with_capacity(room(label, der));
    append(&mut text, label, der);
    text
}

/// The same for what is secret: nothing of it is left behind.
pub fn encode_secret(label: &str, der: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(encode(label, der))
}

/// Certificates one after the other, as `openssl` and configuration files have them. Empty for none.
pub fn chain(certificates: &[Vec<u8>]) -> String {
    let mut text = String::with_capacity(
        certificates.iter().map(|der| room(CERTIFICATE, der)).fold(0, usize::saturating_add),
    );
    for der in certificates {
        append(&mut text, CERTIFICATE, der);
    }
    text
}

/// Bytes that [`append`] writes, or a few more.
fn room(label: &str, der: &[u8]) -> usize {
    let body = der.len().div_ceil(LINE_BYTES).saturating_mul(65);
    body.saturating_add(label.len().saturating_mul(2)).saturating_add(32)
}

fn append(text: &mut String, label: &str, der: &[u8]) {
    text.extend(["-----BEGIN ", label, "-----\n"]);
    for line in der.chunks(LINE_BYTES) {
        STANDARD.encode_string(line, text);
        text.push('\n');
    }
    text.extend(["-----END ", label, "-----\n"]);
}

/// The contents of all blocks, each of which must have the label. One at least.
pub fn all(text: &str, label: &str) -> Result<Vec<Vec<u8>>, PemError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(PemError("too long"));
    }
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut blocks = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if blocks.len() == BLOCKS_MAX {
            return Err(PemError("too many blocks"));
        }
        let body = rest.strip_prefix(&begin).ok_or(PemError("a block does not begin as it should"))?;
        let (body, after) = body.split_once(&end).ok_or(PemError("a block does not end"))?;
        let mut packed = Zeroizing::new(String::with_capacity(body.len()));
        packed.extend(body.chars().filter(|c| !c.is_ascii_whitespace()));
        blocks.push(STANDARD.decode(packed.as_bytes()).map_err(|_| PemError("the body is not base64"))?);
        rest = after.trim_start();
    }
    if blocks.is_empty() { Err(PemError("empty")) } else { Ok(blocks) }
}

/// The contents of the one block.
pub fn one(text: &str, label: &str) -> Result<Vec<u8>, PemError> {
    let mut blocks = all(text, label)?;
    match (blocks.pop(), blocks.is_empty()) {
        (Some(block), true) => Ok(block),
        _ => Err(PemError("more than one block")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_lines_of_64_characters() {
        let one = chain(&[vec![0; 48]]);
        assert_eq!(
            one,
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", "A".repeat(64))
        );
        let two = chain(&[vec![0; 48], vec![0; 51]]);
        assert!(two.starts_with(&one));
        assert!(two.ends_with("\nAAAA\n-----END CERTIFICATE-----\n"));
        assert_eq!(chain(&[]), "");
    }

    #[test]
    fn what_is_written_is_read_and_no_buffer_grew() {
        for length in [0, 1, 47, 48, 49, 96, 97, 121, 138, 5000] {
            let der = vec![7; length];
            let text = encode_secret(PRIVATE_KEY, &der);
            assert_eq!(one(&text, PRIVATE_KEY).as_deref(), Ok(&*der), "{length}");
            assert!(text.len() <= room(PRIVATE_KEY, &der), "{length}");
        }
    }
}
