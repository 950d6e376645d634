//! One message on a stream: its length as four bytes, big-endian, then that many bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

/// Largest message between Edgewarden's processes. An image manifest with its evidence, the largest there is, stays below.
pub const FRAME_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Bytes set aside for a message before any of it has come.
const FIRST_BYTES: usize = 4 * 1024;

/// Error of reading or writing one message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed the stream between two messages.
    #[error("the stream is closed")]
    Closed,
    #[error("a message of {0} bytes is over the limit")]
    TooLarge(u64),
    #[error("cannot read or write the stream")]
    Io(#[from] std::io::Error),
    #[error("the message is not valid: {0}")]
    Json(#[from] serde_json::Error),
}

/// Reads one message. Dropping the future may lose part of a message: the stream is then unusable.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, FrameError> {
    read_at_most(stream, FRAME_BYTES_MAX).await
}

/// Like [`read`], from a peer that has nothing long to say.
pub async fn read_at_most<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: u32,
) -> Result<T, FrameError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(FrameError::Closed),
        other => other?,
    };
    let length = u32::from_be_bytes(length);
    if length > bytes_max.min(FRAME_BYTES_MAX) {
        return Err(FrameError::TooLarge(length.into()));
    }
    // Grows with what really arrives: a peer that only announces a large message costs nothing.
    // Wiped: some messages carry keys and secrets.
    let first = usize::try_from(length).map_or(FIRST_BYTES, |length| length.min(FIRST_BYTES));
    let mut body = Zeroizing::new(Vec::with_capacity(first));
    (&mut *stream).take(length.into()).read_to_end(&mut body).await?;
    if body.len() as u64 != u64::from(length) {
        return Err(FrameError::Io(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(serde_json::from_slice(&body)?)
}

/// Writes one message.
pub async fn write<T: Serialize + Sync>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), FrameError> {
    let body = Zeroizing::new(serde_json::to_vec(message)?);
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= FRAME_BYTES_MAX);
    let length = length.ok_or(FrameError::TooLarge(body.len() as u64))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_comes_back_and_a_broken_one_does_not() {
        let mut wire = Vec::new();
        write(&mut wire, &"hello").await.unwrap();
        assert_eq!(read::<String>(&mut wire.as_slice()).await.unwrap(), "hello");
        let cut = wire.len() - 1;
        assert!(matches!(read::<String>(&mut &wire[..cut]).await, Err(FrameError::Io(_))));
        assert!(matches!(read::<String>(&mut &wire[..0]).await, Err(FrameError::Closed)));
        assert!(matches!(read::<u32>(&mut wire.as_slice()).await, Err(FrameError::Json(_))));
        assert_eq!(read_at_most::<String>(&mut wire.as_slice(), 7).await.unwrap(), "hello");
        let long = read_at_most::<String>(&mut wire.as_slice(), 6).await;
        assert!(matches!(long, Err(FrameError::TooLarge(7))));
        let huge = u32::MAX.to_be_bytes();
        assert!(matches!(read::<u32>(&mut huge.as_slice()).await, Err(FrameError::TooLarge(_))));
    }
}
