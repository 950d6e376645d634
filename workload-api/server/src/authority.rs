//! Lets clients in whose `:authority` is the path of the socket.
//!
//! gRPC's C core (Python, C++, Ruby, PHP) names a Unix socket in `:authority` as `run%2Fedgewarden%2F…`, which RFC 3986
//! allows, and gRPC for Java as `/run/edgewarden/…`, which it does not. The library that reads our requests takes neither,
//! and every call would fail with PROTOCOL_ERROR before we see it. So what a client sends passes through here, and a `%` or
//! `/` in the value of `:authority` becomes a `-`. Nothing else is changed, no byte is added, removed or held back, and
//! nobody reads `:authority`: the socket says whose it is.
//!
//! This follows HTTP/2 frames (RFC 9113 section 4) and header fields (RFC 7541 section 6) byte by byte, as far as it must
//! to know where that value is. What it cannot follow it leaves alone; whether it is right is for the reader behind to say.
//! A Huffman-coded value is left alone too: the C core sends none, and Java none that is as short as the path of a socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE_BYTES: u32 = 24;
const HEAD_BYTES: u32 = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
const NAME: &[u8] = b":authority";
/// `:authority` in the static table (RFC 7541 appendix A).
const NAME_INDEX: u8 = 1;

/// Place of the next byte within a header block.
#[derive(Debug, Clone, Copy)]
enum Field {
    Start,
    /// Further bytes of an integer that is not needed.
    Integer {
        then_value: bool,
    },
    NameLength,
    Name {
        left: u32,
        matches: bool,
        at: u32,
    },
    ValueLength {
        ours: bool,
    },
    Value {
        left: u32,
        ours: bool,
    },
    /// Further bytes of a length.
    MoreLength {
        sum: u32,
        shift: u32,
        of: Text,
    },
}

/// A text whose length is being read.
#[derive(Debug, Clone, Copy)]
enum Text {
    Name { raw: bool },
    Value { ours: bool },
}

impl Field {
    /// The state after `byte`, which is changed if it must be. `None`: cannot be followed.
    fn next(self, byte: &mut u8) -> Option<Self> {
        Some(match self {
            Self::Start => match *byte {
                0x80.. if *byte & 0x7f == 0x7f => Self::Integer { then_value: false },
                0x80.. => Self::Start,
                0x40.. => Self::literal(*byte & 0x3f, 0x3f),
                0x20.. if *byte & 0x1f == 0x1f => Self::Integer { then_value: false },
                0x20.. => Self::Start,
                _ => Self::literal(*byte & 0x0f, 0x0f),
            },
            Self::Integer { then_value } => match (*byte & 0x80, then_value) {
                (0, true) => Self::ValueLength { ours: false },
                (0, false) => Self::Start,
                _ => self,
            },
            Self::NameLength => Text::Name { raw: *byte & 0x80 == 0 }.begin(*byte & 0x7f),
            Self::ValueLength { ours } => Text::Value { ours: ours && *byte & 0x80 == 0 }.begin(*byte & 0x7f),
            Self::MoreLength { sum, shift, of } => {
                let sum = sum.checked_add(u32::from(*byte & 0x7f).checked_shl(shift)?)?;
                if *byte & 0x80 == 0 {
                    of.of_length(sum)
                } else {
                    // Four bytes hold any length that fits into a header list.
                    let shift = Some(shift.saturating_add(7)).filter(|shift| *shift < 28)?;
                    Self::MoreLength { sum, shift, of }
                }
            }
            Self::Name { left, matches, at } => {
                let expected = usize::try_from(at).ok().and_then(|at| NAME.get(at));
                let matches = matches && expected == Some(byte);
                match left.saturating_sub(1) {
                    0 => Self::ValueLength { ours: matches },
                    left => Self::Name { left, matches, at: at.saturating_add(1) },
                }
            }
            Self::Value { left, ours } => {
                if ours && matches!(*byte, b'%' | b'/') {
                    *byte = b'-';
                }
                match left.saturating_sub(1) {
                    0 => Self::Start,
                    left => Self::Value { left, ours },
                }
            }
        })
    }

    /// A literal field whose name has this index; 0: the name follows.
    fn literal(index: u8, largest: u8) -> Self {
        match index {
            0 => Self::NameLength,
            index if index == largest => Self::Integer { then_value: true },
            index => Self::ValueLength { ours: index == NAME_INDEX },
        }
    }
}

impl Text {
    fn begin(self, length: u8) -> Field {
        if length == 0x7f {
            Field::MoreLength { sum: 0x7f, shift: 0, of: self }
        } else {
            self.of_length(length.into())
        }
    }

    fn of_length(self, left: u32) -> Field {
        match (self, left) {
            (Self::Name { .. }, 0) => Field::ValueLength { ours: false },
            (Self::Name { raw }, left) => {
                let matches = raw && usize::try_from(left) == Ok(NAME.len());
                Field::Name { left, matches, at: 0 }
            }
            (Self::Value { .. }, 0) => Field::Start,
            (Self::Value { ours }, left) => Field::Value { left, ours },
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum At {
    Preface {
        left: u32,
    },
    Head {
        have: u32,
        length: u32,
        kind: u8,
        flags: u8,
    },
    PadLength {
        left: u32,
        flags: u8,
    },
    /// Bytes before and within a part of a header block: the priority, the block, the padding.
    Block {
        skip: u32,
        left: u32,
        padding: u32,
        ends: bool,
    },
    Other {
        left: u32,
    },
}

/// A client's bytes so far, as far as they matter: the place in the frames, and in the header block.
#[derive(Debug)]
pub(super) struct Mending {
    at: At,
    /// `None` when it could not be followed: then nothing more is changed.
    field: Option<Field>,
}

impl Mending {
    pub(super) fn new() -> Self {
        Self { at: At::Preface { left: PREFACE_BYTES }, field: Some(Field::Start) }
    }

    /// The next bytes of the connection, in pieces of any size.
    pub(super) fn mend(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.at = self.next(byte);
        }
    }

    fn next(&mut self, byte: &mut u8) -> At {
        match self.at {
            At::Preface { left: left @ 2.. } => At::Preface { left: left.saturating_sub(1) },
            At::Preface { .. } => head(),
            At::Head { have, mut length, mut kind, mut flags } => {
                match have {
                    0..=2 => length = (length << 8) | u32::from(*byte),
                    3 => kind = *byte,
                    4 => flags = *byte,
                    _ => {}
                }
                let have = have.saturating_add(1);
                if have < HEAD_BYTES {
                    At::Head { have, length, kind, flags }
                } else {
                    self.frame(kind, flags, length)
                }
            }
            At::PadLength { left, flags } => self.block(left, flags, (*byte).into()),
            At::Block { skip: skip @ 1.., left, padding, ends } => {
                self.rest(skip.saturating_sub(1), left, padding, ends)
            }
            At::Block { left, padding, ends, .. } => {
                self.field = self.field.and_then(|field| field.next(byte));
                self.rest(0, left.saturating_sub(1), padding, ends)
            }
            At::Other { left } => other(left.saturating_sub(1)),
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, length: u32) -> At {
        match kind {
            HEADERS if flags & PADDED != 0 && length > 0 => {
                At::PadLength { left: length.saturating_sub(1), flags }
            }
            HEADERS => self.block(length, flags, 0),
            CONTINUATION => self.rest(0, length, 0, flags & END_HEADERS != 0),
            _ => other(length),
        }
    }

    fn block(&mut self, length: u32, flags: u8, padding: u32) -> At {
        let skip = if flags & PRIORITY == 0 { 0 } else { 5 };
        let Some(left) = length.checked_sub(padding).and_then(|left| left.checked_sub(skip)) else {
            self.field = None;
            return other(length);
        };
        self.rest(skip, left, padding, flags & END_HEADERS != 0)
    }

    /// The place after this much of a part of a header block.
    fn rest(&mut self, skip: u32, left: u32, padding: u32, ends: bool) -> At {
        if skip > 0 || left > 0 {
            return At::Block { skip, left, padding, ends };
        }
        if ends {
            // A block that ends within a field is an error, and the end of the connection.
            self.field = self.field.filter(|field| matches!(field, Field::Start));
        }
        other(padding)
    }
}

fn head() -> At {
    At::Head { have: 0, length: 0, kind: 0, flags: 0 }
}

fn other(left: u32) -> At {
    if left == 0 { head() } else { At::Other { left } }
}

/// A connection whose incoming bytes are mended.
#[derive(Debug)]
pub(super) struct Mended<S> {
    inner: S,
    mending: Mending,
}

impl<S> Mended<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, mending: Mending::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Some(new) = buffer.filled_mut().get_mut(before..) {
            self.mending.mend(new);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length[..], &[kind, flags, 0, 0, 0, 1], body].concat()
    }

    fn text(text: &[u8]) -> Vec<u8> {
        let length = text.len();
        let byte = |value: usize| u8::try_from(value).unwrap();
        let mut coded = if length < 127 { vec![byte(length)] } else { vec![127, byte(length - 127)] };
        coded.extend(text);
        coded
    }

    fn field(first: u8, value: &[u8]) -> Vec<u8> {
        [&[first], text(value).as_slice()].concat()
    }

    fn named(name: &[u8], value: &[u8]) -> Vec<u8> {
        [&[0x40], text(name).as_slice(), &text(value)].concat()
    }

    /// A connection of frames before and after, in pieces of each size.
    fn check(frames: &[u8], expected: &[u8]) {
        let all = [PREFACE, &frame(4, 0, &[]), frames].concat();
        for size in 1..=all.len().min(80) {
            let mut bytes = all.clone();
            let mut mending = Mending::new();
            bytes.chunks_mut(size).for_each(|piece| mending.mend(piece));
            assert_eq!(bytes, [PREFACE, &frame(4, 0, &[]), expected].concat(), "pieces of {size}");
        }
    }

    #[test]
    fn only_the_value_of_authority_is_changed() {
        let (before, after) = (&b"run%2Fa.sock"[..], &b"run-2Fa.sock"[..]);
        // 37 bytes, and their length is the byte `%`.
        let (long, mended) =
            ([b"%2F".repeat(12), b"x".to_vec()].concat(), [b"-2F".repeat(12), b"x".to_vec()].concat());
        let path = field(0x44, b"/a%2Fb");
        let plain = |value: &[u8], first| {
            [vec![0x82, 0x3f, 0xe1, 0x1f, 0xff, 0x00], path.clone(), field(first, value), named(b"x", b"%")]
                .concat()
        };
        for first in [0x41, 0x01, 0x11] {
            check(&frame(1, 4, &plain(before, first)), &frame(1, 4, &plain(after, first)));
            check(&frame(1, 4, &plain(&long, first)), &frame(1, 4, &plain(&mended, first)));
        }
        check(&frame(1, 4, &named(NAME, before)), &frame(1, 4, &named(NAME, after)));
        let (java, mended) = (&b"/run/a.sock"[..], &b"-run-a.sock"[..]);
        check(&frame(1, 4, &plain(java, 0x41)), &frame(1, 4, &plain(mended, 0x41)));
        let huge = b"%".repeat(200);
        check(&frame(1, 4, &field(0x41, &huge)), &frame(1, 4, &field(0x41, &b"-".repeat(200))));
        // Padding, priority, and a block in three frames.
        let padded = |value: &[u8]| [&[2, 0, 0, 0, 0, 7][..], &field(0x41, value), b"%%"].concat();
        check(&frame(1, 0x2c, &padded(before)), &frame(1, 0x2c, &padded(after)));
        let parts = |value: &[u8]| {
            let block = field(0x41, value);
            [frame(1, 0, &block[..1]), frame(9, 0, &block[1..6]), frame(9, 4, &block[6..])].concat()
        };
        check(&parts(before), &parts(after));
        // And what is not it.
        for same in [
            frame(0, 0, &field(0x41, before)),
            frame(1, 4, &named(b":authoritx", before)),
            frame(1, 4, &named(b":authority2", before)),
            frame(1, 4, &[&[0x41, 0x8c][..], before].concat()),
            frame(1, 4, &[&[0x7f, 0x00][..], &text(before)].concat()),
            frame(1, 4, &field(0x44, before)),
        ] {
            check(&same, &same);
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_only_percent_signs_and_slashes_change(bytes: Vec<u8>, kinds in proptest::collection::vec((0..10u8, 0..64u8), 1..8)) {
            let all: Vec<u8> = kinds.iter().fold(PREFACE.to_vec(), |all, (kind, flags)| [all, frame(*kind, *flags, &bytes)].concat());
            for start in [0, PREFACE.len()] {
                let mut mended = all[start..].to_vec();
                Mending::new().mend(&mut mended);
                for (before, after) in all[start..].iter().zip(&mended) {
                    proptest::prop_assert!(before == after || (matches!(before, b'%' | b'/') && *after == b'-'));
                }
            }
        }
    }
}
