//! A deployment secret on its way: sealed by an operator to one gateway, for one module, and carried by anybody.
//!
//! * [`SecretDocument`]: what an operator signs ([`crate::dsse`], payload type [`PAYLOAD_TYPE`]); the value inside is
//!   sealed to the gateway's agreement key (`edgewarden_sealing`, with [`SecretDocument::context`])
//! * [`AgreementKey`]: that key, vouched for by the gateway CA's key
//! * [`SecretFiles`], [`SecretValue`]: what `identityd` releases to `runtimed` for one live instance
//!
//! Nobody who carries a document learns its value. Names, versions and lengths are not secret.

use std::collections::BTreeSet;

use edgewarden_names::{Digest, GatewayName, ModuleName, Reason, Refusal, SecretName, TrustDomain, UnixTime};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::Bytes;

pub const PAYLOAD_TYPE: &str = "application/vnd.edgewarden.secret.v1+json";
/// Of the statement in an [`AgreementKey`].
pub const KEY_PAYLOAD_TYPE: &str = "application/vnd.edgewarden.agreement-key.v1+json";

/// Longest value.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Most secrets of one module, and how long their values are together: they travel in one message.
pub const SECRETS_MAX: usize = 64;
pub const MODULE_BYTES_MAX: usize = 1024 * 1024;
/// Most secrets that a gateway keeps, removed ones too, and most bytes of their values.
pub const ENTRIES_MAX: usize = 512;
pub const GATEWAY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest envelope of a secret: a value in base64, in JSON, in base64 again, and room.
pub const ENVELOPE_BYTES_MAX: usize = 128 * 1024;
/// Largest agreement key with its certificate.
pub const KEY_BYTES_MAX: usize = 32 * 1024;

/// Sets what is sealed here apart from everything else that is sealed to the same key.
const CONTEXT_LABEL: &[u8] = b"edgewarden secret v1";
/// AES-GCM's tag.
const TAG_BYTES: usize = 16;
const POINT_BYTES: usize = 65;

/// One version of a secret for one module of one gateway: its sealed value, or the word that it is no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretDocument {
    pub trust_domain: TrustDomain,
    pub gateway: GatewayName,
    pub module: ModuleName,
    pub name: SecretName,
    /// Rises with each change, a removal too. A gateway never goes back to a lower one.
    pub version: u64,
    pub content: Content,
}

/// A secret's value, or its removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Content {
    Sealed(SealedValue),
    Removed,
}

/// A value, sealed to one gateway (HPKE, RFC 9180).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedValue {
    /// SHA-256 of the agreement point that it is sealed to: says which key, before one is tried.
    pub recipient: Digest,
    pub encapsulated: Bytes,
    pub ciphertext: Bytes,
}

impl SealedValue {
    /// Bytes of the value.
    pub fn length(&self) -> usize {
        self.ciphertext.as_slice().len().saturating_sub(TAG_BYTES)
    }
}

impl SecretDocument {
    /// Parses the payload of a verified envelope and checks every limit.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        let document: Self = serde_json::from_slice(payload)
            .map_err(|error| Refusal::new(Reason::RequestInvalid, "secret", error))?;
        let subject = document.subject();
        let refuse = |reason, rule: &str| Err(Refusal::new(reason, &subject, rule));
        if document.module.is_reserved() {
            return refuse(
                Reason::RequestInvalid,
                "the module's name is reserved for Edgewarden's own processes",
            );
        }
        if document.version == 0 || i64::try_from(document.version).is_err() {
            return refuse(Reason::RequestInvalid, "a version is above 0 and below 2^63");
        }
        if let Content::Sealed(sealed) = &document.content {
            if sealed.encapsulated.as_slice().len() != POINT_BYTES {
                return refuse(Reason::RequestInvalid, "the encapsulated key is not a point of 65 bytes");
            }
            if sealed.ciphertext.as_slice().len() < TAG_BYTES {
                return refuse(Reason::RequestInvalid, "the ciphertext is cut off");
            }
            if sealed.length() > VALUE_BYTES_MAX {
                return refuse(Reason::SecretLimit, "the value is longer than 64 KiB");
            }
        }
        Ok(document)
    }

    /// `module/name version n`, for people.
    pub fn subject(&self) -> String {
        format!("{}/{} version {}", self.module, self.name, self.version)
    }

    /// Bytes that the value is bound to when it is sealed: every part with its length before it, so that no two
    /// documents have the same bytes.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "the parts are a constant, parsed names of at most 255 bytes, and a number"
    )]
    pub fn context(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let version = self.version.to_be_bytes();
        let parts = [
            CONTEXT_LABEL,
            self.trust_domain.as_str().as_bytes(),
            self.gateway.as_str().as_bytes(),
            self.module.as_str().as_bytes(),
            self.name.as_str().as_bytes(),
            version.as_slice(),
        ];
        for part in parts {
            let length = u32::try_from(part.len()).expect("names are short");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

/// Public key that secrets for a gateway are sealed to, with its proof. Anybody with the fleet's root can check it: the
/// root signed the gateway CA's certificate, and the gateway CA's key signed the statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgreementKey {
    /// The gateway CA's certificate, DER.
    pub gateway_ca: Bytes,
    /// A DSSE envelope with a [`KeyStatement`], payload type [`KEY_PAYLOAD_TYPE`].
    pub statement: Bytes,
}

/// A gateway's agreement key, as its CA's key states it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyStatement {
    pub trust_domain: TrustDomain,
    pub gateway: GatewayName,
    /// P-256, uncompressed point, for ECDH only.
    pub key: Bytes,
    pub at: UnixTime,
}

/// State of one secret that a gateway holds, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretStatus {
    pub module: ModuleName,
    pub name: SecretName,
    pub version: u64,
    /// True when this version says that the secret is no more.
    pub removed: bool,
    pub signed_by: String,
}

/// A value in the clear. Wiped when dropped; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Takes over the bytes, which are wiped when it is dropped.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
    /// The value, for whoever it is released to.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

impl Serialize for SecretValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(&*self.0));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ValueVisitor)
    }
}

/// Reads the text where it lies: a copy of it would not be wiped.
struct ValueVisitor;

impl serde::de::Visitor<'_> for ValueVisitor {
    type Value = SecretValue;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("base64")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretValue, E> {
        use base64::Engine as _;
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        // The decoder's error would show a piece of it.
        decoded.map(|bytes| SecretValue(Zeroizing::new(bytes))).map_err(|_| E::custom("it is not base64"))
    }
}

/// A module's use of a secret, in its deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretUse {
    pub name: SecretName,
    /// The file's name beneath `/run/secrets`; the secret's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Permission bits of the file: read bits only.
    #[serde(default = "default_mode", skip_serializing_if = "is_default_mode")]
    pub mode: u32,
}

const DEFAULT_MODE: u32 = 0o400;
const READ_BITS: u32 = 0o444;

fn default_mode() -> u32 {
    DEFAULT_MODE
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_default_mode(mode: &u32) -> bool {
    *mode == DEFAULT_MODE
}

impl SecretUse {
    /// File name in the instance: `file`, or the secret's name.
    pub fn file(&self) -> &str {
        self.file.as_deref().unwrap_or(self.name.as_str())
    }
}

/// Checks what a module's entry in a deployment says of secrets.
pub fn check_uses(uses: &[SecretUse]) -> Result<(), String> {
    if uses.len() > SECRETS_MAX {
        return Err(format!("{} secrets are over the limit of {SECRETS_MAX}", uses.len()));
    }
    let (mut names, mut files) = (BTreeSet::new(), BTreeSet::new());
    for secret in uses {
        let name = &secret.name;
        if !names.insert(name.as_str()) {
            return Err(format!("the secret `{name}` is there twice"));
        }
        let file = secret.file();
        if !is_file_name(file) {
            return Err(format!(
                "the file of the secret `{name}` has 1 to 128 of `a-z`, `A-Z`, `0-9`, `_`, `-` and, not first, `.`"
            ));
        }
        if !files.insert(file) {
            return Err(format!("the file `{file}` is there twice"));
        }
        if secret.mode & !READ_BITS != 0 || secret.mode & DEFAULT_MODE == 0 {
            return Err(format!("the mode of the secret `{name}` is 0400, 0440, 0404 or 0444"));
        }
    }
    Ok(())
}

/// One part of a path, and none of the names that begin with a dot, which are ours.
fn is_file_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(good)
}

/// All secrets of one instance, to be put where the module sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretFiles {
    /// Names this very set of names, versions, files and modes: 64 hexadecimal digits.
    pub revision: String,
    pub files: Vec<SecretFile>,
}

/// A secret as the instance finds it: file, mode and value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretFile {
    pub name: SecretName,
    pub version: u64,
    pub file: String,
    pub mode: u32,
    pub value: SecretValue,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn document() -> Value {
        json!({"trust_domain": "plant.example", "gateway": "gw-1", "module": "analytics", "name": "db-password",
               "version": 3, "content": {"sealed": {"recipient": format!("sha256:{}", "ab".repeat(32)),
               "encapsulated": Bytes(vec![4; 65]), "ciphertext": Bytes(vec![7; 20])}}})
    }

    fn parse(value: &Value) -> Result<SecretDocument, Refusal> {
        SecretDocument::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_document_is_parsed_strictly() {
        type Change = fn(&mut Value);
        let good = parse(&document()).unwrap();
        assert_eq!(good.subject(), "analytics/db-password version 3");
        let mut removed = document();
        removed["content"] = json!("removed");
        assert_eq!(parse(&removed).unwrap().content, Content::Removed);
        let changes: [(&str, Reason, Change); 13] = [
            ("unknown field", Reason::RequestInvalid, |d| d["plaintext"] = json!("x")),
            ("unknown field inside", Reason::RequestInvalid, |d| d["content"]["sealed"]["key"] = json!("x")),
            ("no content", Reason::RequestInvalid, |d| d["content"] = json!(null)),
            ("another content", Reason::RequestInvalid, |d| d["content"] = json!({"plain": "x"})),
            ("reserved module", Reason::RequestInvalid, |d| d["module"] = json!("identityd")),
            ("module with a slash", Reason::RequestInvalid, |d| d["module"] = json!("a/b")),
            ("name with a dot", Reason::RequestInvalid, |d| d["name"] = json!("..")),
            ("version 0", Reason::RequestInvalid, |d| d["version"] = json!(0)),
            ("version too high", Reason::RequestInvalid, |d| d["version"] = json!(1_u64 << 63)),
            ("version below 0", Reason::RequestInvalid, |d| d["version"] = json!(-1)),
            ("short point", Reason::RequestInvalid, |d| {
                d["content"]["sealed"]["encapsulated"] = json!(Bytes(vec![4; 64]));
            }),
            ("short ciphertext", Reason::RequestInvalid, |d| {
                d["content"]["sealed"]["ciphertext"] = json!(Bytes(vec![4; 15]));
            }),
            ("long ciphertext", Reason::SecretLimit, |d| {
                d["content"]["sealed"]["ciphertext"] = json!(Bytes(vec![4; VALUE_BYTES_MAX + 17]));
            }),
        ];
        for (name, reason, change) in changes {
            let mut bad = document();
            change(&mut bad);
            assert_eq!(parse(&bad).unwrap_err().reason, reason, "{name}");
        }
    }

    #[test]
    fn the_context_differs_with_every_part() {
        let good = parse(&document()).unwrap();
        for (field, other) in [
            ("trust_domain", json!("plant.exampl")),
            ("gateway", json!("gw-2")),
            ("module", json!("alerts")),
            ("name", json!("db-user")),
            ("version", json!(4)),
        ] {
            let mut changed = document();
            changed[field] = other;
            assert_ne!(parse(&changed).unwrap().context(), good.context(), "{field}");
        }
        // Where one part ends and the next begins counts.
        let (mut left, mut right) = (document(), document());
        (left["module"], left["name"]) = (json!("ab"), json!("c"));
        (right["module"], right["name"]) = (json!("a"), json!("bc"));
        assert_ne!(parse(&left).unwrap().context(), parse(&right).unwrap().context());
    }

    #[test]
    fn the_largest_value_fits_an_envelope() {
        let mut largest = document();
        largest["content"]["sealed"]["ciphertext"] = json!(Bytes(vec![4; VALUE_BYTES_MAX + TAG_BYTES]));
        let payload = largest.to_string().into_bytes();
        assert!(parse(&largest).is_ok());
        let envelope = json!({"payloadType": PAYLOAD_TYPE, "payload": Bytes(payload),
                              "signatures": [{"keyid": "k".repeat(255), "sig": Bytes(vec![0; 72])}]});
        assert!(envelope.to_string().len() <= ENVELOPE_BYTES_MAX);
    }

    #[test]
    fn uses_of_secrets() {
        let uses = |value: Value| serde_json::from_value::<Vec<SecretUse>>(value).map_err(|e| e.to_string());
        let checked = |value: Value| uses(value).and_then(|uses| check_uses(&uses).map(|()| uses));
        let good = checked(json!([{"name": "a"}, {"name": "b", "file": "B_1.pem", "mode": 0o444}])).unwrap();
        assert_eq!((good[0].file(), good[0].mode), ("a", 0o400));
        assert_eq!(
            serde_json::to_value(&good[0]).unwrap(),
            json!({"name": "a"}),
            "what is default is not written"
        );
        for bad in [
            json!([{"name": "a"}, {"name": "a"}]),
            json!([{"name": "a"}, {"name": "b", "file": "a"}]),
            json!([{"name": "a", "file": ".."}]),
            json!([{"name": "a", "file": "..data"}]),
            json!([{"name": "a", "file": "x/y"}]),
            json!([{"name": "a", "file": ""}]),
            json!([{"name": "a", "file": "x\u{0}"}]),
            json!([{"name": "a", "mode": 0o600}]),
            json!([{"name": "a", "mode": 0o044}]),
            json!([{"name": "a", "mode": 0o4400}]),
            json!([{"name": "a", "value": "x"}]),
            json!([{"name": "A"}]),
            Value::from((0..65).map(|i| json!({"name": format!("s{i}")})).collect::<Vec<_>>()),
        ] {
            assert!(checked(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_value_is_not_shown() {
        let value = SecretValue::new(Zeroizing::new(b"hunter2".to_vec()));
        assert_eq!(format!("{value:?}"), "SecretValue(..)");
        let there: SecretValue = serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
        assert_eq!(there.expose(), b"hunter2");
    }
}
