//! A payload that parses as a secret's document keeps its limits, reads back as itself, and is bound to a context that
//! another version does not have.
#![no_main]

use edgewarden_protocol::secret::{Content, SecretDocument, VALUE_BYTES_MAX};

libfuzzer_sys::fuzz_target!(|payload: &[u8]| {
    let Ok(document) = SecretDocument::parse(payload) else { return };
    assert!(document.version > 0 && i64::try_from(document.version).is_ok());
    if let Content::Sealed(sealed) = &document.content {
        assert!(sealed.length() <= VALUE_BYTES_MAX);
    }
    let again = serde_json::to_vec(&document).unwrap();
    let again = SecretDocument::parse(&again).unwrap();
    assert_eq!(again, document);
    let mut next = again;
    next.version = next.version.wrapping_add(1);
    assert_ne!(next.context(), document.context());
});
