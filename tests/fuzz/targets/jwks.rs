//! No JWK Set panics its reader, and what was read is written so that it is read the same.
#![no_main]

use edgewarden_svid::jwt::JwtKeys;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(keys) = JwtKeys::parse(bytes) {
        assert_eq!(JwtKeys::parse(&keys.to_jwks()).unwrap(), keys);
    }
});
