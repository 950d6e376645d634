//! Short text of long things, for tables.

use edgewarden_names::UnixTime;
use edgewarden_terminal::shortened;

use crate::admin_api::{CertificateState, DeviceView};
use crate::selection::Labels;
use crate::when::{age, span};

const PAYLOAD_CHARACTERS_MAX: usize = 160;

/// A message's payload on one line: as text when it is text, otherwise its size. Control characters are escaped, so
/// that a payload cannot command a terminal.
pub fn payload(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else { return format!("{} bytes, not text", bytes.len()) };
    shortened(text, PAYLOAD_CHARACTERS_MAX)
}

/// As [`labels`], and `none` when there are none.
pub fn labels_or_none(labels: &Labels) -> String {
    if labels.is_empty() { "none".into() } else { self::labels(labels) }
}

/// Labels on one line: `site=clinic,ward=north`.
pub fn labels(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Part of a SPIFFE ID beneath the gateway: `module/analytics` of `spiffe://…/gateway/gw-1/module/analytics`.
pub fn short_id(id: &str) -> &str {
    id.split_once("/gateway/").and_then(|(_, rest)| rest.split_once('/')).map_or(id, |(_, rest)| rest)
}

/// State of a gateway's certificate: `21 d left`, `expiring, 5 d left`, `expired 3 d ago`.
pub fn certificate(device: &DeviceView, now: UnixTime) -> String {
    let Some(certificate) = device.certificate else { return "-".into() };
    let left = span(certificate.ends.after(now).as_secs());
    match certificate.state {
        CertificateState::Good => format!("{left} left"),
        CertificateState::Expiring => format!("expiring, {left} left"),
        CertificateState::Expired => format!("expired {} ago", age(certificate.ends, now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_shown_on_one_harmless_line() {
        assert_eq!(payload(b"{\"a\":1}"), "{\"a\":1}");
        assert_eq!(payload(b"a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(payload(&[0xff, 0xfe]), "2 bytes, not text");
        assert_eq!(payload("é".repeat(200).as_bytes()).chars().count(), 161);
    }

    #[test]
    fn ids() {
        assert_eq!(short_id("spiffe://td/gateway/gw-1/leaf/sensor-1"), "leaf/sensor-1");
        assert_eq!(short_id("spiffe://td/fleet"), "spiffe://td/fleet");
    }
}
