//! A machine's clocks in a test's hands. Nobody's real clock is touched.

use std::sync::Mutex;
use std::time::Duration;

use edgewarden_identityd::clock::TimeSource;
use edgewarden_names::UnixTime;

/// Milliseconds.
#[derive(Debug, Clone)]
struct Shown {
    boot: i64,
    wall: i64,
    synchronised: bool,
    boots: u32,
}

#[derive(Debug)]
pub struct Clocks(Mutex<Shown>);

impl Clocks {
    /// Shows the true time, kept by nobody.
    pub fn right() -> Self {
        let wall = i64::try_from(UnixTime::now().0).unwrap() * 1000;
        Self(Mutex::new(Shown { boot: 1_000_000, wall, synchronised: false, boots: 1 }))
    }

    fn change(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.0.lock().unwrap());
    }

    fn shown(&self) -> Shown {
        self.0.lock().unwrap().clone()
    }

    /// Time passes.
    pub fn pass(&self, time: Duration) {
        let millis = i64::try_from(time.as_millis()).unwrap();
        self.change(|shown| {
            shown.boot += millis;
            shown.wall += millis;
        });
    }

    /// Somebody sets the wall clock forward or back, and a time service vouches for it or not.
    pub fn leap(&self, seconds: i64, synchronised: bool) {
        self.change(|shown| {
            shown.wall += seconds * 1000;
            shown.synchronised = synchronised;
        });
    }

    /// The machine starts anew with this on its wall clock.
    pub fn reboot(&self, wall: UnixTime) {
        self.change(|shown| {
            *shown = Shown {
                boot: 5_000,
                wall: i64::try_from(wall.0).unwrap() * 1000,
                synchronised: false,
                boots: shown.boots + 1,
            };
        });
    }

    pub fn wall(&self) -> UnixTime {
        UnixTime(u64::try_from(self.shown().wall / 1000).unwrap())
    }

    pub fn boot_millis(&self) -> i64 {
        self.shown().boot
    }
}

impl TimeSource for Clocks {
    fn boot_millis(&self) -> i64 {
        self.shown().boot
    }

    fn wall_millis(&self) -> i64 {
        self.shown().wall
    }

    fn is_synchronised(&self) -> bool {
        self.shown().synchronised
    }

    fn hardware_millis(&self) -> Option<i64> {
        None
    }

    fn boot_id(&self) -> Option<String> {
        Some(format!("boot {}", self.shown().boots))
    }
}
