//! No request panics, and an accepted one gives a point on P-256.
#![no_main]

use edgewarden_ca::{chain, public_point, spki};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(point) = public_point(bytes) {
        spki::check_point(&point).unwrap();
    }
    drop(chain::facts(bytes));
});
