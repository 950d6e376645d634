//! Hears of changes by event. What a socket has told is looked at before it counts as heard, so that no news are lost
//! between two looks; news of our own mending lead to one more look that finds nothing.

use std::time::Instant;

use nix::sys::inotify::WatchDescriptor;

use super::following::{SETTLE, SETTLE_LONG};
use super::{KINDS, Keeper, ROUTES, RULES};
use crate::error::RunError;

impl Keeper {
    /// Sockets have news. One fault hides no other's.
    pub(super) async fn hear(&mut self, numbers: &[u64]) -> Result<(), RunError> {
        let since = Instant::now();
        let mut fault = Ok(());
        if numbers.contains(&RULES) {
            fault = fault.and(self.rules_may_be_altered(since).await);
        }
        let instances = |keeper: &Self, kind: u64| -> Vec<String> {
            let slots = numbers.iter().filter(|number| *number % KINDS == kind).map(|number| number / KINDS);
            slots.filter_map(|slot| keeper.of_slot(slot)).collect()
        };
        for instance in instances(self, RULES) {
            fault = fault.and(self.wall_may_be_altered(&instance, since).await);
        }
        if !numbers.iter().any(|number| number % KINDS == ROUTES) {
            return fault;
        }
        tokio::time::sleep(if self.open { SETTLE_LONG } else { SETTLE }).await;
        if numbers.contains(&ROUTES) {
            fault = fault.and(self.look_at_network(since).await);
        }
        for instance in instances(self, ROUTES) {
            fault = fault.and(self.look_inside(&instance, since).await);
        }
        fault
    }

    /// Something happened in these cgroups; without a list, in any.
    pub(super) fn hear_limits(&mut self, folders: Option<&[WatchDescriptor]>) -> Result<(), RunError> {
        let touched = |own: &[WatchDescriptor]| {
            folders.is_none_or(|folders| own.iter().any(|folder| folders.contains(folder)))
        };
        let confined =
            self.guarded.iter().filter_map(|(name, guarded)| Some((name, guarded.confined.as_ref()?)));
        let touched: Vec<String> = confined
            .filter(|(_, confined)| touched(&confined.folders))
            .map(|(name, _)| name.clone())
            .collect();
        let mut fault = Ok(());
        for instance in touched {
            fault = fault.and(self.look_at_limits(&instance));
        }
        fault
    }

    fn of_slot(&self, slot: u64) -> Option<String> {
        self.guarded.iter().find(|(_, guarded)| guarded.slot == slot).map(|(instance, _)| instance.clone())
    }
}
