//! What a covered filter matches, the covering one matches; they overlap then.
#![no_main]

use edgewarden_policy::mqtt::{covers, matches, overlaps};

libfuzzer_sys::fuzz_target!(|input: (&str, &str, &str)| {
    let (one, other, topic) = input;
    if matches(one, topic) && matches(other, topic) {
        assert!(overlaps(one, other) && overlaps(other, one));
    }
    if covers(one, other) && matches(other, topic) {
        assert!(matches(one, topic));
    }
});
