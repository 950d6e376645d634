//! Topics that a covered filter matches are matched by the covering one; two filters that match one topic overlap.
#![no_main]

use edgewarden_names::topic::{covers, matches, overlaps};

libfuzzer_sys::fuzz_target!(|input: (&str, &str, &str)| {
    let (one, other, topic) = input;
    if matches(one, topic) && matches(other, topic) {
        assert!(overlaps(one, other) && overlaps(other, one));
    }
    if covers(one, other) && matches(other, topic) {
        assert!(matches(one, topic));
    }
});
