//! Files of vendors' certificates as makers publish them: PEM with any text around the blocks, DER, several DER
//! certificates in a row, PKCS #7 (`.p7b`).
//!
//! A part that cannot be used is named and left out; the others are taken. Reading is linear in the file's size.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::certificate::Certificate;
use super::name::{printable, shown};
use super::signature::{self, SignatureFault};
use edgewarden_names::sha256;

/// Largest file. The collections of all makers together have some 2000 certificates.
pub const BUNDLE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most certificates in one file.
pub const BUNDLE_CERTIFICATES_MAX: usize = 8192;
/// Refused parts that are named; the others are counted.
const REFUSED_MAX: usize = 64;

/// `signedData` (RFC 2315), as content octets.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
/// `[0]`, constructed.
const TAGGED_0: u8 = 0xa0;

/// Lenient about what does not change the bytes: padding, and bits after the last byte.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Contents of a file of vendors' certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VendorBundle {
    /// Each once.
    pub certificates: Vec<VendorCertificate>,
    /// The first parts that were left out, each with the reason.
    pub refused: Vec<RefusedPart>,
    /// Further parts that were left out.
    pub refused_more: usize,
}

/// The certificate of an authority that may vouch for TPMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VendorCertificate {
    pub der: Vec<u8>,
    pub subject: String,
    /// Self-signed: trusted of itself. Any other helps to reach a root.
    pub is_root: bool,
}

/// A part of a file that is no certificate of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedPart {
    /// Place in the file, `block 3 (line 57)`.
    pub place: String,
    pub why: String,
}

/// Error of a file that gives no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VendorBundleError {
    #[error("it has over {BUNDLE_BYTES_MAX} bytes; split it")]
    Bytes,
    #[error("it has over {BUNDLE_CERTIFICATES_MAX} certificates; split it")]
    Certificates,
    #[error("it is neither PEM nor DER nor PKCS #7")]
    Format,
    #[error("no certificate in it can be used; {place}: {why}")]
    Nothing { place: String, why: String },
    #[error("it is empty")]
    Empty,
}

impl VendorBundle {
    /// Reads PEM, DER or PKCS #7 of at most [`BUNDLE_BYTES_MAX`] bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, VendorBundleError> {
        if bytes.len() > BUNDLE_BYTES_MAX {
            return Err(VendorBundleError::Bytes);
        }
        let mut reader = Reader::default();
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if is_der(bytes) {
            reader.der(bytes)?;
        } else if is_pem(text) {
            reader.pem(text)?;
        } else if bytes.trim_ascii().is_empty() {
            return Err(VendorBundleError::Empty);
        } else {
            return Err(VendorBundleError::Format);
        }
        let bundle = reader.bundle;
        match bundle.refused.first() {
            Some(RefusedPart { place, why }) if bundle.certificates.is_empty() => {
                Err(VendorBundleError::Nothing { place: place.clone(), why: why.clone() })
            }
            None if bundle.certificates.is_empty() => Err(VendorBundleError::Empty),
            _ => Ok(bundle),
        }
    }
}

#[derive(Debug, Default)]
struct Reader {
    bundle: VendorBundle,
    seen: HashSet<[u8; 32]>,
}

impl Reader {
    fn refuse(&mut self, place: &str, why: impl Into<String>) {
        if self.bundle.refused.len() < REFUSED_MAX {
            self.bundle.refused.push(RefusedPart { place: place.to_owned(), why: why.into() });
        } else {
            self.bundle.refused_more = self.bundle.refused_more.saturating_add(1);
        }
    }

    fn pem(&mut self, text: &[u8]) -> Result<(), VendorBundleError> {
        let mut block = 0_usize;
        let mut open: Option<(String, String, Vec<u8>)> = None;
        for (number, line) in (1_usize..).zip(text.split(|&byte| byte == b'\n')) {
            // Files of old systems end their lines with a carriage return alone.
            for line in line.split(|&byte| byte == b'\r').map(<[u8]>::trim_ascii) {
                if let Some(label) = boundary(line, b"-----BEGIN ") {
                    if let Some((place, _, _)) = open.take() {
                        self.refuse(&place, "the block does not end");
                    }
                    block += 1;
                    open = Some((format!("block {block} (line {number})"), label, Vec::new()));
                } else if boundary(line, b"-----END ").is_some() {
                    if let Some((place, label, body)) = open.take() {
                        self.block(&place, &label, &body)?;
                    }
                } else if let Some((_, _, body)) = &mut open
                    && !line.contains(&b':')
                {
                    body.extend_from_slice(line);
                }
            }
        }
        if let Some((place, _, _)) = open {
            self.refuse(&place, "the block does not end");
        }
        Ok(())
    }

    fn block(&mut self, place: &str, label: &str, body: &[u8]) -> Result<(), VendorBundleError> {
        let packed: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        match (label, BASE64.decode(packed)) {
            ("CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE", Ok(der)) => {
                self.certificate(place, &der)
            }
            ("PKCS7" | "CMS", Ok(der)) => self.pkcs7(place, &der),
            ("CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" | "PKCS7" | "CMS", Err(_)) => {
                self.refuse(place, "the block is not base64: it is damaged");
                Ok(())
            }
            _ => {
                self.refuse(place, format!("it is a `{}`, not a certificate", printable(label)));
                Ok(())
            }
        }
    }

    fn der(&mut self, bytes: &[u8]) -> Result<(), VendorBundleError> {
        let mut rest = bytes;
        for number in 1_usize.. {
            let offset = bytes.len() - rest.len();
            let place = format!("certificate {number} (byte {offset})");
            match element(rest) {
                _ if is_padding(rest) => break,
                Some(Element { tag: SEQUENCE, content, whole, after }) => {
                    if element(content).is_some_and(|first| first.tag == OID && first.content == SIGNED_DATA)
                    {
                        self.pkcs7(&place, whole)?;
                    } else {
                        self.certificate(&place, whole)?;
                    }
                    rest = after;
                }
                _ => {
                    // Where the next one begins cannot be known.
                    self.refuse(&place, "what begins here is no DER: the file is damaged or cut");
                    break;
                }
            }
        }
        Ok(())
    }

    /// The certificates of a SignedData (RFC 2315 section 9.1); its signatures, if any, say nothing here.
    fn pkcs7(&mut self, place: &str, der: &[u8]) -> Result<(), VendorBundleError> {
        let Some(certificates) = certificates_of(der) else {
            self.refuse(place, "it is no PKCS #7 file of certificates in DER");
            return Ok(());
        };
        let mut rest = certificates;
        for number in 1_usize.. {
            if rest.is_empty() {
                break;
            }
            let place = format!("{place}, certificate {number}");
            let Some(Element { whole, after, .. }) = element(rest) else {
                self.refuse(&place, "what begins here is no DER: the file is damaged or cut");
                break;
            };
            self.certificate(&place, whole)?;
            rest = after;
        }
        Ok(())
    }

    fn certificate(&mut self, place: &str, der: &[u8]) -> Result<(), VendorBundleError> {
        match parse_authority(der) {
            Ok(certificate) => {
                if self.seen.insert(sha256(&certificate.der)) {
                    if self.bundle.certificates.len() >= BUNDLE_CERTIFICATES_MAX {
                        return Err(VendorBundleError::Certificates);
                    }
                    self.bundle.certificates.push(certificate);
                }
            }
            Err(why) => self.refuse(place, why),
        }
        Ok(())
    }
}

/// The certificate with its kind, root or not; `Err` with the rule that makes it no authority's.
pub(super) fn parse_authority(der: &[u8]) -> Result<VendorCertificate, String> {
    let certificate = Certificate::parse(der).map_err(|fault| fault.text)?;
    let made = |is_root| VendorCertificate {
        der: certificate.der.to_vec(),
        subject: shown(certificate.parsed.subject()),
        is_root,
    };
    // A root of version 1 can say nothing about itself; whoever adds it means it.
    let is_old_root = certificate.is_version_1() && certificate.is_self_issued();
    if !is_old_root {
        certificate.check_authority().map_err(|fault| fault.text)?;
    }
    if !certificate.is_self_issued() {
        return Ok(made(false));
    }
    match signature::check(&certificate, certificate.parsed.public_key()) {
        // Its own signature adds nothing to the trust in a root: those beneath it are checked with its key.
        Ok(()) | Err(SignatureFault::Unsupported(_)) => Ok(made(true)),
        // An authority that changed its key has certified the new one with the old.
        Err(SignatureFault::Wrong) => match (certificate.authority_key(), certificate.subject_key()) {
            (Some(by), Some(own)) if by != own => Ok(made(false)),
            _ => Err(format!("the self-signature of {} is wrong: it is damaged", certificate.called())),
        },
    }
}

/// A sequence of more bytes than a short length can say, which no text begins like.
fn is_der(bytes: &[u8]) -> bool {
    matches!(bytes, [SEQUENCE, 0x80..=0x84, ..])
}

fn is_pem(text: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN ";
    text.windows(BEGIN.len()).any(|window| window == BEGIN)
}

/// The label of a line `-----BEGIN label-----` or `-----END label-----`.
fn boundary(line: &[u8], start: &[u8]) -> Option<String> {
    let label = line.strip_prefix(start)?.strip_suffix(b"-----")?;
    Some(String::from_utf8_lossy(label).into_owned())
}

/// Zeros or ones to the end, as NV memory and block devices leave them; or nothing.
fn is_padding(rest: &[u8]) -> bool {
    matches!(rest.first(), None | Some(0x00 | 0xff))
        && rest.windows(2).all(|pair| matches!(pair, [a, b] if a == b))
        || rest.iter().all(u8::is_ascii_whitespace)
}

/// An element of DER, and the bytes after it.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// Tag, length and content.
    whole: &'a [u8],
    after: &'a [u8],
}

impl<'a> Element<'a> {
    /// The content of an element of this kind.
    fn content_of(self, tag: u8) -> Option<&'a [u8]> {
        (self.tag == tag).then_some(self.content)
    }
}

/// The first element. Definite lengths of up to four bytes only.
fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (size, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (size.iter().fold(0_usize, |length, &byte| (length << 8) | usize::from(byte)), rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    let (whole, _) = bytes.split_at_checked(bytes.len().checked_sub(after.len())?)?;
    Some(Element { tag, content, whole, after })
}

/// ContentInfo { signedData, [0] { SignedData { version, digestAlgorithms, contentInfo, [0] certificates } } }.
fn certificates_of(der: &[u8]) -> Option<&[u8]> {
    let content = element(der)?.content_of(SEQUENCE)?;
    let Element { tag: OID, content: SIGNED_DATA, after: rest, .. } = element(content)? else { return None };
    let explicit = element(rest)?.content_of(TAGGED_0)?;
    let mut fields = element(explicit)?.content_of(SEQUENCE)?;
    for _ in 0..3 {
        fields = element(fields)?.after;
    }
    element(fields)?.content_of(TAGGED_0)
}
