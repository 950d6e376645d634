//! Bytes that parse as TPMT_SIGNATURE come back byte for byte, and their DER form is well formed.
#![no_main]

use edgewarden_evidence::tpm::Signature;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signature) = Signature::parse(bytes) {
        assert_eq!(signature.to_bytes(), bytes);
        if let Some(der) = signature.to_der() {
            assert_eq!(der[0], 0x30);
            let header = if der[1] == 0x81 { 3 } else { 2 };
            assert_eq!(usize::from(der[header - 1]), der.len() - header);
        }
    }
});
