//! Events of mounts and cgroups, each an order to the guard.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_platform::mounts::MountTable;
use edgewarden_platform::readiness::Readiness;
use nix::sys::inotify::{AddWatchFlags, Inotify, WatchDescriptor};
use tokio::sync::mpsc;

use crate::orders::Order;

/// Changes that come together are mended together.
pub(super) const SETTLE: Duration = Duration::from_millis(20);
/// The same for what a module itself can bring about, such as reaching a limit again and again, and while something cannot
/// be put back: trying makes news itself.
pub(super) const SETTLE_LONG: Duration = Duration::from_millis(200);

/// Orders a look at the mounts of an instance, or at our own namespace, whenever its table changes.
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

/// Orders a look at the cgroups in which something happens.
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
