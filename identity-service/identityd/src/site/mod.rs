//! A site's own CA in the place of a fleet: it certifies the gateway CA by EST (RFC 7030).
//!
//! Trusts the trust anchors of the configuration and the keystore's word on its own key. Distrusts the server's every byte
//! and `runtimed`, which carries them: requests are signed here, answers judged here, and a certificate takes force only
//! when a certificate beneath it would be accepted by every peer of ours ([`edgewarden_svid::judge_chain`]).
//!
//! A site's CA judges no boot: there is no verdict, and whoever looks is told so.

mod answers;
mod handshake;

pub use answers::{Decider, Desk, answer, status};
