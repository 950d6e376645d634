//! The stored bytes of a layer as the tar that they hold: plain, gzip or zstd.
//!
//! zstd layers are one frame or many, with frames between them that hold no contents (`zstd:chunked`). The window is
//! limited to what every decoder must bear (RFC 8878, 3.1.1.1.2), so that a few bytes cannot ask for much memory; how
//! much comes out is for the caller to limit.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender};

use edgewarden_names::Digest;
use edgewarden_protocol::layer::Packing;
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::archive::{invalid, too_large, unsupported};
use crate::hashing::Hashing;

/// What the highest level needs that `zstd` offers without `--ultra`.
const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// `zstd:chunked` makes some for each file.
const FRAMES_MAX: usize = 1_000_000;
/// What goes from the thread that unpacks to the one that writes, at a time; and how many may wait between them.
const CHUNK_BYTES: usize = 128 * 1024;
pub(crate) const CHUNKS_MAX: usize = 4;

/// Reads the tar.
pub enum Plain<R> {
    Tar(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<Frames<R>>),
}

impl<R> std::fmt::Debug for Plain<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plain").finish_non_exhaustive()
    }
}

impl<R: BufRead> Plain<R> {
    pub fn new(packing: Packing, packed: R) -> Self {
        match packing {
            Packing::None => Self::Tar(packed),
            Packing::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(packed))),
            Packing::Zstd => Self::Zstd(Box::new(Frames::new(packed))),
        }
    }

    fn into_inner(self) -> R {
        match self {
            Self::Tar(packed) => packed,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(frames) => frames.source.inner,
        }
    }
}

impl<R: BufRead> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tar(packed) => packed.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(frames) => frames.read(buffer),
        }
    }
}

/// zstd frames, one after the other.
pub struct Frames<R> {
    source: Source<R>,
    decoder: FrameDecoder,
    inside: bool,
    count: usize,
}

impl<R> std::fmt::Debug for Frames<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").field("count", &self.count).finish_non_exhaustive()
    }
}

/// Keeps the error of a read, which the decoder wraps in its own.
struct Source<R> {
    inner: R,
    error: Option<io::Error>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        read.map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.error = Some(error);
            }
            kind.into()
        })
    }
}

impl<R: BufRead> Frames<R> {
    fn new(inner: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Self { source: Source { inner, error: None }, decoder, inside: false, count: 0 }
    }

    fn failed(&mut self, error: &FrameDecoderError) -> io::Error {
        match (self.source.error.take(), error) {
            (Some(error), _) => error,
            (None, FrameDecoderError::WindowSizeTooBig { requested, max }) => unsupported(format!(
                "a zstd window of {requested} bytes is over the limit of {max}: compress it with level 19 or lower, without `--long`"
            )),
            (None, FrameDecoderError::DictNotProvided { .. }) => {
                unsupported("it is compressed with a zstd dictionary")
            }
            (None, error) => invalid(format!("malformed zstd: {error}")),
        }
    }

    /// Passes over the contents of a frame that is not for us.
    fn pass_over(&mut self, length: u32) -> io::Result<()> {
        let length = u64::from(length);
        if io::copy(&mut (&mut self.source.inner).take(length), &mut io::sink())? != length {
            return Err(invalid("malformed zstd: it ends inside a frame"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.inside && self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.inside && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                if let Err(error) = self.decoder.decode_blocks(&mut self.source, one) {
                    return Err(self.failed(&error));
                }
                continue;
            }
            self.inside = false;
            if self.source.inner.fill_buf()?.is_empty() {
                return if self.count > 0 { Ok(0) } else { Err(invalid("malformed zstd: it is empty")) };
            }
            self.count = self.count.saturating_add(1);
            if self.count > FRAMES_MAX {
                return Err(too_large(format!("it has more than {FRAMES_MAX} zstd frames")));
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => self.inside = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.pass_over(length)?,
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }
}

/// What a layer's bytes were, found while they passed.
pub(crate) struct Passed {
    /// Digest of the stored bytes, all of them.
    pub packed: Digest,
    /// Digest and number of the bytes of tar; `None` when nobody wanted all of them.
    pub plain: io::Result<Option<(Digest, u64)>>,
}

/// Unpacks to `pipe` until its end is gone. What is stored is hashed to its end in any case: damage on the disk is to be
/// told apart from a layer that is made badly.
pub(crate) fn pump(
    packing: Packing,
    blob: impl Read,
    packed_max: u64,
    plain_max: u64,
    pipe: &SyncSender<Vec<u8>>,
    spare: &Receiver<Vec<u8>>,
) -> io::Result<Passed> {
    let packed = io::BufReader::with_capacity(CHUNK_BYTES, Hashing::new(blob, packed_max));
    let mut plain = Hashing::new(Plain::new(packing, packed), plain_max);
    let whole = loop {
        let mut chunk = spare.try_recv().unwrap_or_default();
        chunk.resize(CHUNK_BYTES, 0);
        match fill(&mut plain, &mut chunk) {
            Err(error) => break Err(error),
            Ok(0) => break Ok(true),
            Ok(count) => chunk.truncate(count),
        }
        if pipe.send(chunk).is_err() {
            break Ok(false);
        }
    };
    let (plain, digest, bytes) = plain.finish();
    let mut packed = plain.into_inner();
    io::copy(&mut packed, &mut io::sink())?;
    let (_, packed, _) = packed.into_inner().finish();
    Ok(Passed { packed, plain: whole.map(|whole| whole.then_some((digest, bytes))) })
}

fn fill(stream: &mut impl Read, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = chunk.get_mut(filled..)
        && !rest.is_empty()
    {
        match stream.read(rest) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The other end of [`pump`].
pub(crate) struct Pipe {
    chunks: Receiver<Vec<u8>>,
    spare: SyncSender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Pipe {
    pub(crate) fn new(chunks: Receiver<Vec<u8>>, spare: SyncSender<Vec<u8>>) -> Self {
        Self { chunks, spare, chunk: Vec::new(), at: 0 }
    }
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at >= self.chunk.len()
            && let Ok(next) = self.chunks.recv()
        {
            // One that finds no room is freed.
            drop(self.spare.try_send(std::mem::replace(&mut self.chunk, next)));
            self.at = 0;
        }
        Ok(self.chunk.get(self.at..).unwrap_or_default())
    }
    fn consume(&mut self, count: usize) {
        self.at = self.at.saturating_add(count);
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.fill_buf()?;
        let count = bytes.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
