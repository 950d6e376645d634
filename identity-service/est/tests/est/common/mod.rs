//! Common parts of the tests: keys, certificates as a site's CA makes them, and a writer of CMS messages that is not
//! the product's.

use std::sync::Arc;

use edgewarden_names::UnixTime;
use edgewarden_testkit::Key;
use edgewarden_testkit::authority::{self, Authority};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SerialNumber};
use time::OffsetDateTime;

pub const NOW: UnixTime = UnixTime(1_900_000_000);
pub const DAY: u64 = 86400;

/// A key in a keystore, for who shares it.
pub fn elsewhere() -> Arc<Key> {
    Arc::new(Key::generate())
}

pub fn date(at: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(at).unwrap()).unwrap()
}

/// A certificate as a test wants it.
#[derive(Debug)]
pub struct Template {
    pub params: CertificateParams,
}

impl Template {
    pub fn leaf(common_name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_before = date(NOW.0 - DAY);
        params.not_after = date(NOW.0 + 30 * DAY);
        params.serial_number = Some(SerialNumber::from_slice(&[9; 16]));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Self { params }
    }

    pub fn ca(common_name: &str, path_length: Option<u8>) -> Self {
        let mut template = Self::leaf(common_name);
        template.params.not_after = date(NOW.0 + 3650 * DAY);
        template.params.is_ca =
            IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
        template.params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        template
    }

    pub fn uri(mut self, uri: &str) -> Self {
        self.params.subject_alt_names.push(authority::uri(uri));
        self
    }

    pub fn valid(mut self, from: u64, to: u64) -> Self {
        (self.params.not_before, self.params.not_after) = (date(from), date(to));
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        change(&mut self.params);
        self
    }
}

impl From<Template> for CertificateParams {
    fn from(template: Template) -> Self {
        template.params
    }
}

/// A root with a P-384 key.
pub fn site_root(common_name: &str) -> Authority {
    site_root_allowing(common_name, None)
}

pub fn site_root_allowing(common_name: &str, path_length: Option<u8>) -> Authority {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    Authority::root_with_key(Template::ca(common_name, path_length), key)
}

/// DER with a definite, minimal length.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    match content.len() {
        short @ 0..=127 => der.push(short.try_into().unwrap()),
        long => {
            let bytes: Vec<u8> = long.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            der.push(0x80 | u8::try_from(bytes.len()).unwrap());
            der.extend(bytes);
        }
    }
    der.extend_from_slice(content);
    der
}

pub const ID_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
pub const ID_SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// The parts of a SignedData, each of which a test may spoil.
#[derive(Clone)]
pub struct Message {
    pub content_type: Vec<u8>,
    pub version: Vec<u8>,
    pub digests: Vec<u8>,
    pub content: Vec<u8>,
    pub certificates: Option<Vec<u8>>,
    pub lists: Vec<u8>,
    pub signers: Vec<u8>,
    pub after: Vec<u8>,
}

impl Message {
    pub fn of(certificates: &[Vec<u8>]) -> Self {
        Self {
            content_type: tlv(6, ID_SIGNED_DATA),
            version: tlv(2, &[1]),
            digests: tlv(0x31, &[]),
            content: tlv(0x30, &tlv(6, ID_DATA)),
            certificates: Some(certificates.concat()),
            lists: Vec::new(),
            signers: tlv(0x31, &[]),
            after: Vec::new(),
        }
    }

    pub fn der(&self) -> Vec<u8> {
        let certificates = self.certificates.as_ref().map(|content| tlv(0xa0, content)).unwrap_or_default();
        let signed = [
            &self.version[..],
            &self.digests,
            &self.content,
            &certificates,
            &self.lists,
            &self.signers,
            &self.after,
        ]
        .concat();
        tlv(0x30, &[&self.content_type[..], &tlv(0xa0, &tlv(0x30, &signed))].concat())
    }
}
