//! Puts rules, walls, interfaces, routes and namespaces back.
//!
//! A change of somebody else may come at any moment, also while ours is made. So whatever is put back is asked for again:
//! of rules, whether ours was the only change; of the others, whether another look finds nothing.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use edgewarden_platform::durable;
use edgewarden_platform::process::Process;
use edgewarden_policy::nftables;

use super::{Guarded, Keeper};
use crate::error::RunError;
use crate::kernel::Rules;
use crate::orders::Admitted;
use crate::{network, nft};

/// Somebody else may change the same at the same moment: this often ours is put in place once more at once.
const TRIES_MAX: usize = 8;
/// Age below which an interface is new: what the machine's own services do to it then, such as systemd's settings of
/// the kernel, is undone quietly.
const NEW_FOR: Duration = Duration::from_secs(10);

impl Keeper {
    pub(super) async fn enforce(&mut self, rules: Rules) -> Result<(), RunError> {
        let text = rules.gateway.clone();
        // First on disk: a daemon that starts again must not take up older rules than those that were in force.
        durable::write(&self.context.places.rules(), text.as_bytes(), 0o600)
            .map_err(RunError::io("keep the rules in force"))?;
        let before = self.wanted.replace(rules);
        if self.in_force.as_ref() != Some(&text)
            && let Err(error) = self.put_rules(&text).await
        {
            self.wanted = before;
            return Err(error);
        }
        let instances: Vec<String> = self.guarded.keys().cloned().collect();
        for instance in instances {
            self.put_wall(&instance, false).await?;
        }
        Ok(())
    }

    /// Puts the gateway's rules in force, until no other change came between.
    pub(super) async fn put_rules(&mut self, script: &str) -> Result<(), RunError> {
        self.in_force = None;
        self.rules.take()?;
        for _ in 0..TRIES_MAX {
            let script = script.to_owned();
            let applied = script.clone();
            let before = self.rules.last()?;
            self.context.blocking(move || nft::apply(&script)).await?;
            let news = self.rules.take()?;
            if self.rules.is_only(before, &news)? {
                self.in_force = Some(applied);
                return Ok(());
            }
            self.reports.altered("rules", &format!("{} changed the rules", news.by()), Duration::ZERO);
        }
        Err(RunError::Network("somebody else changes the table `edgewarden` without pause".into()))
    }

    /// Puts the wall of an instance in force, if it is not.
    pub(super) async fn put_wall(&mut self, instance: &str, anew: bool) -> Result<(), RunError> {
        let Some(guarded) = self.guarded.get_mut(instance) else { return Ok(()) };
        let own = &guarded.admitted;
        let script = match self.wanted.as_ref() {
            // Nothing is known yet: what stands there is the work of an earlier daemon.
            None if guarded.wall.is_none() && !anew => return Ok(()),
            None => guarded.wall.clone(),
            Some(rules) => rules.walls.get(&own.module).cloned(),
        };
        let script = script.unwrap_or_else(|| nftables::closed_wall(own.place.address));
        if guarded.wall.as_ref() == Some(&script) && guarded.whole && !anew {
            return Ok(());
        }
        // Until it stands: should this fail, the audit tries again.
        guarded.whole = false;
        guarded.wall = Some(script.clone());
        guarded.rules.take()?;
        for _ in 0..TRIES_MAX {
            let (namespace, applied) = (own.namespace.clone(), script.clone());
            let before = guarded.rules.last()?;
            self.context.blocking(move || network::inside(&namespace, || nft::apply(&applied))).await?;
            let news = guarded.rules.take()?;
            if guarded.rules.is_only(before, &news)? {
                guarded.whole = true;
                return Ok(());
            }
            let what = format!("{} changed the rules in the module's network namespace", news.by());
            self.reports.altered(own.module.as_str(), &what, Duration::ZERO);
        }
        Err(RunError::Network(format!("somebody else changes the wall of {instance} without pause")))
    }

    /// The gateway's rules may have news.
    pub(super) async fn rules_may_be_altered(&mut self, since: Instant) -> Result<(), RunError> {
        let news = self.rules.take()?;
        if news.is_empty() { Ok(()) } else { self.rules_altered(&news, since).await }
    }

    pub(super) async fn rules_altered(&mut self, news: &nft::News, since: Instant) -> Result<(), RunError> {
        let Some(script) =
            self.in_force.take().or_else(|| self.wanted.as_ref().map(|rules| rules.gateway.clone()))
        else {
            return Ok(());
        };
        // Kept for another attempt, should this one fail.
        let put = self.put_rules(&script).await;
        if put.is_err() && self.wanted.is_none() {
            self.wanted = Some(Rules { gateway: script, walls: BTreeMap::new() });
        }
        put?;
        self.reports.altered(
            "rules",
            &format!("{} changed the rules of the packet filter", news.by()),
            since.elapsed(),
        );
        Ok(())
    }

    pub(super) async fn wall_may_be_altered(
        &mut self,
        instance: &str,
        since: Instant,
    ) -> Result<(), RunError> {
        let Some(guarded) = self.guarded.get_mut(instance) else { return Ok(()) };
        let news = guarded.rules.take()?;
        if news.is_empty() {
            return Ok(());
        }
        let subject = guarded.admitted.module.to_string();
        guarded.whole = false;
        self.put_wall(instance, true).await?;
        let what = format!("{} changed the rules in the module's network namespace", news.by());
        self.reports.altered(&subject, &what, since.elapsed());
        Ok(())
    }

    /// The gateway's ends of all modules' networks, and what all share.
    pub(super) async fn look_at_network(&mut self, since: Instant) -> Result<(), RunError> {
        for _ in 0..TRIES_MAX {
            // What is heard of until here is seen by the look, and what comes later is heard.
            self.routes.take()?;
            let own = self.gateway;
            let new = |guarded: &Guarded| guarded.since.elapsed() < NEW_FOR;
            let places: Vec<(bool, Admitted)> =
                self.guarded.values().map(|guarded| (new(guarded), guarded.admitted.clone())).collect();
            let looked = self.context.blocking(move || look_at_places(own, places)).await?;
            for (subject, faults) in looked.told {
                self.reports.altered(&subject, &faults.join("; "), since.elapsed());
            }
            looked.failed?;
            if !looked.mended {
                return Ok(());
            }
        }
        Err(RunError::Network("somebody else changes interfaces or routes without pause".into()))
    }

    /// A module's own end of its network.
    pub(super) async fn look_inside(&mut self, instance: &str, since: Instant) -> Result<(), RunError> {
        for _ in 0..TRIES_MAX {
            let Some(guarded) = self.guarded.get_mut(instance) else { return Ok(()) };
            guarded.routes.take()?;
            let admitted = guarded.admitted.clone();
            let looked = self.context.blocking(move || {
                let place = admitted.place;
                let faults = network::faults_inside(&admitted.namespace, place.address)?;
                if !faults.is_empty() {
                    network::mend(&admitted.namespace, place.number, place.address)?;
                }
                Ok((admitted.module.to_string(), faults))
            });
            let (subject, faults) = looked.await?;
            if faults.is_empty() {
                return Ok(());
            }
            self.reports.altered(&subject, &faults.join("; "), since.elapsed());
        }
        Err(RunError::Network(format!("somebody else changes the network of {instance} without pause")))
    }

    pub(super) async fn look_at_namespaces(&mut self) -> Result<(), RunError> {
        let held: Vec<(Admitted, Process)> = self
            .guarded
            .values()
            .filter_map(|guarded| {
                Some((guarded.admitted.clone(), guarded.confined.as_ref()?.process.clone()))
            })
            .collect();
        let since = Instant::now();
        let looked = self.context.blocking(move || {
            let mut mended = Vec::new();
            let mut failed = Ok(());
            for (admitted, process) in held {
                match network::hold_namespace(&admitted.namespace, &process) {
                    Ok(true) => mended.push(admitted.module.to_string()),
                    Ok(false) => {}
                    Err(error) => failed = failed.and(Err(error)),
                }
            }
            Ok((mended, failed))
        });
        let (mended, failed) = looked.await?;
        for subject in mended {
            self.reports.altered(
                &subject,
                "the mount of the module's network namespace was removed",
                since.elapsed(),
            );
        }
        failed
    }
}

/// Findings and repairs of one look at the gateway's ends of networks.
struct Looked {
    mended: bool,
    /// By subject: what of it is worth telling.
    told: Vec<(String, Vec<String>)>,
    failed: Result<(), RunError>,
}

/// The places of modules, each with the word whether its instance is new.
fn look_at_places(own: Ipv4Addr, places: Vec<(bool, Admitted)>) -> Result<Looked, RunError> {
    let mut looked = Looked { mended: false, told: Vec::new(), failed: Ok(()) };
    let faults = network::gateway_faults(own)?;
    if !faults.is_empty() {
        network::prepare_gateway(own)?;
        looked.mended = true;
        looked.told.push(("network".to_owned(), faults));
    }
    for (new, admitted) in places {
        match mend_place(&admitted, new) {
            Ok(None) => {}
            Ok(Some(told)) => {
                looked.mended = true;
                if !told.is_empty() {
                    looked.told.push((admitted.module.to_string(), told));
                }
            }
            Err(error) => looked.failed = looked.failed.and(Err(error)),
        }
    }
    Ok(looked)
}

/// Puts the gateway's end of a module's network back, if there is anything to put back. Says what of it is worth telling:
/// the settings of a `new` one are still being made.
fn mend_place(admitted: &Admitted, new: bool) -> Result<Option<Vec<String>>, RunError> {
    let place = admitted.place;
    let faults = network::faults(place.number, place.address)?;
    let settings = network::setting_faults(place.number);
    if faults.is_empty() && settings.is_empty() {
        return Ok(None);
    }
    network::mend(&admitted.namespace, place.number, place.address)?;
    Ok(Some([faults, if new { Vec::new() } else { settings }].concat()))
}
