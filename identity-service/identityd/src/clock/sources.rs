//! Sources of the readings.

use edgewarden_decisions::clock::Readings;
use edgewarden_platform::{clock, process};

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
