//! Limits of one socket: connections, streams, bytes, times.

use std::time::Duration;

/// Most connections at a time on one socket. One more is closed at once.
pub const CONNECTIONS_MAX: usize = 32;
/// The same for those who are none of the socket's callers.
pub const STRANGERS_MAX: usize = 8;
/// Time in which a stranger is told so.
pub const STRANGER_LIFETIME: Duration = Duration::from_secs(5);
/// Most calls at a time on one connection, streams among them.
pub const CALLS_MAX: u32 = 256;
/// Most streams open at a time on one socket: one for each of a few hundred threads or processes of a module. Each costs
/// a few kilobytes and no descriptor.
pub const STREAMS_MAX: usize = 512;
/// Most calls at a time on one socket in which both sides stream (Envoy's secrets, reflection): what such a client sends
/// is held for as long as it likes. They have a budget of their own.
pub const EXCHANGES_MAX: usize = 64;
/// Largest request message: requests of the X.509 profile are empty, a JWT to validate is the largest there is.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;
