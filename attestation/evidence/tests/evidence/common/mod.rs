//! Builders of evidence, so that each lie can be told alone.

use std::path::PathBuf;

use edgewarden_evidence::HashAlg;

/// Real logs from public projects, when they lie beside the checkout.
pub fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/corpus")).join(folder);
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

pub fn legacy(pcr: u32, event_type: u32, data: &[u8]) -> Vec<u8> {
    let mut out = pcr.to_le_bytes().to_vec();
    out.extend(event_type.to_le_bytes());
    out.extend(if event_type == 3 { vec![0; 20] } else { HashAlg::Sha1.digest(&[data]) });
    out.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    out.extend(data);
    out
}

pub fn header(banks: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend([0, 0, 0, 0, 0, 2, 105, 2]);
    data.extend(u32::try_from(banks.len()).unwrap().to_le_bytes());
    for (alg, size) in banks {
        data.extend(alg.to_le_bytes());
        data.extend(size.to_le_bytes());
    }
    data.push(0);
    legacy(0, 3, &data)
}

pub fn agile(pcr: u32, event_type: u32, digests: &[(u16, Vec<u8>)], data: &[u8]) -> Vec<u8> {
    let mut out = pcr.to_le_bytes().to_vec();
    out.extend(event_type.to_le_bytes());
    out.extend(u32::try_from(digests.len()).unwrap().to_le_bytes());
    for (alg, digest) in digests {
        out.extend(alg.to_le_bytes());
        out.extend(digest);
    }
    out.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    out.extend(data);
    out
}

/// An event of a SHA-256 log.
pub fn sha256(pcr: u32, event_type: u32, data: &[u8]) -> Vec<u8> {
    let digest = if event_type == 3 { vec![0; 32] } else { HashAlg::Sha256.digest(&[data]) };
    agile(pcr, event_type, &[(0x0b, digest)], data)
}
