//! Looks at everything every few seconds, whatever events said: what was lost of them is found here.

use std::time::Instant;

use edgewarden_platform::durable;
use edgewarden_policy::nftables;

use super::Keeper;
use crate::error::RunError;
use crate::kernel::Listed;
use crate::{network, nft};

impl Keeper {
    pub(super) fn list(&mut self) -> Listed {
        let mut listed = Listed::default();
        let mut read = |set: &str| {
            self.rules.counted(set).unwrap_or_else(|error| {
                tracing::warn!(error = %error.chain(), set, "the refused packets cannot be read");
                Vec::new()
            })
        };
        listed.gateway(&read("denied"), &read("spoofed"), &read("flooded"));
        for guarded in self.guarded.values_mut() {
            match guarded.rules.counted("denied") {
                Ok(denied) => {
                    listed.wall(guarded.admitted.place.number, guarded.admitted.place.address, &denied);
                }
                Err(error) => tracing::warn!(error = %error.chain(), "a wall's refusals cannot be read"),
            }
        }
        listed
    }

    /// Looks at everything, whatever events said.
    pub(super) async fn audit(&mut self) -> Result<(), RunError> {
        let since = Instant::now();
        let news = self.rules.take()?;
        let lost = !self.rules.is_complete()?;
        if self.in_force.is_none() || lost || !news.is_empty() {
            self.rules_altered(&nft::News { lost, ..news }, since).await?;
        }
        // One module's fault hides no other from the audit.
        let mut fault = self.look_at_namespaces().await;
        fault = fault.and(self.look_at_network(since).await);
        let instances: Vec<String> = self.guarded.keys().cloned().collect();
        for instance in &instances {
            fault = fault.and(self.audit_wall(instance).await);
            fault = fault.and(self.look_inside(instance, since).await);
            fault = fault.and(self.look_at_limits(instance));
            self.look_at_mounts(instance);
            self.look_at_cgroup(instance);
        }
        self.reports.flush();
        fault?;
        self.open = false;
        self.reports.whole();
        Ok(())
    }

    pub(super) async fn audit_wall(&mut self, instance: &str) -> Result<(), RunError> {
        let Some(guarded) = self.guarded.get_mut(instance) else { return Ok(()) };
        let complete = guarded.rules.is_complete()?;
        // Nothing is known yet: what stands there is the work of an earlier daemon.
        let unknown = guarded.wall.is_none() && self.wanted.is_none();
        if complete && (guarded.whole || unknown) {
            return Ok(());
        }
        guarded.whole = false;
        self.put_wall(instance, true).await
    }

    pub(super) async fn retire(&mut self) -> Result<(), RunError> {
        self.retired = true;
        self.wanted = None;
        self.in_force = None;
        self.tasks.clear();
        let (own, path) = (self.gateway, self.context.places.rules());
        let removed = self.context.blocking(move || {
            durable::remove(&path).map_err(RunError::io("forget the rules in force"))?;
            let table = nftables::TABLE;
            nft::apply(&format!("add table inet {table}\ndelete table inet {table}\n"))?;
            network::forget_gateway(own)
        });
        removed.await
    }
}
