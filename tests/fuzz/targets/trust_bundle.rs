//! No bundle panics its reader, and what was read is written so that it is read the
//! same, but for authorities of curves that are not written.
#![no_main]

use edgewarden_names::TrustDomain;
use edgewarden_svid::bundle::TrustBundle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let domain = TrustDomain::parse("other.example").unwrap();
    if let Ok(bundle) = TrustBundle::parse(bytes, &domain) {
        let again = TrustBundle::parse(&bundle.to_json(), &domain).unwrap();
        assert_eq!(again.jwt, bundle.jwt);
        assert!(again.x509.iter().all(|der| bundle.x509.contains(der)));
    }
});
