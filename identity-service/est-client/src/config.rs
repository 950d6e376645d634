//! Reads and checks what the EST part of a configuration ([`EstConfig`]) names.

use std::time::Duration;

use edgewarden_est::{ANCHORS_BYTES_MAX, TrustAnchors};
use edgewarden_names::{Reason, Refusal, pem};
use edgewarden_platform::operator_file::{self, Secrecy};
use edgewarden_protocol::est::{EstAuth, EstConfig};
use zeroize::Zeroizing;

const PASSWORD_BYTES_MAX: usize = 1024;
const USER_BYTES_MAX: usize = 256;
const PEM_BYTES_MAX: usize = 64 * 1024;

/// Credentials, read and checked.
pub(crate) enum Credentials {
    /// The value of the header `Authorization`.
    Basic(Zeroizing<String>),
    Certificate {
        chain: Vec<Vec<u8>>,
        key_pkcs8: Zeroizing<Vec<u8>>,
    },
    Nothing,
}

fn refuse(subject: &str, rule: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::EstConfig, subject, rule)
}

pub(crate) fn timeout(config: &EstConfig) -> Result<Duration, Refusal> {
    match config.timeout_seconds {
        seconds @ 1..=120 => Ok(Duration::from_secs(seconds.into())),
        _ => Err(refuse("timeout_seconds", "it is 1 to 120")),
    }
}

/// The URL without a path of its own.
pub(crate) fn origin(config: &EstConfig) -> Result<&str, Refusal> {
    let origin = config.url.strip_suffix('/').unwrap_or(&config.url);
    match origin.strip_prefix("https://") {
        Some(rest) if !rest.is_empty() && !rest.contains(['/', '?', '#', '@']) => Ok(origin),
        _ => Err(refuse("url", "it has the form `https://host[:port]`")),
    }
}

/// The site's roots.
pub(crate) fn anchors(config: &EstConfig) -> Result<TrustAnchors, Refusal> {
    let file = operator_file::read(&config.trust_anchors, ANCHORS_BYTES_MAX, Secrecy::Public)
        .map_err(|error| refuse("trust anchors", error))?;
    TrustAnchors::parse(&file)
}

impl Credentials {
    pub(crate) fn read(auth: &EstAuth) -> Result<Self, Refusal> {
        match auth {
            EstAuth::Identity {} => Ok(Self::Nothing),
            EstAuth::Basic { user, password_file } => {
                // RFC 7617 section 2: a colon ends the user's name.
                if !matches!(user.len(), 1..=USER_BYTES_MAX)
                    || user.contains(':')
                    || user.chars().any(char::is_control)
                {
                    return Err(refuse(
                        "user",
                        "it has 1 to 256 characters, no colon and no control character",
                    ));
                }
                let bytes = operator_file::read(password_file, PASSWORD_BYTES_MAX, Secrecy::Secret)
                    .map_err(|error| refuse("password_file", error))?;
                let password =
                    std::str::from_utf8(&bytes).map_err(|_| refuse("password_file", "it is not UTF-8"))?;
                let password = password.trim_end_matches(['\r', '\n']);
                if password.is_empty() || password.chars().any(char::is_control) {
                    return Err(refuse("password_file", "it has one line of at least one character"));
                }
                Ok(Self::Basic(basic(user, password)))
            }
            EstAuth::Certificate { certificate_file, key_file } => {
                let read = |path, secrecy| operator_file::read(path, PEM_BYTES_MAX, secrecy);
                let certificates = read(certificate_file, Secrecy::Public)
                    .map_err(|error| refuse("certificate_file", error))?;
                let chain = std::str::from_utf8(&certificates)
                    .map_err(|_| refuse("certificate_file", "it is not PEM"))
                    .and_then(|text| {
                        pem::all(text, pem::CERTIFICATE).map_err(|error| refuse("certificate_file", error))
                    })?;
                let key = read(key_file, Secrecy::Secret).map_err(|error| refuse("key_file", error))?;
                let key =
                    std::str::from_utf8(&key).map_err(|_| refuse("key_file", "it is not PEM")).and_then(
                        |text| pem::one(text, pem::PRIVATE_KEY).map_err(|error| refuse("key_file", error)),
                    )?;
                Ok(Self::Certificate { chain, key_pkcs8: Zeroizing::new(key) })
            }
        }
    }
}

fn basic(user: &str, password: &str) -> Zeroizing<String> {
    use base64::Engine as _;
    let mut pair = Zeroizing::new(String::with_capacity(user.len() + password.len() + 1));
    for part in [user, ":", password] {
        pair.push_str(part);
    }
    let encoder = base64::engine::general_purpose::STANDARD;
    let mut header = Zeroizing::new(String::with_capacity(pair.len().div_ceil(3) * 4 + 6));
    header.push_str("Basic ");
    encoder.encode_string(pair.as_bytes(), &mut header);
    header
}
