//! Whatever a token server answers, it is a token that a header can carry, for a time with an end, or refused; and nothing
//! shows it.
#![no_main]

use std::time::Duration;

use edgewarden_oci::token::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(answer) = parse(bytes) {
        assert!(answer.lifetime >= Duration::from_secs(60) && answer.lifetime <= Duration::from_secs(3600));
        assert!(format!("{answer:?}").starts_with("TokenAnswer { token: Secret(..), lifetime: "));
    }
});
