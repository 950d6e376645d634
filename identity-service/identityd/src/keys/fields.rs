//! Fields one after the other, each behind its length, so that no two lists of fields have the same bytes.

/// u32 length, big-endian, and the bytes, for each field.
#[expect(clippy::expect_used, reason = "fields are names, numbers and contexts, all bounded far below 4 GiB")]
pub(super) fn encode(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(fields.iter().map(|field| field.len().saturating_add(4)).sum());
    for field in fields {
        let length = u32::try_from(field.len()).expect("a field below 4 GiB");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes the fields apart again: what can be taken apart in one way only was put together in one way only.
    fn decode(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut fields = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
            let (field, rest) = rest.split_at(u32::from_be_bytes(*length).try_into().unwrap());
            fields.push(field.to_vec());
            bytes = rest;
        }
        fields
    }

    fn list() -> impl Strategy<Value = Vec<Vec<u8>>> {
        // Small alphabets, so that fields meet whose bytes run together alike.
        prop::collection::vec(prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..6), 0..6)
    }

    fn encoded(fields: &[Vec<u8>]) -> Vec<u8> {
        encode(&fields.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn fields_have_one_encoding_and_it_has_one_reading(one in list(), other in list()) {
            prop_assert_eq!(decode(&encoded(&one)), one.clone());
            prop_assert_eq!(encoded(&one) == encoded(&other), one == other);
        }

        #[test]
        fn moving_a_border_between_fields_changes_the_encoding(text in prop::collection::vec(any::<u8>(), 2..12),
                                                               one in 0..12usize, other in 0..12usize) {
            let (one, other) = (one.min(text.len()), other.min(text.len()));
            let at = |border: usize| encode(&[&text[..border], &text[border..]]);
            prop_assert_eq!(at(one) == at(other), one == other);
        }
    }
}
