//! Attributes that the CA wants in a request (CsrAttrs: RFC 7030 section 4.5.2, RFC 8951 section 3.4).
//!
//! Distrusts every byte. What we do not know is ignored, as the RFC demands, and reported; what we know and cannot do
//! is refused before a key signs anything: another kind of key, another signature, proof-of-possession linking.
//!
//! Linking (RFC 7030 section 3.5) puts `tls-unique` of the connection into the request. TLS 1.3 has no `tls-unique`
//! (RFC 8446 appendix C.5), and this client speaks nothing older; `tls-exporter` (RFC 9266) is not in RFC 7030.

use edgewarden_names::{Reason, Refusal};

use crate::der::{Malformed, OID, Reader, SEQUENCE, SET, oid_text};

/// Longest list that is read.
pub const ATTRIBUTES_BYTES_MAX: usize = 16 * 1024;
/// Most attributes in a list, and most values of an attribute.
pub const ATTRIBUTES_MAX: usize = 64;

/// Demand that an object identifier makes of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Demand {
    /// Our requests always have it.
    Met,
    /// id-ecPublicKey: its values are curves.
    EllipticKey,
    /// extensionRequest: its values are extensions.
    Extensions,
    OtherKey,
    Signature,
    OtherSignature,
    Linking,
}

const ID_EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// Everything that we know; the rest is ignored.
const KNOWN: &[(&[u8], Demand)] = &[
    (ID_EC_PUBLIC_KEY, Demand::EllipticKey),
    // rsaEncryption, RSASSA-PSS, Ed25519, Ed448
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01], Demand::OtherKey),
    (&[0x2b, 0x65, 0x70], Demand::OtherKey),
    (&[0x2b, 0x65, 0x71], Demand::OtherKey),
    // ecdsa-with-SHA256, SHA-256
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02], Demand::Signature),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01], Demand::Signature),
    // ecdsa-with-SHA384, -SHA512; SHA-384, SHA-512
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03], Demand::OtherSignature),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04], Demand::OtherSignature),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02], Demand::OtherSignature),
    (&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03], Demand::OtherSignature),
    // sha256-, sha384-, sha512WithRSAEncryption, RSASSA-PSS
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b], Demand::OtherSignature),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c], Demand::OtherSignature),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d], Demand::OtherSignature),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a], Demand::OtherSignature),
    // challengePassword
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x07], Demand::Linking),
    // extensionRequest
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e], Demand::Extensions),
    // subjectAltName, keyUsage, basicConstraints, extKeyUsage
    (&[0x55, 0x1d, 0x11], Demand::Met),
    (&[0x55, 0x1d, 0x0f], Demand::Met),
    (&[0x55, 0x1d, 0x13], Demand::Met),
    (&[0x55, 0x1d, 0x25], Demand::Met),
];

fn demand(oid: &[u8]) -> Option<Demand> {
    KNOWN.iter().find(|(known, _)| *known == oid).map(|(_, demand)| *demand)
}

/// A CA's wishes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CsrAttributes {
    key_met: bool,
    other_key: Option<String>,
    signature_met: bool,
    other_signature: Option<String>,
    linking: bool,
    ignored: Vec<String>,
}

impl CsrAttributes {
    /// Reads a DER CsrAttrs. No bytes at all are no wishes.
    pub fn parse(der: &[u8]) -> Result<Self, Refusal> {
        let mut attributes = Self::default();
        if der.is_empty() {
            return Ok(attributes);
        }
        let malformed = |Malformed(what)| {
            Refusal::new(Reason::EstAnswer, "csrattrs", format_args!("not CSR attributes: {what}"))
        };
        if der.len() > ATTRIBUTES_BYTES_MAX {
            return Err(malformed(Malformed("too long")));
        }
        attributes.read(der).map_err(malformed)?;
        Ok(attributes)
    }

    fn read(&mut self, der: &[u8]) -> Result<(), Malformed> {
        let mut outside = Reader::new(der);
        let mut list = Reader::new(outside.expect(SEQUENCE, "not a SEQUENCE")?);
        outside.finish("bytes after its end")?;
        let mut count = 0;
        while !list.is_empty() {
            count += 1;
            if count > ATTRIBUTES_MAX {
                return Err(Malformed("too many attributes"));
            }
            let entry = list.any()?;
            match entry.tag {
                OID => self.note(non_empty(entry.content)?, &[]),
                SEQUENCE => {
                    let mut attribute = Reader::new(entry.content);
                    let oid = non_empty(attribute.expect(OID, "an attribute without a type")?)?;
                    let mut set = Reader::new(attribute.expect(SET, "an attribute without values")?);
                    attribute.finish("an attribute has a third part")?;
                    let mut values = Vec::new();
                    while !set.is_empty() {
                        if values.len() == ATTRIBUTES_MAX {
                            return Err(Malformed("too many values"));
                        }
                        let value = set.any()?;
                        values.push((value.tag, value.content));
                    }
                    self.note(oid, &values);
                }
                _ => return Err(Malformed("neither an object identifier nor an attribute")),
            }
        }
        Ok(())
    }

    fn note(&mut self, oid: &[u8], values: &[(u8, &[u8])]) {
        match demand(oid) {
            Some(Demand::Met) => {}
            Some(Demand::EllipticKey) => {
                let mut curves =
                    values.iter().filter(|(tag, _)| *tag == OID).map(|(_, curve)| *curve).peekable();
                if curves.peek().is_none() {
                    self.key_met = true;
                }
                for curve in curves {
                    if curve == PRIME256V1 {
                        self.key_met = true;
                    } else {
                        self.other_key.get_or_insert_with(|| oid_text(curve));
                    }
                }
            }
            Some(Demand::OtherKey) => {
                self.other_key.get_or_insert_with(|| oid_text(oid));
            }
            Some(Demand::Signature) => self.signature_met = true,
            Some(Demand::OtherSignature) => {
                self.other_signature.get_or_insert_with(|| oid_text(oid));
            }
            Some(Demand::Linking) => self.linking = true,
            Some(Demand::Extensions) => {
                // RFC 7030's own example lists object identifiers; later texts put Extensions there.
                for extension in values.iter().flat_map(|(tag, value)| extension_oids(*tag, value)) {
                    if demand(extension) != Some(Demand::Met) {
                        self.ignore(extension);
                    }
                }
            }
            None => self.ignore(oid),
        }
    }

    fn ignore(&mut self, oid: &[u8]) {
        if self.ignored.len() < ATTRIBUTES_MAX {
            self.ignored.push(oid_text(oid));
        }
    }

    /// Refuses what we know that we cannot give. Of several kinds of key or signature, ours is enough.
    pub fn check(&self) -> Result<(), Refusal> {
        let refuse = |rule: String| Err(Refusal::new(Reason::EstAttributes, "csrattrs", rule));
        if self.linking {
            return refuse(
                "the CA wants proof-of-possession linked to TLS, which TLS 1.3 has no tls-unique for".into(),
            );
        }
        match (&self.other_key, &self.other_signature) {
            (Some(key), _) if !self.key_met => {
                refuse(format!("the CA wants a key of kind {key}, ours are P-256"))
            }
            (_, Some(algorithm)) if !self.signature_met => {
                refuse(format!("the CA wants a signature of kind {algorithm}, ours are ECDSA with SHA-256"))
            }
            _ => Ok(()),
        }
    }

    /// Dotted object identifiers that the CA asked for and we do not know.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }
}

fn non_empty(oid: &[u8]) -> Result<&[u8], Malformed> {
    if oid.is_empty() { Err(Malformed("an empty object identifier")) } else { Ok(oid) }
}

/// The extensions that one value of extensionRequest names. What does not read as such names none: values are free.
fn extension_oids(tag: u8, value: &[u8]) -> Vec<&[u8]> {
    if tag == OID {
        return vec![value];
    }
    let mut found = Vec::new();
    let mut reader = Reader::new(value);
    while tag == SEQUENCE && found.len() < ATTRIBUTES_MAX {
        let Ok(extension) = reader.any() else { break };
        if extension.tag == SEQUENCE
            && let Ok(oid) = Reader::new(extension.content).expect(OID, "")
        {
            found.push(oid);
        }
    }
    found
}
