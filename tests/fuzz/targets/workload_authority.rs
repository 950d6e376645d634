//! Whatever a client sends, in whatever pieces, only `%` and `/` are changed, into `-`,
//! and the same ones for every way to cut it.
#![no_main]

#[allow(dead_code)]
#[path = "../../../workload-api/server/src/authority.rs"]
mod authority;

use authority::Mending;

libfuzzer_sys::fuzz_target!(|input: (u8, Vec<u8>)| {
    let (size, bytes) = input;
    let mut whole = bytes.clone();
    Mending::new().mend(&mut whole);
    let mut pieces = bytes.clone();
    let mut mending = Mending::new();
    pieces.chunks_mut(usize::from(size).max(1)).for_each(|piece| mending.mend(piece));
    assert_eq!(whole, pieces);
    for (before, after) in bytes.iter().zip(&whole) {
        assert!(before == after || (matches!(before, b'%' | b'/') && *after == b'-'));
    }
});
