//! Objects of the TPM as they lie in files: a line that says what it is, then TPMT_PUBLIC and the private part of
//! TPM2B_PRIVATE, each after its length (two bytes, big-endian). Only the TPM that made an object can load it.

use tss_esapi::structures::{Private, Public};
use tss_esapi::traits::UnMarshall as _;

use super::convert;
use super::link::Fault;
use crate::error::KeystoreError;

pub(super) fn write(magic: &[u8], public: &Public, private: &Private) -> Result<Vec<u8>, Fault> {
    let mut blob = magic.to_vec();
    for part in [convert::public_bytes(public)?.as_slice(), private.value()] {
        let length =
            u16::try_from(part.len()).map_err(|_| KeystoreError::Answer("an object's part is too long"))?;
        blob.extend(length.to_be_bytes());
        blob.extend_from_slice(part);
    }
    Ok(blob)
}

/// The two parts of a file, or what is wrong with it.
pub(super) fn read(magic: &[u8], blob: &[u8]) -> Result<(Public, Private), &'static str> {
    let (public, private) = parts(magic, blob).ok_or("not the form of an object of the TPM")?;
    let parsed = Public::unmarshall(public).map_err(|_| "a malformed public part")?;
    // The parser of the TSS reads what it needs and leaves the rest.
    if convert::public_bytes(&parsed).ok().as_deref() != Some(public) {
        return Err("a malformed public part");
    }
    Ok((parsed, Private::try_from(private).map_err(|_| "a malformed private part")?))
}

fn parts<'a>(magic: &[u8], blob: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
    }
    let (public, rest) = part(blob.strip_prefix(magic)?)?;
    let (private, rest) = part(rest)?;
    rest.is_empty().then_some((public, private))
}

/// Error of a file that the TPM refuses: it says that the file is wrong, not that the TPM is.
pub(super) fn refused(
    fault: Fault,
    corrupted: &impl Fn(&'static str) -> Fault,
    found: &'static str,
) -> Fault {
    match fault {
        Fault::Final(KeystoreError::Tpm { .. }) => corrupted(found),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_strictly() {
        let magic = b"edgewarden something 1\n";
        let good = [&magic[..], &[0, 1, 7, 0, 2, 8, 9]].concat();
        assert_eq!(parts(magic, &good), Some((&[7][..], &[8, 9][..])));
        for length in 0..good.len() {
            assert_eq!(parts(magic, &good[..length]), None, "{length}");
        }
        assert_eq!(parts(magic, &[&good[..], &[0]].concat()), None);
        assert_eq!(parts(b"edgewarden something 2\n", &good), None);
    }
}
