//! Guards an instance's confinement: limits are put back, other mounts or another cgroup end it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::mounts::MountTable;
use edgewarden_platform::process::Process;
use nix::sys::inotify::AddWatchFlags;
use tokio::sync::oneshot;

use super::following::follow_mounts;
use super::{Confined, Guarded, KINDS, Keeper, ROUTES, RULES, Task};
use crate::error::RunError;
use crate::limits::{LimitHits, Limits};
use crate::orders::{Admitted, Altered};
use crate::{network, nft};

/// A limit that a module reached is shown for so long after the last time.
const SAID_FOR: Duration = Duration::from_secs(600);

impl Keeper {
    pub(super) async fn admit(&mut self, admitted: Admitted) -> Result<(), RunError> {
        let (namespace, slot) = (admitted.namespace.clone(), self.slots);
        self.slots = self.slots.saturating_add(1);
        let opened = self.context.blocking(move || {
            network::inside(&namespace, || Ok((nft::Changes::open()?, network::Changes::open()?)))
        });
        let (rules, routes) = opened.await?;
        let number = |kind| slot.saturating_mul(KINDS).saturating_add(kind);
        let watch =
            |socket, kind| self.readiness.add(socket, number(kind)).map_err(RunError::io("watch a socket"));
        watch(rules.socket(), RULES)?;
        watch(routes.socket(), ROUTES)?;
        let instance = admitted.instance.clone();
        let since = Instant::now();
        let guarded =
            Guarded { admitted, since, slot, rules, routes, wall: None, whole: false, confined: None };
        self.guarded.insert(instance.clone(), guarded);
        let up = self.put_wall(&instance, false).await;
        if up.is_err() {
            self.guarded.remove(&instance);
        }
        up
    }

    pub(super) fn watch(
        &mut self,
        instance: &str,
        process: Process,
        limits: Limits,
        mounts: Option<String>,
    ) -> Result<(String, Altered), RunError> {
        let Some(guarded) = self.guarded.get_mut(instance) else {
            return Err(RunError::Runtime(format!("{instance} was never admitted")));
        };
        let table = Arc::new(MountTable::of(&process).map_err(RunError::io("watch the module's mounts"))?);
        let mounts = match mounts {
            Some(mounts) => mounts,
            None => table.read().map_err(RunError::io("read the module's mounts"))?,
        };
        let mut folders = Vec::new();
        for folder in limits.folders() {
            match self.inotify.add_watch(&folder, AddWatchFlags::IN_MODIFY) {
                Ok(watch) => folders.push(watch),
                // The audit looks there all the same.
                Err(error) => tracing::debug!(folder = %folder.display(), %error, "a cgroup is not watched"),
            }
        }
        let (told, altered) = oneshot::channel();
        let follow = follow_mounts(Arc::clone(&table), Some(instance.to_owned()), self.orders.clone());
        guarded.confined = Some(Confined {
            cgroup: process.cgroup().ok(),
            process,
            folders,
            table,
            mounts: mounts.clone(),
            told: Some(told),
            said: None,
            said_at: Instant::now(),
            before: LimitHits::default(),
            limits,
            _watch: Task(tokio::spawn(follow)),
        });
        self.look_at_mounts(instance);
        self.look_at_limits(instance)?;
        Ok((mounts, altered))
    }

    pub(super) fn release(&mut self, instance: &str) {
        let Some(guarded) = self.guarded.remove(instance) else { return };
        for folder in guarded.confined.into_iter().flat_map(|confined| confined.folders) {
            // The kernel may have removed it with its folder.
            let _gone = self.inotify.rm_watch(folder);
        }
    }

    pub(super) fn look_at_limits(&mut self, instance: &str) -> Result<(), RunError> {
        let since = Instant::now();
        let Some(guarded) = self.guarded.get_mut(instance) else { return Ok(()) };
        let Some(confined) = &mut guarded.confined else { return Ok(()) };
        let mended = confined.limits.mend()?;
        if !mended.is_empty() {
            let subject = guarded.admitted.module.to_string();
            self.reports.altered(&subject, &mended.join("; "), since.elapsed());
        }
        let said = confined.limits.said(confined.before);
        if said != confined.said {
            confined.said.clone_from(&said);
            confined.said_at = Instant::now();
        } else if said.is_some() && confined.said_at.elapsed() >= SAID_FOR {
            confined.before = confined.limits.hits();
            confined.said = None;
        }
        self.context.board.set_note(&guarded.admitted.module, confined.said.clone());
        Ok(())
    }

    pub(super) fn look_at_mounts(&mut self, instance: &str) {
        let Some(guarded) = self.guarded.get_mut(instance) else { return };
        let Some(confined) = &mut guarded.confined else { return };
        let what = match confined.table.read() {
            Ok(now) if now == confined.mounts => return,
            Ok(now) => difference(&confined.mounts, &now),
            Err(error) => format!("the module's mounts cannot be read: {error}"),
        };
        if confined.process.is_alive() {
            self.end(instance, &what);
        }
    }

    /// Ends an instance that is not confined as it was started.
    pub(super) fn end(&mut self, instance: &str, what: &str) {
        let Some(guarded) = self.guarded.get_mut(instance) else { return };
        let Some(told) = guarded.confined.as_mut().and_then(|confined| confined.told.take()) else { return };
        let module = &guarded.admitted.module;
        let refusal = Refusal::new(Reason::ModuleAltered, module, format!("{what}; the instance was ended"));
        self.reports.tell(&refusal);
        // Whoever watches it may have seen its end already.
        drop(told.send(refusal));
    }

    pub(super) fn look_at_cgroup(&mut self, instance: &str) {
        let Some(confined) = self.guarded.get(instance).and_then(|guarded| guarded.confined.as_ref()) else {
            return;
        };
        if let (Some(own), Ok(now)) = (&confined.cgroup, confined.process.cgroup())
            && *own != now
        {
            let what = format!("the module's first process was moved to the cgroup {now}");
            self.end(instance, &what);
        }
    }
}

/// Places in one list of mounts and not in the other, in plain words.
fn difference(before: &str, now: &str) -> String {
    let missing = |these: &str, those: &str| -> Vec<String> {
        let those: Vec<&str> = those.lines().collect();
        let places = these.lines().filter(|line| !those.contains(line));
        places.map(|line| line.split_once(' ').map_or(line, |(place, _)| place).to_owned()).take(4).collect()
    };
    let (gone, new) = (missing(before, now), missing(now, before));
    if gone == new {
        return format!("a mount of the module was changed: {}", gone.join(", "));
    }
    let said = [("unmounted", gone), ("mounted", new)].into_iter().filter(|(_, places)| !places.is_empty());
    let said: Vec<String> =
        said.map(|(what, places)| format!("{} was {what} in the module", places.join(", "))).collect();
    said.join("; ")
}
