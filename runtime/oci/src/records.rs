//! Records on disk that are believed later: authenticated under a key that is not on that disk.
//!
//! Whoever edits the disk while the machine is off can remove a record or put an older one of the same place back, and no
//! more. Root on the running gateway can ask for the key, as `runtimed` does.

use std::io;

use aws_lc_rs::hmac;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The key that authenticates what a daemon keeps for itself.
#[derive(Clone)]
pub struct RecordKey(hmac::Key);

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKey(..)")
    }
}

/// A record as it is on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    /// JSON.
    record: String,
    /// HMAC-SHA-256, hexadecimal.
    mac: String,
}

impl RecordKey {
    /// A key for HMAC-SHA-256.
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The record with its proof. It counts at `place` only.
    pub fn seal(&self, place: &str, record: &impl Serialize) -> io::Result<Vec<u8>> {
        let record = serde_json::to_string(record)?;
        let mac = hex(hmac::sign(&self.0, &message(place, &record)).as_ref());
        Ok(serde_json::to_vec(&Sealed { record, mac })?)
    }

    /// The record, when it was sealed under this key for this place.
    pub fn open<T: DeserializeOwned>(&self, place: &str, bytes: &[u8]) -> Option<T> {
        let sealed: Sealed = serde_json::from_slice(bytes).ok()?;
        hmac::verify(&self.0, &message(place, &sealed.record), &unhex(&sealed.mac)?).ok()?;
        serde_json::from_str(&sealed.record).ok()
    }
}

/// The place is preceded by its length, so that no two of them lead to one message.
fn message(place: &str, record: &str) -> Vec<u8> {
    [&(place.len() as u64).to_be_bytes(), place.as_bytes(), record.as_bytes()].concat()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| Some(nibble(*high)? << 4 | nibble(*low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_under_its_key_at_its_place_and_unchanged() {
        let key = RecordKey::new(&[7; 32]);
        let record = vec!["one".to_owned()];
        let sealed = String::from_utf8(key.seal("a/b", &record).unwrap()).unwrap();
        assert_eq!(key.open::<Vec<String>>("a/b", sealed.as_bytes()), Some(record));
        assert_eq!(key.open::<Vec<String>>("a", sealed.as_bytes()), None, "another place");
        assert_eq!(RecordKey::new(&[8; 32]).open::<Vec<String>>("a/b", sealed.as_bytes()), None);
        let end = sealed.len();
        for (name, changed) in [
            ("the record", sealed.replace("one", "two")),
            ("no proof", r#"{"record":"[\"one\"]"}"#.into()),
            ("an empty proof", r#"{"record":"[\"one\"]","mac":""}"#.into()),
            ("not hexadecimal", sealed.replace("\"mac\":\"", "\"mac\":\"zz")),
            ("another field", format!("{},\"x\":1}}", sealed.strip_suffix('}').unwrap())),
            ("cut", sealed.get(..end - 3).unwrap().into()),
            ("the bare record", r#"["one"]"#.into()),
            ("nothing", String::new()),
        ] {
            assert_ne!(changed, sealed);
            assert_eq!(key.open::<Vec<String>>("a/b", changed.as_bytes()), None, "{name}");
        }
    }
}
