//! No text panics the parser of tokens, what is read has one text, and nothing is believed
//! without a key.
#![no_main]

use std::collections::BTreeMap;

use edgewarden_names::UnixTime;
use edgewarden_svid::jwt::jws::Token;
use edgewarden_svid::jwt::{SigningKey, validate};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(token) = Token::parse(text) {
        assert!(text.starts_with(token.signed) && !token.kid.is_empty());
        for longer in [format!("{text}="), format!("{text}.x"), format!(" {text}")] {
            assert!(Token::parse(&longer).is_err());
        }
        let key = SigningKey::generate().unwrap().public(None);
        assert!(!token.algorithm.verifies(&key.public, token.signed.as_bytes(), &token.signature));
    }
    assert!(validate(text, "db", &BTreeMap::new(), UnixTime(0)).is_err());
});
