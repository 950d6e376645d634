//! No list panics, and what is kept of one is bounded.
#![no_main]

use edgewarden_est::{ATTRIBUTES_MAX, CsrAttributes};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(wishes) = CsrAttributes::parse(bytes) {
        assert!(wishes.ignored().len() <= ATTRIBUTES_MAX);
        drop(wishes.check());
    }
});
