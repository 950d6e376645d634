//! The time of day, for all daemons of a machine whose wall clock may show anything.
//!
//! `identityd` decides ([`edgewarden_decisions::clock`]), counts on by the time since boot, which nobody can set, and tells the other
//! daemons the difference between the two: a wall clock that leaps moves no certificate and no connection by itself.
//!
//! * `sources`: where readings come from · `told`: how often a change is written down

mod sources;
mod told;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgewarden_decisions::clock::{Belief, Change, Known, Readings, TimeKeeper, at};
use edgewarden_names::{Refusal, UnixTime};
use edgewarden_protocol::control::{TimeStatus, ToldTime};

pub use self::sources::{Kernel, TimeSource};
pub(crate) use self::told::Ration;

/// The time of this process: a keeper with what it looks at. Asked often, and looked after once in a second.
pub struct Clock {
    source: Arc<dyn TimeSource>,
    keeper: Mutex<TimeKeeper>,
    /// The keeper's offset, for those who only want to know the time.
    offset: AtomicI64,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl Clock {
    /// Begins by the first reading, and by what was known before.
    pub fn new(source: Arc<dyn TimeSource>, known: &Known, belief: Option<&Belief>) -> Self {
        let seen = source.read();
        let keeper = TimeKeeper::start(&seen, known, belief);
        let offset = AtomicI64::new(keeper.offset());
        Self { source, keeper: Mutex::new(keeper), offset }
    }

    fn keeper(&self) -> MutexGuard<'_, TimeKeeper> {
        // Every change of it is whole before anything can fail.
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut TimeKeeper, &Readings) -> T) -> T {
        let seen = self.source.read();
        let mut keeper = self.keeper();
        let changed = change(&mut keeper, &seen);
        self.offset.store(keeper.offset(), Ordering::Relaxed);
        changed
    }

    /// The time to decide by.
    pub fn now(&self) -> UnixTime {
        at(self.source.boot_millis().saturating_add(self.offset.load(Ordering::Relaxed)))
    }

    /// Since the machine was switched on.
    pub fn since_boot(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.source.boot_millis()).unwrap_or(0))
    }

    /// Time of the wall clock, which may show anything.
    pub fn wall(&self) -> UnixTime {
        at(self.source.wall_millis())
    }

    /// Looks at all clocks.
    pub fn look(&self, known: &Known) -> Vec<Change> {
        self.change(|keeper, seen| keeper.look(seen, known))
    }

    /// The fleet's word: what its time is before the time since boot, in milliseconds.
    pub fn hear(&self, offset: i64, known: &Known) -> Result<Vec<Change>, Refusal> {
        self.change(|keeper, seen| keeper.hear(offset, seen, known))
    }

    /// The operator's word that the wall clock is right.
    pub fn accept(&self, known: &Known) -> Result<Vec<Change>, Refusal> {
        self.change(|keeper, seen| keeper.accept(seen, known))
    }

    /// The time that the other daemons go by.
    pub fn told(&self) -> ToldTime {
        let keeper = self.keeper();
        ToldTime { offset_millis: keeper.offset(), unsure: keeper.is_unsure() }
    }

    /// The time for status, with a doubt if there is one.
    pub fn status(&self, known: &Known) -> TimeStatus {
        let seen = self.source.read();
        self.keeper().status(&seen, known)
    }

    /// The belief to write down. `None` without the boot's name.
    pub fn belief(&self) -> Option<Belief> {
        let boot = self.source.boot_id()?;
        let keeper = self.keeper();
        Some(Belief { boot, offset_millis: keeper.offset(), by: keeper.by() })
    }
}
