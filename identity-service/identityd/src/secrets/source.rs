//! A module's secrets for the Workload API socket of one instance.

use std::sync::{Arc, Weak};

use edgewarden_names::{Refusal, SecretName};
use edgewarden_workload_server::SecretSource;
use edgewarden_workload_wire::secrets::{Secret, Secrets};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::Desk;
use super::release;
use crate::refuse::alive;

/// The source behind the secrets of an instance's socket.
pub fn of_instance(desk: &Arc<Desk>, instance: &str) -> Arc<dyn SecretSource> {
    Arc::new(InstanceSecrets { desk: Arc::downgrade(desk), instance: instance.to_owned() })
}

struct InstanceSecrets {
    /// The socket's task must not keep the service alive.
    desk: Weak<Desk>,
    instance: String,
}

fn secret(name: SecretName, version: u64, value: &[u8]) -> Secret {
    Secret { name, version, value: Zeroizing::new(value.to_vec()) }
}

impl SecretSource for InstanceSecrets {
    fn get(&self, name: &SecretName) -> Result<Secret, Refusal> {
        let desk = alive(&self.desk)?;
        let released = release::release_one(&desk, &self.instance, name);
        let (version, value) =
            released.inspect_err(|refusal| desk.ledger.note_caller(&self.instance, refusal))?;
        Ok(secret(name.clone(), version, value.expose()))
    }

    fn all(&self) -> Result<Secrets, Refusal> {
        let desk = alive(&self.desk)?;
        let released = release::release_all(&desk, &self.instance);
        let (revision, values) =
            released.inspect_err(|refusal| desk.ledger.note_caller(&self.instance, refusal))?;
        let secrets = values.into_iter().map(|(name, version, value)| secret(name, version, value.expose()));
        Ok(Secrets { revision, secrets: secrets.collect() })
    }

    fn revision(&self) -> Result<String, Refusal> {
        release::revision(&*alive(&self.desk)?, &self.instance)
    }

    fn changes(&self) -> Result<watch::Receiver<u64>, Refusal> {
        Ok(alive(&self.desk)?.ledger.revisions())
    }
}
