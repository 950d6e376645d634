//! The EST part of a configuration, and its checked form.

use std::path::PathBuf;
use std::time::Duration;

use edgewarden_ca::pem;
use edgewarden_names::{Reason, Refusal};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::file::{self, Secrecy};

const PASSWORD_BYTES_MAX: usize = 1024;
const USER_BYTES_MAX: usize = 256;
const PEM_BYTES_MAX: usize = 64 * 1024;

/// A site's CA, reached by EST.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EstConfig {
    /// `https://host[:port]`; the path is RFC 7030's.
    pub url: String,
    /// Which of several CAs of one server (RFC 7030 section 3.2.2).
    #[serde(default)]
    pub label: Option<String>,
    /// PEM: the roots of the site, for the server's own certificate as well as for those that it gives.
    pub trust_anchors: PathBuf,
    pub auth: EstAuth,
    /// How long one exchange may take, 1 to 120 seconds.
    #[serde(default = "timeout_default")]
    pub timeout_seconds: u16,
}

fn timeout_default() -> u16 {
    30
}

/// What the first certificate is asked for with. A renewal shows the certificate that it renews, and the password too
/// if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum EstAuth {
    /// HTTP Basic (RFC 7617), inside TLS only. The file has the password, and is not open to others.
    Basic { user: String, password_file: PathBuf },
    /// A certificate that the site knows, such as the manufacturer's. PEM; the key is PKCS#8 in a file not open to
    /// others. A key in a keystore is given to `Client::with_identity` instead.
    Certificate { certificate_file: PathBuf, key_file: PathBuf },
    /// Nothing but what the caller gives to `Client::with_identity`.
    Identity {},
}

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

impl EstConfig {
    pub(crate) fn timeout(&self) -> Result<Duration, Refusal> {
        match self.timeout_seconds {
            seconds @ 1..=120 => Ok(Duration::from_secs(seconds.into())),
            _ => Err(refuse("timeout_seconds", "it is 1 to 120")),
        }
    }

    /// The URL without a path of its own.
    pub(crate) fn origin(&self) -> Result<&str, Refusal> {
        let origin = self.url.strip_suffix('/').unwrap_or(&self.url);
        match origin.strip_prefix("https://") {
            Some(rest) if !rest.is_empty() && !rest.contains(['/', '?', '#', '@']) => Ok(origin),
            _ => Err(refuse("url", "it has the form `https://host[:port]`")),
        }
    }
}

impl EstAuth {
    pub(crate) fn read(&self) -> Result<Credentials, Refusal> {
        match self {
            Self::Identity {} => Ok(Credentials::Nothing),
            Self::Basic { user, password_file } => {
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
                let bytes = file::read(password_file, PASSWORD_BYTES_MAX, Secrecy::Secret)
                    .map_err(|error| refuse("password_file", error))?;
                let password =
                    std::str::from_utf8(&bytes).map_err(|_| refuse("password_file", "it is not UTF-8"))?;
                let password = password.trim_end_matches(['\r', '\n']);
                if password.is_empty() || password.chars().any(char::is_control) {
                    return Err(refuse("password_file", "it has one line of at least one character"));
                }
                Ok(Credentials::Basic(basic(user, password)))
            }
            Self::Certificate { certificate_file, key_file } => {
                let read = |path, secrecy| file::read(path, PEM_BYTES_MAX, secrecy);
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
                Ok(Credentials::Certificate { chain, key_pkcs8: Zeroizing::new(key) })
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
