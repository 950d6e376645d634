//! A degenerate CMS SignedData that only carries certificates (RFC 5652 sections 5.1 and 10.2.3; RFC 7030 section
//! 4.1.3). It is not signed: nothing in it is to be believed before [`crate::chain`] has found a path to an anchor.
//!
//! ```text
//! ContentInfo  ::= SEQUENCE { id-signedData, [0] EXPLICIT SignedData }
//! SignedData   ::= SEQUENCE { version, digestAlgorithms SET, SEQUENCE { id-data }, [0] certificates, [1] crls?,
//!                             signerInfos SET (empty) }
//! ```
//!
//! DER only. Revocation lists are skipped. A signature or an enclosed content makes it another message, which is refused.

use edgewarden_ca::CERTIFICATE_BYTES_MAX;

use crate::der::{CONTEXT_0, CONTEXT_1, INTEGER, Malformed, OID, Reader, SEQUENCE, SET};

/// Longest message that is read.
pub const MESSAGE_BYTES_MAX: usize = 192 * 1024;
/// Most certificates in a message: roots, their key updates (RFC 7030 section 4.1.3) and what lies beneath.
pub const CERTIFICATES_MAX: usize = 32;

const ID_DATA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const ID_SIGNED_DATA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// Fault of a message that is no certs-only CMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a certs-only CMS message: {0}")]
pub struct CertsOnlyError(&'static str);

impl From<Malformed> for CertsOnlyError {
    fn from(Malformed(what): Malformed) -> Self {
        Self(what)
    }
}

/// The certificates of a message, in its order, each as DER. There is at least one.
pub fn parse(der: &[u8]) -> Result<Vec<&[u8]>, CertsOnlyError> {
    if der.len() > MESSAGE_BYTES_MAX {
        return Err(CertsOnlyError("too long"));
    }
    let mut outside = Reader::new(der);
    let mut info = Reader::new(outside.expect(SEQUENCE, "not a ContentInfo")?);
    outside.finish("bytes after its end")?;
    if info.expect(OID, "not a ContentInfo")? != ID_SIGNED_DATA {
        return Err(CertsOnlyError("not a SignedData"));
    }
    let mut explicit = Reader::new(info.expect(CONTEXT_0, "the ContentInfo has no content")?);
    info.finish("the ContentInfo has a third part")?;
    let mut signed = Reader::new(explicit.expect(SEQUENCE, "the SignedData is not a SEQUENCE")?);
    explicit.finish("something follows the SignedData")?;

    let version = signed.expect(INTEGER, "the SignedData has no version")?;
    if !matches!(version, [1 | 3..=5]) {
        return Err(CertsOnlyError("a version of SignedData that there is not"));
    }
    // Of no consequence without a signature.
    signed.expect(SET, "the SignedData has no digestAlgorithms")?;
    let mut content = Reader::new(signed.expect(SEQUENCE, "the SignedData has no encapContentInfo")?);
    if content.expect(OID, "the encapsulated content has no type")? != ID_DATA {
        return Err(CertsOnlyError("the encapsulated content is not of type data"));
    }
    content.finish("it encloses a content, so it is not degenerate")?;
    let certificates = signed.optional(CONTEXT_0)?.ok_or(CertsOnlyError("no certificates"))?;
    signed.optional(CONTEXT_1)?;
    if !signed.expect(SET, "the SignedData has no signerInfos")?.is_empty() {
        return Err(CertsOnlyError("it is signed, so it is not degenerate"));
    }
    signed.finish("something follows the signerInfos")?;
    list(certificates)
}

fn list(content: &[u8]) -> Result<Vec<&[u8]>, CertsOnlyError> {
    let mut reader = Reader::new(content);
    let mut certificates = Vec::new();
    while !reader.is_empty() {
        if certificates.len() == CERTIFICATES_MAX {
            return Err(CertsOnlyError("too many certificates"));
        }
        let certificate = reader.any()?;
        if certificate.tag != SEQUENCE {
            // PKCS#6 extended and attribute certificates (RFC 5652 section 10.2.2).
            return Err(CertsOnlyError("a certificate that is not an X.509 certificate"));
        }
        if certificate.whole.len() > CERTIFICATE_BYTES_MAX {
            return Err(CertsOnlyError("a certificate is too long"));
        }
        certificates.push(certificate.whole);
    }
    if certificates.is_empty() { Err(CertsOnlyError("no certificates")) } else { Ok(certificates) }
}
