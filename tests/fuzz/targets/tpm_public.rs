//! Bytes that parse as TPMT_PUBLIC come back byte for byte, so the name is the name of the bytes.
#![no_main]

use edgewarden_evidence::tpm::{Key, Public};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(public) = Public::parse(bytes) {
        assert_eq!(public.to_bytes(), bytes);
        assert_eq!(public.name().len(), 2 + public.name_alg.size());
        if let Key::Ecc { curve, .. } = &public.key {
            assert_eq!(public.point().map(|point| point.len()), Some(1 + 2 * curve.size()));
        }
    }
});
