//! The files of an exported quote, as tpm2-tools have them.

use std::io;

use edgewarden_protocol::Bytes;

pub(super) const MESSAGE: &str = "quote.msg";
pub(super) const SIGNATURE: &str = "quote.sig";
pub(super) const AK: &str = "ak.pem";
pub(super) const PCRS: &str = "pcrs.bin";
pub(super) const EVENT_LOG: &str = "event_log.bin";
pub(super) const RUNTIME_LOG: &str = "runtime_log.txt";

/// A `UINT32` count.
fn count(number: usize) -> io::Result<[u8; 4]> {
    Ok(u32::try_from(number).map_err(io::Error::other)?.to_le_bytes())
}

/// TPM_ALG_SHA256 (TCG Algorithm Registry).
const SHA256: u16 = 0x000b;
/// `TPML_PCR_SELECTION` in memory: a count and 16 selections of 8 bytes.
pub(super) const SELECTION_BYTES: usize = 4 + 16 * 8;
/// `TPML_DIGEST` in memory: a count and 8 digests of 2 + 64 bytes.
pub(super) const DIGESTS_BYTES: usize = 4 + DIGESTS_MAX * 66;
pub(super) const DIGESTS_MAX: usize = 8;

/// The `serialized` PCR format of tpm2-tools 5: the C structures of the TPM software stack, little-endian. First the
/// selection, then a count and that many lists of up to eight values, as TPM2_PCR_Read hands them out.
pub(super) fn serialized(pcrs: &[(u8, Bytes)]) -> io::Result<Vec<u8>> {
    let mut mask = [0_u8; 4];
    for (index, _) in pcrs {
        let byte = mask.get_mut(usize::from(index / 8)).ok_or(io::ErrorKind::InvalidData)?;
        *byte |= 1 << (index % 8);
    }
    let mut file = 1_u32.to_le_bytes().to_vec();
    file.extend(SHA256.to_le_bytes());
    file.push(3);
    file.extend(mask);
    file.resize(SELECTION_BYTES, 0);
    let lists: Vec<_> = pcrs.chunks(DIGESTS_MAX).collect();
    file.extend(count(lists.len())?);
    for list in lists {
        let end = file.len() + DIGESTS_BYTES;
        file.extend(count(list.len())?);
        for (_, value) in list {
            let size = u16::try_from(value.as_slice().len()).map_err(io::Error::other)?;
            file.extend(size.to_le_bytes());
            let next = file.len() + 64;
            file.extend(value.as_slice());
            file.resize(next, 0);
        }
        file.resize(end, 0);
    }
    Ok(file)
}
