//! A runtime log that parses is written as it was read, leads to its own end, and each of its values is found again.
#![no_main]

use edgewarden_evidence::runtime_log::{Entry, RuntimeLog};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(log) = RuntimeLog::parse(bytes) {
        let text: String = log.entries().iter().map(Entry::line).collect();
        assert_eq!(text.as_bytes(), bytes);
        if let (Some(end), Some(start)) = (log.end(), log.newest_start()) {
            assert_eq!(log.missing(&end), Some(Vec::new()));
            assert!(log.missing(&start.value).is_some());
            let _ = log.replay(start.pcr, &end);
        }
    }
});
