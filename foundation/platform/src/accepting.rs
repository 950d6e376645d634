//! Patience with a listener that cannot accept.

use std::io;
use std::time::{Duration, Instant};

/// Wait before the next try: the process is out of descriptors, most likely, and others must end first.
const PAUSE: Duration = Duration::from_millis(100);
/// Interval at which the log says so.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// A loop over a listener's connections. `what` names them in the log.
#[derive(Debug)]
pub struct Accepting {
    what: &'static str,
    said: Option<Instant>,
    left_out: u64,
}

impl Accepting {
    pub fn new(what: &'static str) -> Self {
        Self { what, said: None, left_out: 0 }
    }

    /// The next connection, however often it takes. Cancel-safe when `accept` is.
    pub async fn next<T, F: Future<Output = io::Result<T>>>(&mut self, mut accept: impl FnMut() -> F) -> T {
        loop {
            match accept().await {
                Ok(accepted) => return accepted,
                Err(error) => self.refused(&error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn refused(&mut self, error: &io::Error) {
        if self.said.is_some_and(|said| said.elapsed() < SAID_EVERY) {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        let (what, left_out) = (self.what, std::mem::take(&mut self.left_out));
        tracing::warn!(%error, left_out, "cannot accept a connection {what}");
        self.said = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_fails_is_tried_again() {
        let mut left = 3;
        let mut accepting = Accepting::new("of a test");
        let accepted = accepting.next(|| {
            left -= 1;
            std::future::ready(if left == 0 { Ok("in") } else { Err(io::Error::other("no descriptor")) })
        });
        assert_eq!(accepted.await, "in");
        assert_eq!(accepting.left_out, 1, "the first is said");
    }
}
