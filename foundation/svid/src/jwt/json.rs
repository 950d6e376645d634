//! JSON from whom we do not trust (RFC 8259): bounded in bytes, depth and values, and no name twice in an object.
//!
//! RFC 7519 section 4 lets a reader take the last of two claims of one name; two readers that choose differently are
//! an attack, so here such a text is refused (RFC 7515 section 4 allows it).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Deepest nesting: the outermost object is 1.
pub const DEPTH_MAX: usize = 8;
/// Most values in one text, of all depths together.
pub const VALUES_MAX: usize = 512;

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    /// As in JavaScript. Integers above 2^53 lose their last digits.
    Number(f64),
    String(String),
    Array(Vec<Json>),
    Object(Object),
}

pub type Object = BTreeMap<String, Json>;

/// Error of a text that is no JSON as it is read here.
#[derive(Debug, thiserror::Error)]
#[error("not an acceptable JSON object: {0}")]
pub struct JsonError(#[from] serde_json::Error);

impl Json {
    /// The text of a string; `None` for every other value.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}

/// The whole of `bytes` as one object.
pub fn parse_object(bytes: &[u8]) -> Result<Object, JsonError> {
    parse_object_within(bytes, VALUES_MAX)
}

/// The same, with another bound on the values.
pub fn parse_object_within(bytes: &[u8], values_max: usize) -> Result<Object, JsonError> {
    let values = Cell::new(values_max);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Seed { values: &values, depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    match value {
        Json::Object(object) => Ok(object),
        _ => Err(JsonError(serde_json::Error::custom("it is not an object"))),
    }
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    /// Number of values that may still come.
    values: &'a Cell<usize>,
    depth: usize,
}

impl Seed<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom("nested too deep"));
        }
        Ok(Self { depth: self.depth.saturating_add(1), ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        let left = self.values.get().checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        self.values.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers are doubles here, as Json::Number says")]
    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "numbers are doubles here, as Json::Number says")]
    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let seed = self.deeper()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(seed)? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let seed = self.deeper()?;
        let mut object = Object::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(seed)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is there twice"));
            }
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_and_ambiguous_texts_are_refused() {
        let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        let many = |count: usize| format!("{{\"a\":[{}]}}", vec!["0"; count].join(","));
        for good in [
            "{}",
            " {\"a\":1} ",
            "{\"a\":{\"a\":1}}",
            &nested(DEPTH_MAX),
            &many(VALUES_MAX - 2),
            "{\"a\":1e300}",
        ] {
            assert!(parse_object(good.as_bytes()).is_ok(), "{good:.80}");
        }
        for bad in [
            "",
            "[]",
            "1",
            "null",
            "{}{}",
            "{} x",
            "{\"a\":1,}",
            "{'a':1}",
            "{\"a\":01}",
            "{\"a\":NaN}",
            "{\"a\":1e999}",
            "{\"a\":1,\"a\":1}",
            "{\"a\":1,\"\\u0061\":2}",
            "{\"b\":{\"a\":1,\"a\":2}}",
            "{\"b\":[{\"a\":1,\"a\":2}]}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\n\"}",
            &nested(DEPTH_MAX + 1),
            &nested(100_000),
            &many(VALUES_MAX - 1),
            "{\"a\":1",
            "\u{feff}{}",
        ] {
            assert!(parse_object(bad.as_bytes()).is_err(), "{bad:.80}");
        }
        assert!(parse_object(b"{\"a\":\"\xff\"}").is_err());
    }
}
