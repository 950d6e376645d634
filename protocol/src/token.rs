//! A join token: who has it joins once. Wiped from memory when dropped, and silent in `Debug`.

use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

/// Goes over the wire, to the person that made it, and nowhere else.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct JoinToken(Zeroizing<String>);

impl JoinToken {
    /// The text, to be sent, hashed or shown to who asked for it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for JoinToken {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<&str> for JoinToken {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Serialize for JoinToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// In a time that does not tell how much is the same.
impl PartialEq for JoinToken {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }
}

impl Eq for JoinToken {}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_on_the_wire_and_in_no_log() {
        let token = JoinToken::from("5ec2e7");
        assert_eq!(serde_json::to_string(&token).unwrap(), "\"5ec2e7\"");
        assert_eq!(serde_json::from_str::<JoinToken>("\"5ec2e7\"").unwrap(), token);
        assert_ne!(token, JoinToken::from("5ec2e8"));
        assert!(!format!("{token:?} {token:#?} {:?}", Some(&token)).contains("5ec2"));
    }
}
