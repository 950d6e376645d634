//! Digests of bytes as they pass by.

use aws_lc_rs::digest::{Context, SHA256, digest};
use edgewarden_names::Digest;

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    from_ring(&digest(&SHA256, bytes))
}

fn from_ring(value: &aws_lc_rs::digest::Digest) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(value.as_ref());
    Digest::from_sha256(&bytes)
}

/// Hashes and counts what is written or read through it.
pub(crate) struct Hashing<T> {
    inner: T,
    context: Context,
    bytes: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, context: Context::new(&SHA256), bytes: 0 }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn finish(self) -> (T, Digest, u64) {
        let digest = from_ring(&self.context.finish());
        (self.inner, digest, self.bytes)
    }
}

impl<R: std::io::Read> std::io::Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(read) = buffer.get(..count) {
            self.pass(read);
        }
        Ok(count)
    }
}

impl<W: std::io::Write> std::io::Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(buffer)?;
        if let Some(written) = buffer.get(..count) {
            self.pass(written);
        }
        Ok(count)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
