//! A boot log that parses replays to whole digests in each of its banks, and padding changes nothing.
#![no_main]

use edgewarden_evidence::event_log::{EventLog, LOG_BYTES_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(log) = EventLog::parse(bytes) {
        let values = log.replay();
        for bank in log.banks() {
            for pcr in 0..edgewarden_evidence::PCR_COUNT {
                assert_eq!(values.get(*bank, pcr).map(<[u8]>::len), Some(bank.size()));
            }
        }
        assert!(log.events().iter().all(|event| !event.extends() || event.pcr < 24));
        // Zeros or ones that the firmware's buffer has after the log; one kind, whichever the log ends in already.
        let pad = if bytes.last() == Some(&0xff) { 0xff } else { 0 };
        let padded = [bytes, &[pad; 64]].concat();
        if padded.len() <= LOG_BYTES_MAX {
            assert_eq!(EventLog::parse(&padded).as_ref(), Ok(&log));
        }
    }
});
