//! Messages of `edgewarden-protocol` over a stream: the async part, so that what only knows the messages needs no runtime.
//!
//! * [`frame`]: JSON messages on a stream, with a size limit · [`client`]: asks a daemon over its control socket
//!
//! Trusts the process at the other end with what it says, not with how much.

pub mod client;
pub mod frame;
