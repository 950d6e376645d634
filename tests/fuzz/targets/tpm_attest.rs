//! Bytes that parse as TPMS_ATTEST come back byte for byte: nothing that was signed is lost or read twice.
#![no_main]

use edgewarden_evidence::tpm::Attest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(attest) = Attest::parse(bytes) {
        assert_eq!(attest.to_bytes(), bytes);
    }
});
