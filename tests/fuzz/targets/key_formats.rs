//! Capabilities and ciphertexts come back from modules: any bytes are read or refused, and nothing else.
#![no_main]

use edgewarden_identityd::keys::capability::Claims;
use edgewarden_identityd::keys::ciphertext::{OVERHEAD_BYTES, Parts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if Claims::parse(bytes).is_some() {
        assert_eq!(bytes.len(), 51);
    }
    if Parts::parse(bytes).is_some() {
        assert!(bytes.len() >= OVERHEAD_BYTES);
    }
});
