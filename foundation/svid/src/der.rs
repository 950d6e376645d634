//! Certificates one after the other, as the Workload API carries chains and bundles. Distrusts every byte.

/// Most certificates in one chain or bundle.
pub const CERTIFICATES_MAX: usize = 64;

/// Error of bytes that are no row of certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    #[error("not a sequence of DER certificates")]
    Malformed,
    #[error("more than {CERTIFICATES_MAX} certificates")]
    TooMany,
}

/// Splits concatenated DER SEQUENCEs (X.690 section 8.1.3, definite length, at most 65535 bytes each).
/// Their contents are for the reader of each certificate to judge.
pub fn split(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, SplitError> {
    let mut certificates = Vec::new();
    while !bytes.is_empty() {
        if certificates.len() == CERTIFICATES_MAX {
            return Err(SplitError::TooMany);
        }
        let length = element_length(bytes).ok_or(SplitError::Malformed)?;
        let (certificate, rest) = bytes.split_at_checked(length).ok_or(SplitError::Malformed)?;
        certificates.push(certificate.to_vec());
        bytes = rest;
    }
    Ok(certificates)
}

/// The length of the SEQUENCE at the beginning, with its tag and length octets.
fn element_length(bytes: &[u8]) -> Option<usize> {
    const SEQUENCE: u8 = 0x30;
    match *bytes {
        [SEQUENCE, length @ 0..=0x7f, ..] => Some(2 + usize::from(length)),
        // The shortest form is the only one that DER allows.
        [SEQUENCE, 0x81, length @ 0x80..=0xff, ..] => Some(3 + usize::from(length)),
        [SEQUENCE, 0x82, high @ 1..=0xff, low, ..] => Some(4 + usize::from(u16::from_be_bytes([high, low]))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_split_by_their_lengths() {
        let short = vec![0x30, 2, 5, 0];
        let medium = [vec![0x30, 0x81, 0x80], vec![7; 0x80]].concat();
        let long = [vec![0x30, 0x82, 1, 0], vec![7; 0x100]].concat();
        let all = [short.clone(), medium.clone(), long.clone(), short.clone()].concat();
        assert_eq!(split(&all), Ok(vec![short.clone(), medium, long, short.clone()]));
        assert_eq!(split(&[]), Ok(vec![]));
        assert_eq!(split(&short.repeat(CERTIFICATES_MAX)).unwrap().len(), CERTIFICATES_MAX);
        assert_eq!(split(&short.repeat(CERTIFICATES_MAX + 1)), Err(SplitError::TooMany));
    }

    proptest::proptest! {
        #[test]
        fn what_is_split_is_all_there(bytes: Vec<u8>, lengths in proptest::collection::vec(0..300usize, 0..8)) {
            if let Ok(parts) = split(&bytes) {
                proptest::prop_assert_eq!(parts.concat(), bytes);
            }
            let parts: Vec<Vec<u8>> = lengths.into_iter().map(sequence).collect();
            proptest::prop_assert_eq!(split(&parts.concat()), Ok(parts));
        }
    }

    fn sequence(length: usize) -> Vec<u8> {
        let [.., high, low] = length.to_be_bytes();
        let head = match length {
            0..0x80 => vec![0x30, low],
            0x80..0x100 => vec![0x30, 0x81, low],
            _ => vec![0x30, 0x82, high, low],
        };
        [head, vec![0xa5; length]].concat()
    }

    #[test]
    fn what_is_not_der_is_refused() {
        for bad in [
            &[0x30][..],
            &[0x31, 0],
            &[0x30, 1],
            &[0x30, 2, 5],
            &[0x30, 0, 0x30],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81],
            &[0x30, 0x81, 1, 5],
            &[0x30, 0x82, 0, 1, 5],
            &[0x30, 0x82, 1],
            &[0x30, 0x83, 1, 0, 0],
            &[0x30, 0xff],
        ] {
            assert_eq!(split(bad), Err(SplitError::Malformed), "{bad:x?}");
        }
    }
}
