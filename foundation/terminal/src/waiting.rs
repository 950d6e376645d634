//! Progress, for people who wait.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::text::harmless;

const TICK: Duration = Duration::from_millis(120);

/// A line on standard error with what is waited for and for how long; gone when this is dropped. Where standard error is no
/// terminal, nothing is written.
#[derive(Debug)]
pub struct Waiting(ProgressBar);

impl Waiting {
    /// `what` is shown without what would command the terminal.
    pub fn begin(what: &str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(harmless(what));
        // A template that is not one leaves the spinner's own form.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        // At once, and not with the first turn of the thread that draws it again.
        bar.tick();
        bar.enable_steady_tick(TICK);
        Self(bar)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
