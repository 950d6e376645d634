//! One-time tokens: who has one joins, or enrols, once. Wiped from memory when dropped, and silent in `Debug`.

use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

macro_rules! tokens {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Deserialize)]
        #[serde(from = "String")]
        pub struct $name(Zeroizing<String>);

        impl $name {
            /// The text, to be sent, hashed or shown to who asked for it.
            pub fn reveal(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Zeroizing::new(text))
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                text.to_owned().into()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        /// In a time that does not tell how much is the same.
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
            }
        }

        impl Eq for $name {}

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )*};
}

tokens! {
    /// A gateway's, for the fleet. Goes over the wire, to the person that made it, and nowhere else.
    JoinToken;
    /// A leaf device's, for its gateway. Goes over the wire, to the person that made it, and nowhere else.
    LeafToken;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{LeafAllowed, Reply, Request};
    use crate::leaf::Enrol;

    #[test]
    fn a_token_is_on_the_wire_and_in_no_log() {
        let token = JoinToken::from("5ec2e7");
        assert_eq!(serde_json::to_string(&token).unwrap(), "\"5ec2e7\"");
        assert_eq!(serde_json::from_str::<JoinToken>("\"5ec2e7\"").unwrap(), token);
        assert_ne!(token, JoinToken::from("5ec2e8"));
        assert!(!format!("{token:?} {token:#?} {:?}", Some(&token)).contains("5ec2"));
    }

    #[test]
    fn no_message_that_carries_a_leaf_token_shows_it() {
        let token = || LeafToken::from("5ec2e7");
        let leaf = || edgewarden_names::LeafName::parse("sensor-1").unwrap();
        let issue = Request::LeafIssue { leaf: leaf(), token: token(), csr: Vec::new().into() };
        let reply = Reply::LeafToken(LeafAllowed { token: token(), expires: edgewarden_names::UnixTime(7) });
        let enrol = Enrol { leaf: leaf(), token: token(), csr: Vec::new().into() };
        for shown in [format!("{issue:?}"), format!("{reply:?}"), format!("{enrol:?}")] {
            assert!(!shown.contains("5ec2"), "{shown}");
        }
        // On the wire it is what it was.
        let text = r#"{"leaf-token":{"token":"5ec2e7","expires":7}}"#;
        assert_eq!(serde_json::to_string(&reply).unwrap(), text);
        assert_eq!(serde_json::from_str::<Reply>(text).unwrap(), reply);
    }
}
