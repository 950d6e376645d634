//! Digests of bytes as they pass by.

use aws_lc_rs::digest::{Context, SHA256};
use edgewarden_names::Digest;

/// Hashes and counts.
pub(crate) struct Hasher {
    context: Context,
    bytes: u64,
}

impl Hasher {
    pub(crate) fn new() -> Self {
        Self { context: Context::new(&SHA256), bytes: 0 }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn finish(self) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.context.finish().as_ref());
        Digest::from_sha256(&bytes)
    }
}

/// Hashes what is written or read through it, and stops at a limit.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Hasher,
    bytes_max: u64,
}

/// The error of a stream that is longer than its limit.
pub(crate) fn over_limit() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::FileTooLarge, "the stream is over its limit")
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T, bytes_max: u64) -> Self {
        Self { inner, hasher: Hasher::new(), bytes_max }
    }

    pub(crate) fn finish(self) -> (T, Digest, u64) {
        let bytes = self.hasher.bytes();
        (self.inner, self.hasher.finish(), bytes)
    }
}

impl<R: std::io::Read> std::io::Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..count).ok_or(std::io::ErrorKind::InvalidData)?);
        if self.hasher.bytes() > self.bytes_max { Err(over_limit()) } else { Ok(count) }
    }
}

impl<W: std::io::Write> std::io::Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hasher.update(buffer.get(..count).ok_or(std::io::ErrorKind::InvalidData)?);
        if self.hasher.bytes() > self.bytes_max { Err(over_limit()) } else { Ok(count) }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
