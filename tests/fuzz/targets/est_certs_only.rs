//! No message panics; what is accepted are pieces of it, in its order, within the
//! bounds, and each of them is read or refused.
#![no_main]

use edgewarden_est::{CertificateBag, certs_only};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(certificates) = certs_only::parse(bytes) {
        assert!((1..=certs_only::CERTIFICATES_MAX).contains(&certificates.len()));
        let mut after = 0;
        for certificate in &certificates {
            let at = certificate.as_ptr() as usize - bytes.as_ptr() as usize;
            assert!(at > after && at + certificate.len() <= bytes.len());
            after = at;
        }
        if let Ok(bag) = CertificateBag::new(certificates.iter().copied()) {
            assert!(bag.certificates().all(|read| certificates.contains(&read)));
        }
    }
});
