//! Lines of the log that anybody can cause: so many a minute, and then how many there were more. Pure: time is an
//! argument.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
pub const LINES_MAX: u32 = 30;

/// At most so many lines in a minute.
#[derive(Debug)]
pub struct LogLimit {
    lines: u32,
    window: Mutex<Option<Window>>,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new(LINES_MAX)
    }
}

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
}

/// Decision about one line.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Write it; so many before it were not written.
    Write {
        left_out: u32,
    },
    LeaveOut,
}

impl LogLimit {
    /// A limit of `lines` a minute.
    pub const fn new(lines: u32) -> Self {
        Self { lines, window: Mutex::new(None) }
    }

    /// Decides on one line at `now`, and counts it.
    pub fn line(&self, now: Instant) -> Line {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *window {
            Some(window) if now.saturating_duration_since(window.began) < WINDOW => {
                window.lines = window.lines.saturating_add(1);
                if window.lines > self.lines { Line::LeaveOut } else { Line::Write { left_out: 0 } }
            }
            ended => {
                let left_out = ended.as_ref().map_or(0, |window| window.lines.saturating_sub(self.lines));
                *ended = Some(Window { began: now, lines: 1 });
                Line::Write { left_out }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        for n in 0..LINES_MAX {
            assert_eq!(limit.line(start), Line::Write { left_out: 0 }, "{n}");
        }
        for second in 0..59 {
            assert_eq!(limit.line(start + Duration::from_secs(second)), Line::LeaveOut);
        }
        assert_eq!(limit.line(start + WINDOW), Line::Write { left_out: 59 });
        assert_eq!(limit.line(start + WINDOW), Line::Write { left_out: 0 });
        // Nothing was left out in this one.
        assert_eq!(limit.line(start + WINDOW * 3), Line::Write { left_out: 0 });
    }
}
