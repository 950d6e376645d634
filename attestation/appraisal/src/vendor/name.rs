//! Distinguished names: compared as RFC 5280 section 7.1 says, and shown to people.

use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::X509Name;

/// Characters of a name that a refusal repeats.
const SHOWN_CHARS_MAX: usize = 160;

/// A name in the form in which equal names are equal: letters without case, runs of white space as one space, whichever
/// string type the authority chose. One entry for each relative distinguished name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Name(Vec<Vec<u8>>);

impl Name {
    pub(crate) fn of(name: &X509Name<'_>) -> Self {
        let relative = |rdn: &x509_parser::x509::RelativeDistinguishedName<'_>| {
            let mut attributes: Vec<Vec<u8>> = rdn
                .iter()
                .map(|attribute| {
                    let mut bytes = sized(attribute.attr_type().as_bytes());
                    bytes.extend(value(attribute.attr_value()));
                    bytes
                })
                .collect();
            // A set: its order says nothing, and not every authority sorts it as DER wants.
            attributes.sort();
            attributes.iter().flat_map(|attribute| sized(attribute)).collect()
        };
        Self(name.iter_rdn().map(relative).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True when `self` is this subtree's base or lies beneath it.
    pub(crate) fn is_within(&self, base: &Self) -> bool {
        self.0.starts_with(&base.0)
    }
}

#[expect(clippy::expect_used, reason = "no certificate that is read comes near 4 GiB")]
fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(bytes.len()).expect("less than 4 GiB").to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

fn value(value: &Any<'_>) -> Vec<u8> {
    if let Some(text) = text(value) {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        let mut out = vec![0];
        out.extend(words.join(" ").into_bytes());
        out
    } else {
        let mut out = vec![1];
        out.extend(value.tag().0.to_be_bytes());
        out.extend_from_slice(value.data);
        out
    }
}

/// The text of a value of one of the string types.
fn text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::VisibleString | Tag::NumericString => {
            std::str::from_utf8(value.data).ok().map(str::to_owned)
        }
        Tag::T61String => Some(value.data.iter().map(|&byte| char::from(byte)).collect()),
        Tag::BmpString if value.data.len().is_multiple_of(2) => {
            let (pairs, _) = value.data.as_chunks::<2>();
            let units: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

/// `CN=…, O=…` with the attributes that people know, safe to put in a line.
pub(crate) fn shown(name: &X509Name<'_>) -> String {
    let attributes = name.iter_attributes().map(|attribute| {
        let kind = match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.3" => "CN".to_owned(),
            "2.5.4.6" => "C".to_owned(),
            "2.5.4.7" => "L".to_owned(),
            "2.5.4.8" => "ST".to_owned(),
            "2.5.4.10" => "O".to_owned(),
            "2.5.4.11" => "OU".to_owned(),
            "2.5.4.5" => "serialNumber".to_owned(),
            other => other.to_owned(),
        };
        format!("{kind}={}", text(attribute.attr_value()).unwrap_or_else(|| "?".to_owned()))
    });
    let all = attributes.collect::<Vec<_>>().join(", ");
    if all.is_empty() { "(no name)".to_owned() } else { printable(&all) }
}

/// Text from a certificate: no control characters, no end of line, not too long.
pub(crate) fn printable(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(SHOWN_CHARS_MAX)
        .map(|c| if c.is_control() || c == '`' || !(c.is_alphanumeric() || c.is_ascii()) { '?' } else { c })
        .collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

/// The first octets of a key identifier, as tools show it.
pub(crate) fn shown_key(identifier: &[u8]) -> String {
    identifier.iter().take(20).map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
