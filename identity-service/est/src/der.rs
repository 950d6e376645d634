//! Just enough DER (X.690): a reader that takes one form only, and a writer.
//!
//! Definite, minimal lengths; tags of one byte; no recursion, so that depth is what the grammar in the calling code is.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// `[0]`, constructed.
pub(crate) const CONTEXT_0: u8 = 0xa0;
/// `[1]`, constructed.
pub(crate) const CONTEXT_1: u8 = 0xa1;

/// Most bytes of a length; more than three are longer than anything we read.
const LENGTH_BYTES_MAX: usize = 3;

/// One element: its tag, its content, and all of its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// Elements one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self) -> Result<Element<'a>, Malformed> {
        const CUT: Malformed = Malformed("it is cut off");
        let (&tag, rest) = self.0.split_first().ok_or(CUT)?;
        if tag & 0x1f == 0x1f {
            return Err(Malformed("a tag of more than one byte"));
        }
        let (&first, rest) = rest.split_first().ok_or(CUT)?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let count = usize::from(first & 0x7f);
            if count == 0 {
                return Err(Malformed("an indefinite length: it is BER, not DER"));
            }
            if count > LENGTH_BYTES_MAX {
                return Err(Malformed("a length out of bounds"));
            }
            let (bytes, rest) = rest.split_at_checked(count).ok_or(CUT)?;
            let length = bytes.iter().fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
            if bytes.first() == Some(&0) || length < 0x80 {
                return Err(Malformed("a length that is not minimal"));
            }
            (length, rest)
        };
        let (content, after) = rest.split_at_checked(length).ok_or(CUT)?;
        let (whole, _) = self.0.split_at_checked(self.0.len().saturating_sub(after.len())).ok_or(CUT)?;
        self.0 = after;
        Ok(Element { tag, content, whole })
    }

    /// The content of the next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8, otherwise: &'static str) -> Result<&'a [u8], Malformed> {
        let element = self.any()?;
        if element.tag == tag { Ok(element.content) } else { Err(Malformed(otherwise)) }
    }

    /// The next element if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
        if self.0.first() == Some(&tag) { Ok(Some(self.any()?.content)) } else { Ok(None) }
    }

    pub(crate) fn finish(self, otherwise: &'static str) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed(otherwise)) }
    }
}

/// An element of these parts. Contents that we write are far below the three bytes that a length may take here.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let bytes = length.to_be_bytes();
    let mut significant = bytes.as_slice();
    while let [0, rest @ ..] = significant {
        significant = rest;
    }
    let mut der = vec![tag];
    match significant {
        [] => der.push(0),
        [short] if *short < 0x80 => der.push(*short),
        long => {
            // 0x80 and the number of the length's bytes.
            der.push(long.iter().fold(0x80, |first: u8, _| first.saturating_add(1)));
            der.extend_from_slice(long);
        }
    }
    for part in parts {
        der.extend_from_slice(part);
    }
    der
}

/// An object identifier in its dotted form, for people.
pub(crate) fn oid_text(content: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 64;
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0_u64;
    for byte in content.iter().take(SHOWN_BYTES_MAX) {
        arc = (arc << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if arcs.is_empty() {
                let root = (arc / 40).min(2);
                arcs.extend([root, arc.saturating_sub(root * 40)]);
            } else {
                arcs.push(arc);
            }
            arc = 0;
        }
    }
    arcs.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_form_is_read() {
        for (name, bytes, wrong) in [
            ("nothing", &[][..], "it is cut off"),
            ("no length", &[0x30], "it is cut off"),
            ("content cut", &[0x04, 2, 1], "it is cut off"),
            ("length cut", &[0x04, 0x82, 1], "it is cut off"),
            ("indefinite", &[0x30, 0x80, 0, 0], "an indefinite length: it is BER, not DER"),
            ("long form of a short length", &[0x04, 0x81, 1, 7], "a length that is not minimal"),
            ("leading zero", &[0x04, 0x82, 0, 0x80], "a length that is not minimal"),
            ("four bytes of length", &[0x04, 0x84, 1, 0, 0, 0], "a length out of bounds"),
            ("long tag", &[0x1f, 0x81, 1, 0], "a tag of more than one byte"),
        ] {
            assert_eq!(Reader::new(bytes).any().map(drop), Err(Malformed(wrong)), "{name}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 127, 128, 255, 256, 65535, 65536, 200_000] {
            let content = vec![7; length];
            let der = element(OCTET_STRING, &[&content]);
            let mut reader = Reader::new(&der);
            let read = reader.any().unwrap();
            assert_eq!((read.tag, read.content, read.whole), (OCTET_STRING, &content[..], &der[..]));
            assert_eq!(reader.finish("more"), Ok(()));
        }
    }

    #[test]
    fn object_identifiers_are_shown_as_people_write_them() {
        assert_eq!(oid_text(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x07]), "1.2.840.113549.1.9.7");
        assert_eq!(oid_text(&[0x55, 0x1d, 0x11]), "2.5.29.17");
        assert_eq!(oid_text(&[0x88, 0x37]), "2.999");
    }
}
