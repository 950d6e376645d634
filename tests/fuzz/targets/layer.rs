//! Whatever a layer's bytes are, plain or with zstd or gzip, nothing panics, and what the archive says of a file is what
//! comes out of it: in order, inside of it, and no more than is stored.
#![no_main]

use std::io::{BufReader, Read};

use edgewarden_oci::archive::{Archive, Kind};
use edgewarden_oci::packing::Plain;
use edgewarden_protocol::layer::Packing;

/// A few bytes of zstd are many of tar.
const PLAIN_BYTES_MAX: u64 = 1 << 20;

fn read(packing: Packing, bytes: &[u8]) {
    let plain = Plain::new(packing, bytes).take(PLAIN_BYTES_MAX);
    let mut archive = Archive::new(BufReader::new(plain));
    while let Ok(Some(member)) = archive.next_member() {
        assert!(member.kind == Kind::File || member.size == 0);
        let (mut end, mut stored) = (0, 0);
        let read = archive.contents(&member, |offset, bytes| {
            assert!(offset >= end);
            end = offset + bytes.len() as u64;
            stored += bytes.len() as u64;
            assert!(end <= member.size && stored <= PLAIN_BYTES_MAX);
            Ok(())
        });
        if read.is_err() {
            return;
        }
        assert!(member.is_sparse() || stored == member.size);
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    match first % 4 {
        0 => read(Packing::Zstd, bytes),
        1 => read(Packing::Gzip, bytes),
        2 => read(Packing::None, bytes),
        // A fuzzer does not find checksums: they are made to fit, as far as headers lie where they seem to.
        _ => {
            let mut tar = bytes.to_vec();
            for header in tar.chunks_exact_mut(512) {
                if header[156] < 0x80 && header[148] == b'#' {
                    header[148..156].fill(b' ');
                    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
                    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
            read(Packing::None, &tar);
        }
    }
});
