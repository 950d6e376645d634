//! Hears of changes by event. What a socket has told is looked at before it counts as heard, so that no news are lost
//! between two looks; news of our own mending lead to one more look that finds nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgewarden_platform::mounts::MountTable;
use edgewarden_platform::readiness::Readiness;
use nix::sys::inotify::{AddWatchFlags, Inotify, WatchDescriptor};
use tokio::sync::mpsc;

use super::{KINDS, Keeper, Order, ROUTES, RULES};
use crate::RunError;

/// Changes that come together are mended together.
const SETTLE: Duration = Duration::from_millis(20);
/// The same for what a module itself can bring about, such as reaching a limit again and again, and while something cannot
/// be put back: trying makes news itself.
const SETTLE_LONG: Duration = Duration::from_millis(200);

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

pub(super) async fn follow_mounts(
    table: Arc<MountTable>,
    instance: Option<String>,
    orders: mpsc::WeakSender<Order>,
) {
    while table.changed().await.is_ok() {
        let Some(orders) = orders.upgrade() else { return };
        if orders.send(Order::Mounts(instance.clone())).await.is_err() {
            return;
        }
        drop(orders);
        tokio::time::sleep(SETTLE).await;
    }
}

pub(super) async fn follow_limits(
    readiness: Readiness,
    inotify: Arc<Inotify>,
    orders: mpsc::WeakSender<Order>,
) {
    while readiness.ready().await.is_ok() {
        let Ok(events) = inotify.read_events() else { continue };
        // More happened than the kernel kept for us.
        let lost = events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW));
        let mut folders: Vec<WatchDescriptor> = events.into_iter().map(|event| event.wd).collect();
        folders.sort_unstable();
        folders.dedup();
        let folders = if lost { None } else { Some(folders) };
        let Some(orders) = orders.upgrade() else { return };
        if orders.send(Order::Limits(folders)).await.is_err() {
            return;
        }
        drop(orders);
        tokio::time::sleep(SETTLE_LONG).await;
    }
}
