//! Subject of a certificate that is asked for.

use std::net::IpAddr;

use edgewarden_names::{Reason, Refusal};

use crate::der::{SEQUENCE, SET, UTF8_STRING, element};

/// ub-common-name (RFC 5280 appendix A.1).
const COMMON_NAME_CHARS_MAX: usize = 64;
const URI_BYTES_MAX: usize = 2048;
/// Most alternative names of each kind.
pub const NAMES_MAX: usize = 16;

/// OBJECT IDENTIFIER id-at-commonName.
const ID_COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];

/// Purpose of the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Proves who we are in TLS, and signs nothing.
    EndEntity,
    /// A CA beneath the site's, such as a gateway CA, with at most `path_length` CAs beneath itself.
    CertificateAuthority { path_length: u8 },
}

/// Names as an operator writes them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// For people: a CA may replace it.
    pub common_name: String,
    pub dns: Vec<String>,
    pub uris: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// Checked names with the profile, ready to be put into requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// DER Name.
    pub(crate) name: Vec<u8>,
    /// Content of a DER GeneralNames; empty when there are no alternative names.
    pub(crate) alternatives: Vec<u8>,
    pub(crate) profile: Profile,
}

impl Subject {
    /// Checks the names. Fails with `est.config`.
    pub fn new(names: &Names, profile: Profile) -> Result<Self, Refusal> {
        let refuse = |rule: &str| Refusal::new(Reason::EstConfig, "subject", rule);
        let common_name = names.common_name.as_str();
        if !(1..=COMMON_NAME_CHARS_MAX).contains(&common_name.chars().count())
            || common_name.chars().any(char::is_control)
        {
            return Err(refuse("a common name has 1 to 64 characters, none of them a control character"));
        }
        if [names.dns.len(), names.uris.len(), names.addresses.len()].iter().any(|count| *count > NAMES_MAX) {
            return Err(refuse("too many alternative names"));
        }
        let mut alternatives = Vec::new();
        for name in &names.dns {
            if !is_dns_name(name) {
                return Err(refuse("a DNS name is made of labels of a-z, 0-9 and -"));
            }
            alternatives.extend(element(0x82, &[name.as_bytes()]));
        }
        for uri in &names.uris {
            let absolute =
                uri.split_once(':').is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
            if uri.len() > URI_BYTES_MAX || !uri.bytes().all(|byte| byte.is_ascii_graphic()) || !absolute {
                return Err(refuse("a URI has a scheme, at most 2048 bytes, and only visible ASCII"));
            }
            alternatives.extend(element(0x86, &[uri.as_bytes()]));
        }
        for address in &names.addresses {
            alternatives.extend(match address {
                IpAddr::V4(address) => element(0x87, &[&address.octets()]),
                IpAddr::V6(address) => element(0x87, &[&address.octets()]),
            });
        }
        let value = element(UTF8_STRING, &[common_name.as_bytes()]);
        let rdn = element(SET, &[&element(SEQUENCE, &[&ID_COMMON_NAME, &value])]);
        Ok(Self { name: element(SEQUENCE, &[&rdn]), alternatives, profile })
    }
}

/// RFC 1123 section 2.1, lower case, no wildcard.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        matches!(label.len(), 1..=63)
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    name.len() <= 253 && name.parse::<IpAddr>().is_err() && name.split('.').all(label)
}
