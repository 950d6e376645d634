//! A password or a token.

use std::fmt;

use base64::Engine as _;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// Text that is wiped when it is dropped and that no `Debug` shows.
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// `Basic` credentials (RFC 7617) of a user with this password.
    pub(crate) fn basic(&self, user: &str) -> Option<HeaderValue> {
        let mut pair = Zeroizing::new(String::with_capacity(user.len() + self.0.len() + 1));
        for part in [user, ":", self.reveal()] {
            pair.push_str(part);
        }
        header("Basic ", |header| {
            base64::engine::general_purpose::STANDARD.encode_string(pair.as_bytes(), header);
        })
    }

    /// `Bearer` credentials (RFC 6750); `None` when a header cannot carry them.
    pub(crate) fn bearer(&self) -> Option<HeaderValue> {
        header("Bearer ", |header| header.push_str(self.reveal()))
    }
}

/// Bytes of a request that are wiped with the last copy of the handle.
pub(crate) fn wiped(text: Zeroizing<String>) -> Bytes {
    struct Owner(Zeroizing<String>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }
    Bytes::from_owner(Owner(text))
}

fn header(scheme: &str, fill: impl FnOnce(&mut String)) -> Option<HeaderValue> {
    let mut text = Zeroizing::new(String::from(scheme));
    fill(&mut text);
    let mut value = HeaderValue::from_maybe_shared(wiped(text)).ok()?;
    // Neither shown by `Debug` nor kept by anybody's compression.
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}
