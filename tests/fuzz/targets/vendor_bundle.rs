//! A file of makers' certificates gives each certificate once and whole, reads the same from what it gave, and a search
//! through it ends.
#![no_main]

use std::collections::HashSet;

use edgewarden_appraisal::{BUNDLE_CERTIFICATES_MAX, VendorBundle, VendorRoots};
use edgewarden_names::UnixTime;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(bundle) = VendorBundle::read(bytes) else { return };
    assert!(!bundle.certificates.is_empty() && bundle.certificates.len() <= BUNDLE_CERTIFICATES_MAX);
    let ders: Vec<&[u8]> = bundle.certificates.iter().map(|one| one.der.as_slice()).collect();
    assert_eq!(ders.iter().collect::<HashSet<_>>().len(), ders.len());
    let again = VendorBundle::read(&ders.concat()).unwrap();
    assert_eq!(again.certificates, bundle.certificates);
    let known = VendorRoots::of(&bundle.certificates);
    assert_eq!(known.is_empty(), !bundle.certificates.iter().any(|one| one.is_root));
    for der in ders {
        let _ = known.why_useless(der, UnixTime(1_800_000_000));
    }
});
