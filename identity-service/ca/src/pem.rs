//! PEM (RFC 7468), strict: nothing before, between or after the blocks but white space.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::CaError;

pub const CERTIFICATE: &str = "CERTIFICATE";
pub const PUBLIC_KEY: &str = "PUBLIC KEY";
/// PKCS#8, not encrypted.
pub const PRIVATE_KEY: &str = "PRIVATE KEY";
pub const CERTIFICATE_REQUEST: &str = "CERTIFICATE REQUEST";

/// Longest text that is read.
const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Most blocks in one text.
const BLOCKS_MAX: usize = 32;

/// PEM (RFC 7468), 64 characters a line.
pub fn encode(label: &str, der: &[u8]) -> String {
    let mut lines = vec![format!("-----BEGIN {label}-----")];
    let body = STANDARD.encode(der);
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at_checked(64).unwrap_or((rest, ""));
        lines.push(line.to_owned());
        rest = more;
    }
    lines.push(format!("-----END {label}-----\n"));
    lines.join("\n")
}

/// The same for what is secret: nothing of it is left behind.
pub fn encode_secret(label: &str, der: &[u8]) -> zeroize::Zeroizing<String> {
    let mut body =
        zeroize::Zeroizing::new(String::with_capacity(der.len().saturating_mul(2).saturating_add(4)));
    STANDARD.encode_string(der, &mut body);
    // A buffer that grows leaves its contents behind.
    let size = body.len().saturating_mul(2).saturating_add(label.len().saturating_mul(2)).saturating_add(64);
    let mut text = zeroize::Zeroizing::new(String::with_capacity(size));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The contents of all blocks, each of which must have the label.
pub fn all(text: &str, label: &str) -> Result<Vec<Vec<u8>>, CaError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(CaError::Pem("too long"));
    }
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut blocks = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if blocks.len() == BLOCKS_MAX {
            return Err(CaError::Pem("too many blocks"));
        }
        let body = rest.strip_prefix(&begin).ok_or(CaError::Pem("a block does not begin as it should"))?;
        let (body, after) = body.split_once(&end).ok_or(CaError::Pem("a block does not end"))?;
        let mut packed = zeroize::Zeroizing::new(String::with_capacity(body.len()));
        packed.extend(body.chars().filter(|c| !c.is_ascii_whitespace()));
        blocks.push(STANDARD.decode(packed.as_bytes()).map_err(|_| CaError::Pem("the body is not base64"))?);
        rest = after.trim_start();
    }
    if blocks.is_empty() { Err(CaError::Pem("empty")) } else { Ok(blocks) }
}

/// The contents of the one block.
pub fn one(text: &str, label: &str) -> Result<Vec<u8>, CaError> {
    let mut blocks = all(text, label)?;
    match (blocks.pop(), blocks.is_empty()) {
        (Some(block), true) => Ok(block),
        _ => Err(CaError::Pem("more than one block")),
    }
}

/// Certificates one after the other, as `openssl` and configuration files have them.
pub fn chain(certificates: &[Vec<u8>]) -> String {
    certificates.iter().map(|der| encode(CERTIFICATE, der)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_or_not_it_is_written_alike() {
        for size in [0, 1, 47, 48, 49, 96, 97, 138] {
            let der = vec![7; size];
            assert_eq!(*encode_secret(PRIVATE_KEY, &der), encode(PRIVATE_KEY, &der), "{size}");
        }
    }
}
