use std::fmt;

/// Longest label: one DNS label (RFC 1035 section 2.3.4), because a label becomes a host name in a module.
const LABEL_BYTES_MAX: usize = 63;

/// Error of a text that is no DNS label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("a name has 1 to {LABEL_BYTES_MAX} characters, this one has {0}")]
    Length(usize),
    #[error("a name holds only `a-z`, `0-9` and `-`, not `{0}`")]
    Character(char),
    #[error("a name neither begins nor ends with `-`")]
    Hyphen,
}

fn check(label: &str) -> Result<(), LabelError> {
    if label.is_empty() || label.len() > LABEL_BYTES_MAX {
        return Err(LabelError::Length(label.len()));
    }
    if let Some(bad) = label.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(LabelError::Character(bad));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(LabelError::Hyphen);
    }
    Ok(())
}

/// Implements what all parse-only text types share: `parse`, `as_str`, `Display`, and serde through the parser.
macro_rules! text_type {
    ($type:ident, $error:ty) => {
        impl $type {
            /// The text as it was parsed.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl std::str::FromStr for $type {
            type Err = $error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $type {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::parse(&text)
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.0.into()
            }
        }
    };
}
pub(crate) use text_type;

macro_rules! label_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Box<str>);
        impl $type {
            /// Parses a DNS label (RFC 1123): `a-z 0-9 -`, no `-` at either end.
            pub fn parse(label: &str) -> Result<Self, LabelError> {
                check(label)?;
                Ok(Self(label.into()))
            }
        }
        text_type!($type, LabelError);
    };
}

label_type!(
    /// A gateway, unique in its trust domain.
    GatewayName
);
label_type!(
    /// A module (container), unique on its gateway.
    ModuleName
);
label_type!(
    /// A leaf device, unique on its gateway.
    LeafName
);
label_type!(
    /// A secret of a module, unique for it.
    SecretName
);
label_type!(
    /// A volume of a module, unique for it.
    VolumeName
);
label_type!(
    /// A key or secret that a module keeps in the gateway's keystore, unique in its module.
    KeyName
);

impl ModuleName {
    /// Names that Edgewarden's own processes use when they ask for a certificate like any module.
    pub const RESERVED: [&'static str; 3] = ["identityd", "runtimed", "gatewayd"];

    /// True for a name that no deployment may use.
    pub fn is_reserved(&self) -> bool {
        Self::RESERVED.contains(&self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (text, expected) in [
            ("analytics", Ok(())),
            ("a", Ok(())),
            ("glucose-1", Ok(())),
            ("", Err(LabelError::Length(0))),
            (&"a".repeat(64), Err(LabelError::Length(64))),
            ("Analytics", Err(LabelError::Character('A'))),
            ("a/b", Err(LabelError::Character('/'))),
            ("a.b", Err(LabelError::Character('.'))),
            ("a b", Err(LabelError::Character(' '))),
            ("-a", Err(LabelError::Hyphen)),
            ("a-", Err(LabelError::Hyphen)),
        ] {
            assert_eq!(ModuleName::parse(text).map(drop), expected, "{text}");
        }
    }
}
