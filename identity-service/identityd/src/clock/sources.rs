//! Where the readings come from.

use edgewarden_platform::{clock, process};

/// What the clocks of the machine show at one moment, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readings {
    /// Since boot, which nobody can set.
    pub boot: i64,
    /// The wall clock, since 1970.
    pub wall: i64,
    /// Whether a time service vouches for the wall clock.
    pub synchronised: bool,
    /// The machine's own clock, since 1970. `None` without one.
    pub hardware: Option<i64>,
}

impl Readings {
    /// What the wall clock is before the time since boot: it stands still until somebody sets the wall clock.
    pub fn offset(&self) -> i64 {
        self.wall.saturating_sub(self.boot)
    }
}

/// The clocks. A test has its own.
pub trait TimeSource: Send + Sync + 'static {
    fn boot_millis(&self) -> i64;
    fn wall_millis(&self) -> i64;
    fn is_synchronised(&self) -> bool;
    fn hardware_millis(&self) -> Option<i64>;
    /// Names this boot. `None`: what was believed before the process started is forgotten.
    fn boot_id(&self) -> Option<String>;

    fn read(&self) -> Readings {
        Readings {
            boot: self.boot_millis(),
            wall: self.wall_millis(),
            synchronised: self.is_synchronised(),
            hardware: self.hardware_millis(),
        }
    }
}

/// The machine's.
#[derive(Debug, Clone, Copy)]
pub struct Kernel;

impl TimeSource for Kernel {
    fn boot_millis(&self) -> i64 {
        clock::boot_millis()
    }

    fn wall_millis(&self) -> i64 {
        clock::wall_millis()
    }

    fn is_synchronised(&self) -> bool {
        clock::is_synchronised()
    }

    fn hardware_millis(&self) -> Option<i64> {
        clock::hardware_seconds().map(|seconds| seconds.saturating_mul(1000))
    }

    fn boot_id(&self) -> Option<String> {
        process::boot().ok()
    }
}
