//! Counts of what receivers that lag have lost.

use std::collections::HashMap;
use std::time::Duration;

/// The same receiver is told of again after this.
const TELL_AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Loss {
    pub(super) messages: u64,
    /// Of them, those that were told of.
    told: u64,
    told_at: Option<Duration>,
    pub(super) last: Option<Duration>,
}

impl Loss {
    /// The text about new losses; `None` when there are none, or when the last was told lately.
    pub(super) fn tell(&mut self, now: Duration) -> Option<String> {
        let new = self.messages.saturating_sub(self.told);
        if new == 0 || self.told_at.is_some_and(|at| now.saturating_sub(at) < TELL_AGAIN) {
            return None;
        }
        (self.told, self.told_at) = (self.messages, Some(now));
        Some(format!("{new} lost, {} in all", self.messages))
    }
}

/// Messages lost by each receiver, since the process began.
#[derive(Debug)]
pub(super) struct Losses<C> {
    pub(super) clients: HashMap<C, Loss>,
    pub(super) messages: u64,
}

impl<C> Default for Losses<C> {
    fn default() -> Self {
        Self { clients: HashMap::new(), messages: 0 }
    }
}
