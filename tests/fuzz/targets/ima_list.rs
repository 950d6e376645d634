//! A measurement list that parses replays, and each of its prefixes is found again.
#![no_main]

use edgewarden_evidence::HashAlg;
use edgewarden_evidence::ima::{Extension, MeasurementList};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(list) = MeasurementList::parse(bytes) {
        let count = list.entries().len();
        for extension in [Extension::PerBank, Extension::PaddedSha1] {
            let value = list.replay(HashAlg::Sha256, extension, count);
            assert!(list.prefix_of(HashAlg::Sha256, extension, &value).is_some_and(|found| found <= count));
        }
    }
});
