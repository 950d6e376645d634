//! Waits that many gateways do not end at once.

use std::time::Duration;

use edgewarden_names::Backoff;

/// Between half of `wait` and all of it, by chance.
pub fn jittered(wait: Duration) -> Duration {
    let mut random = [0];
    // Without randomness all of it is waited: slower, not wrong.
    aws_lc_rs::rand::fill(&mut random).map_or(wait, |()| Backoff::spread(wait, u8::from_be_bytes(random)))
}
