//! One look at all clocks.

/// Readings of the machine's clocks at one moment, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readings {
    /// Since boot, which nobody can set.
    pub boot: i64,
    /// The wall clock, since 1970.
    pub wall: i64,
    /// `true` when a time service vouches for the wall clock.
    pub synchronised: bool,
    /// The machine's own clock, since 1970. `None` without one.
    pub hardware: Option<i64>,
}

impl Readings {
    /// Wall clock less time since boot: it stands still until somebody sets the wall clock.
    pub fn offset(&self) -> i64 {
        self.wall.saturating_sub(self.boot)
    }
}
