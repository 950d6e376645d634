//! Codec of messages as tonic's own, with little memory held between two messages.
//!
//! That codec gives each open stream a buffer of 8 KiB for as long as it lives, which on the streams of a hundred modules
//! is more than everything else that `identityd` holds. Messages here are rare and of any size, so a buffer grows to its
//! message and goes with it.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Bytes that a stream holds while nothing is sent.
const BUFFER_BYTES: usize = 64;
/// Messages that are ready together are sent together up to here.
const YIELD_BYTES: usize = 32 * 1024;

/// `application/grpc+proto`.
#[derive(Debug)]
pub struct ProstCodec<T, U>(PhantomData<fn(T) -> U>);

impl<T, U> Default for ProstCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ProstCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
