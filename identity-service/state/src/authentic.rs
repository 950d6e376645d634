//! A document in its file: with a proof that this gateway wrote it, under this name.
//!
//! `{"version":1,"mac":"…","content":…}`. The proof is HMAC-SHA-256 over the file's name, the version and the bytes of the
//! content as they stand. No other spelling is read, so nothing in a file is outside of the proof.

use aws_lc_rs::hmac;
use edgewarden_protocol::control::StorageKey;

const BEFORE_VERSION: &str = "{\"version\":";
const BEFORE_MAC: &str = ",\"mac\":\"";
const BEFORE_CONTENT: &str = "\",\"content\":";
const END: &str = "}";
/// No message about a document begins so: those begin with the length of a name.
const RECORDS: &[u8] = b"edgewarden runtimed records v1";

/// The key that proves documents. It is in memory and, sealed, in the keystore.
#[derive(Clone)]
pub struct StateKey(hmac::Key);

impl std::fmt::Debug for StateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateKey(..)")
    }
}

/// A document as it stands in its file, not proven yet.
#[derive(Debug, Clone, Copy)]
pub struct Claimed<'a> {
    pub version: u32,
    mac: &'a str,
    content: &'a str,
}

impl<'a> Claimed<'a> {
    /// `None` for what is not spelt as we write it.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.strip_prefix(BEFORE_VERSION)?;
        let (version, rest) = text.split_once(BEFORE_MAC)?;
        let (mac, rest) = rest.split_once(BEFORE_CONTENT)?;
        Some(Self { version: version.parse().ok()?, mac, content: rest.strip_suffix(END)? })
    }
}

impl StateKey {
    /// A key of these bytes.
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// Another key, for what `runtimed` keeps. It says nothing of this one.
    pub fn record_key(&self) -> StorageKey {
        StorageKey::new(&zeroize::Zeroizing::new(self.bytes(RECORDS)))
    }

    fn bytes(&self, message: &[u8]) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hmac::sign(&self.0, message).as_ref());
        bytes
    }

    /// The text of the file of that name.
    pub fn write(&self, name: &str, version: u32, content: &str) -> String {
        let mac = hex::encode(hmac::sign(&self.0, &message(name, version, content)).as_ref());
        [BEFORE_VERSION, &version.to_string(), BEFORE_MAC, &mac, BEFORE_CONTENT, content, END].concat()
    }

    /// The content, when it was written under this key for the file of that name.
    pub fn prove<'a>(&self, name: &str, claimed: &Claimed<'a>) -> Option<&'a str> {
        let mac = hex::decode(claimed.mac).ok()?;
        hmac::verify(&self.0, &message(name, claimed.version, claimed.content), &mac).ok()?;
        Some(claimed.content)
    }
}

/// The name is preceded by its length, and the version has one, so that no two documents lead to one message.
fn message(name: &str, version: u32, content: &str) -> Vec<u8> {
    [&(name.len() as u64).to_be_bytes(), name.as_bytes(), &version.to_be_bytes(), content.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proven<'a>(key: &StateKey, name: &str, text: &'a str) -> Option<&'a str> {
        key.prove(name, &Claimed::parse(text.as_bytes())?)
    }

    #[test]
    fn a_document_counts_under_its_key_in_its_file_and_unchanged() {
        let key = StateKey::new(&[7; 32]);
        let text = key.write("a.json", 1, "{\"last\":7}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["content"]["last"], 7);
        assert_eq!(proven(&key, "a.json", &text), Some("{\"last\":7}"));
        assert_eq!(proven(&StateKey::new(&[8; 32]), "a.json", &text), None, "another gateway's");
        assert_eq!(proven(&key, "b.json", &text), None, "another file's");
        let mac = text.split('"').nth(5).unwrap();
        for (name, changed) in [
            ("the content", text.replace('7', "8")),
            ("the version", text.replace("\"version\":1", "\"version\":2")),
            ("white space", text.replace("{\"last\"", "{ \"last\"")),
            ("white space at the end", format!("{text}\n")),
            ("no proof", "{\"version\":1,\"content\":{\"last\":7}}".into()),
            ("an empty proof", text.replace(mac, "")),
            ("half a proof", text.replace(mac, mac.get(..32).unwrap())),
            ("a second content", text.replace("}}", "},\"content\":{\"last\":8}}")),
            ("cut", text.strip_suffix('}').unwrap().into()),
            ("nothing", String::new()),
        ] {
            assert_ne!(changed, text, "{name}");
            assert_eq!(proven(&key, "a.json", &changed), None, "{name}");
        }
        assert!(!format!("{key:?}").contains('7'));
    }
}
