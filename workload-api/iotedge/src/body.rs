//! The bodies of requests: JSON with the fields that Azure's definitions have, each at most once, and no others.
//!
//! That is what the SDKs send (checked against those for Python 2.14, Node 1.18 and C#). Binary values are standard base64 with padding (RFC 4648 section 4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgewarden_names::{Reason, Refusal, UnixTime};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{BODY_BYTES_MAX, CIPHERTEXT_BYTES_MAX, DATA_BYTES_MAX, INITIALIZATION_VECTOR_BYTES_MAX, KeyId};

/// Longest host name (RFC 1035 section 2.3.4).
const COMMON_NAME_BYTES_MAX: usize = 253;
const DATE_BYTES_MAX: usize = 64;
/// The one algorithm that there is.
const ALGORITHM: &str = "HMACSHA256";

/// Body of a request to sign.
pub struct Sign {
    pub key: KeyId,
    pub data: Zeroizing<Vec<u8>>,
}

/// Body of a request to encrypt.
pub struct Encrypt {
    pub plaintext: Zeroizing<Vec<u8>>,
    pub initialization_vector: Vec<u8>,
}

/// Body of a request to decrypt.
pub struct Decrypt {
    pub ciphertext: Vec<u8>,
    pub initialization_vector: Vec<u8>,
}

/// Body of a request for a server certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCertificate {
    pub common_name: String,
    pub until: Option<UnixTime>,
}

/// Body of a request for an identity certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityCertificate {
    pub until: Option<UnixTime>,
}

macro_rules! silent {
    ($($type:ident)*) => {
        $(impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type)).finish_non_exhaustive()
            }
        })*
    };
}
silent!(Sign Encrypt Decrypt);

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSign {
    key_id: String,
    algo: String,
    data: String,
}

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawEncrypt {
    plaintext: String,
    initialization_vector: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawDecrypt {
    ciphertext: String,
    initialization_vector: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawServerCertificate {
    common_name: String,
    #[serde(default)]
    expiration: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIdentityCertificate {
    #[serde(default)]
    expiration: Option<String>,
}

fn refuse<T>(subject: &str, rule: impl std::fmt::Display) -> Result<T, Refusal> {
    Err(Refusal::new(Reason::RequestInvalid, subject, rule))
}

fn too_large<T>(subject: &str, max: usize) -> Result<T, Refusal> {
    Err(Refusal::new(Reason::RequestTooLarge, subject, format_args!("at most {max} bytes are taken")))
}

/// The message is ours: serde's could repeat what it found, and that may be somebody's secret.
fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    if body.len() > BODY_BYTES_MAX {
        return too_large("body", BODY_BYTES_MAX);
    }
    // An array in the place of the object would be taken field by field.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return refuse("body", "it is not a JSON object");
    }
    serde_json::from_slice(body).or_else(|error| {
        let (line, column) = (error.line(), error.column());
        refuse("body", format_args!("not the JSON that this path takes, at line {line} column {column}"))
    })
}

fn binary(subject: &str, text: &str, max: usize) -> Result<Vec<u8>, Refusal> {
    if text.len() > max.saturating_mul(4).div_ceil(3).saturating_add(4) {
        return too_large(subject, max);
    }
    match STANDARD.decode(text) {
        Ok(bytes) if bytes.len() > max => {
            drop(Zeroizing::new(bytes));
            too_large(subject, max)
        }
        Ok(bytes) => Ok(bytes),
        Err(_) => refuse(subject, "it is not base64"),
    }
}

fn until(text: Option<&str>) -> Result<Option<UnixTime>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    let seconds = Some(text)
        .filter(|text| text.len() <= DATE_BYTES_MAX)
        .and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
        .and_then(|time| u64::try_from(time.unix_timestamp()).ok());
    match seconds {
        Some(seconds) => Ok(Some(UnixTime(seconds))),
        None => refuse("expiration", "it is not a date with a time (RFC 3339)"),
    }
}

impl Sign {
    /// Fails with `request.invalid`, or with `request.too_large`.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let raw: RawSign = read(body)?;
        if raw.algo != ALGORITHM {
            return refuse("algo", format_args!("the algorithm is {ALGORITHM}"));
        }
        let key = match raw.key_id.as_str() {
            "primary" => KeyId::Primary,
            "secondary" => KeyId::Secondary,
            _ => return refuse("keyId", "a module has the keys `primary` and `secondary`"),
        };
        Ok(Self { key, data: Zeroizing::new(binary("data", &raw.data, DATA_BYTES_MAX)?) })
    }
}

impl Encrypt {
    /// Fails with `request.invalid`, or with `request.too_large`.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let raw: RawEncrypt = read(body)?;
        Ok(Self {
            plaintext: Zeroizing::new(binary("plaintext", &raw.plaintext, DATA_BYTES_MAX)?),
            initialization_vector: vector(&raw.initialization_vector)?,
        })
    }
}

impl Decrypt {
    /// Fails with `request.invalid`, or with `request.too_large`.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let raw: RawDecrypt = read(body)?;
        Ok(Self {
            ciphertext: binary("ciphertext", &raw.ciphertext, CIPHERTEXT_BYTES_MAX)?,
            initialization_vector: vector(&raw.initialization_vector)?,
        })
    }
}

fn vector(text: &str) -> Result<Vec<u8>, Refusal> {
    binary("initializationVector", text, INITIALIZATION_VECTOR_BYTES_MAX)
}

impl ServerCertificate {
    /// Fails with `request.invalid`, or with `request.too_large`.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let raw: RawServerCertificate = read(body)?;
        if raw.common_name.len() > COMMON_NAME_BYTES_MAX {
            return too_large("commonName", COMMON_NAME_BYTES_MAX);
        }
        Ok(Self { common_name: raw.common_name, until: until(raw.expiration.as_deref())? })
    }
}

impl IdentityCertificate {
    /// Fails with `request.invalid`, or with `request.too_large`.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let raw: RawIdentityCertificate = read(body)?;
        Ok(Self { until: until(raw.expiration.as_deref())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const SIGN: &str = r#"{"keyId":"primary","algo":"HMACSHA256","data":"aGk="}"#;

    #[test]
    fn what_the_sdks_send_is_taken() {
        let sign = Sign::parse(SIGN.as_bytes()).unwrap();
        assert_eq!((sign.key, sign.data.as_slice()), (KeyId::Primary, &b"hi"[..]));
        let secondary = SIGN.replace("primary", "secondary");
        assert_eq!(Sign::parse(secondary.as_bytes()).unwrap().key, KeyId::Secondary);
        let encrypt = Encrypt::parse(br#"{"plaintext":"aGk=","initializationVector":"MTIz"}"#).unwrap();
        assert_eq!(
            (encrypt.plaintext.as_slice(), &*encrypt.initialization_vector),
            (&b"hi"[..], &b"123"[..])
        );
        let decrypt = Decrypt::parse(br#"{"ciphertext":"aGk=","initializationVector":""}"#).unwrap();
        assert_eq!((&*decrypt.ciphertext, &*decrypt.initialization_vector), (&b"hi"[..], &b""[..]));
        for (date, seconds) in [
            (json!("2026-01-01T00:00:00Z"), Some(1_767_225_600)),
            (json!("2026-01-01T00:00:00.1234567Z"), Some(1_767_225_600)),
            (json!("2026-01-01T01:00:00+01:00"), Some(1_767_225_600)),
            (json!(null), None),
        ] {
            let body = json!({"commonName": "alerts", "expiration": date}).to_string();
            let parsed = ServerCertificate::parse(body.as_bytes()).unwrap();
            assert_eq!(parsed.until, seconds.map(UnixTime), "{date}");
            let body = json!({"expiration": date}).to_string();
            assert_eq!(IdentityCertificate::parse(body.as_bytes()).unwrap().until, seconds.map(UnixTime));
        }
        assert_eq!(IdentityCertificate::parse(b" {} ").unwrap().until, None);
    }

    #[test]
    fn everything_else_is_refused() {
        for (name, body) in [
            ("nothing", String::new()),
            ("white space", "  ".into()),
            ("null", "null".into()),
            ("an array", r#"["primary","HMACSHA256","aGk="]"#.into()),
            ("cut off", SIGN.trim_end_matches('}').into()),
            ("more after it", format!("{SIGN}{SIGN}")),
            ("a byte order mark", format!("\u{feff}{SIGN}")),
            ("a comment", format!("{SIGN}//")),
            ("single quotes", SIGN.replace('"', "'")),
            ("a key twice", SIGN.replace("\"algo\"", r#""keyId":"secondary","algo""#)),
            ("a key twice, once escaped", SIGN.replace("\"algo\"", r#""keyI\u0064":"secondary","algo""#)),
            ("an unknown field", SIGN.replace('}', r#","more":1}"#)),
            ("a missing field", SIGN.replace(r#""algo":"HMACSHA256","#, "")),
            ("another case", SIGN.replace("keyId", "keyid")),
            ("a null field", SIGN.replace("\"aGk=\"", "null")),
            ("bytes as numbers", SIGN.replace("\"aGk=\"", "[104,105]")),
            ("another key", SIGN.replace("primary", "device_key")),
            ("a path as key", SIGN.replace("primary", "../primary")),
            ("another algorithm", SIGN.replace("HMACSHA256", "HMACSHA1")),
            ("no algorithm", SIGN.replace("HMACSHA256", "")),
            ("no padding", SIGN.replace("aGk=", "aGk")),
            ("base64 of the web", SIGN.replace("aGk=", "-_-_")),
            ("loose bits", SIGN.replace("aGk=", "aGl=")),
            ("a line break", SIGN.replace("aGk=", "aG\\nk=")),
            ("a half surrogate", SIGN.replace("primary", "\\ud800")),
            ("deep nesting", "{\"data\":".to_owned() + &"[".repeat(10_000)),
        ] {
            let refusal = Sign::parse(body.as_bytes()).unwrap_err();
            assert_eq!(refusal.reason, Reason::RequestInvalid, "{name}");
            assert!(!refusal.to_string().contains("aGk"), "{name}: {refusal}");
        }
        assert!(Sign::parse(b"{\"data\":\"\xff\"}").is_err(), "not UTF-8");
        for date in
            ["", "tomorrow", "2026-01-01", "2026-13-01T00:00:00Z", "1969-12-31T23:59:59Z", "1767225600"]
        {
            let body = json!({"commonName": "alerts", "expiration": date}).to_string();
            assert_eq!(
                ServerCertificate::parse(body.as_bytes()).unwrap_err().subject,
                "expiration",
                "{date}"
            );
        }
        for body in [r#"{"expiration":1}"#, r#"{"expiration":"x","expiration":"x"}"#, r#"{"commonName":"a"}"#]
        {
            assert!(IdentityCertificate::parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn what_is_too_large_is_refused_by_its_size() {
        let fits = STANDARD.encode(vec![0; DATA_BYTES_MAX]);
        let over = STANDARD.encode(vec![0; DATA_BYTES_MAX + 1]);
        let sign = |data: &str| Sign::parse(SIGN.replace("aGk=", data).as_bytes());
        assert!(sign(&fits).is_ok());
        assert_eq!(sign(&over).unwrap_err().reason, Reason::RequestTooLarge);
        let cipher = STANDARD.encode(vec![0; CIPHERTEXT_BYTES_MAX]);
        let vector = STANDARD.encode([0; INITIALIZATION_VECTOR_BYTES_MAX]);
        let decrypt = |cipher: &str, vector: &str| {
            let body = json!({"ciphertext": cipher, "initializationVector": vector}).to_string();
            Decrypt::parse(body.as_bytes()).map(drop).map_err(|refusal| refusal.reason)
        };
        assert_eq!(decrypt(&cipher, &vector), Ok(()), "the largest ciphertext fits into a body");
        let long = STANDARD.encode([0; INITIALIZATION_VECTOR_BYTES_MAX + 1]);
        assert_eq!(decrypt("", &long), Err(Reason::RequestTooLarge));
        let body = vec![b' '; BODY_BYTES_MAX + 1];
        assert_eq!(Sign::parse(&body).unwrap_err().reason, Reason::RequestTooLarge);
        let body = json!({"commonName": "a".repeat(254)}).to_string();
        assert_eq!(ServerCertificate::parse(body.as_bytes()).unwrap_err().reason, Reason::RequestTooLarge);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            drop(Sign::parse(&bytes));
            drop(Encrypt::parse(&bytes));
            drop(Decrypt::parse(&bytes));
            drop(ServerCertificate::parse(&bytes));
            drop(IdentityCertificate::parse(&bytes));
        }
    }
}
