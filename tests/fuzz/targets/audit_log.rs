//! The judge of audit logs: whatever the files hold, it ends with a verdict, and without a key it vouches for nothing.
#![no_main]

use edgewarden_audit::{Keys, Verifier};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut verifier = Verifier::new(Keys::default(), None);
    let mut entries = 0;
    for (index, file) in bytes.split(|byte| *byte == 0xff).enumerate() {
        let name = format!("audit-{index}");
        if verifier.file(&name, u64::try_from(index).unwrap_or(1), file).is_err() {
            return;
        }
        entries += file.len();
    }
    if let Ok(report) = verifier.finish() {
        assert!(report.entries == 0 && report.head.is_none(), "{entries} bytes were vouched for by nobody");
    }
});
