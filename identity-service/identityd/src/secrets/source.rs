//! A module's secrets for the Workload API socket of one instance.

use std::sync::{Arc, Weak};

use edgewarden_names::{Reason, Refusal, SecretName};
use edgewarden_workload_server::SecretSource;
use edgewarden_workload_wire::secrets::{Secret, Secrets};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::release;
use crate::service::Service;

/// What stands behind the secrets of an instance's socket.
pub fn of_instance(service: &Weak<Service>, instance: &str) -> Arc<dyn SecretSource> {
    Arc::new(InstanceSecrets { service: Weak::clone(service), instance: instance.to_owned() })
}

struct InstanceSecrets {
    /// The socket's task must not keep the service alive.
    service: Weak<Service>,
    instance: String,
}

impl InstanceSecrets {
    fn service(&self) -> Result<Arc<Service>, Refusal> {
        let stopping = || Refusal::new(Reason::IdentityUnavailable, "identityd", "it is stopping");
        self.service.upgrade().ok_or_else(stopping)
    }
}

fn secret(name: SecretName, version: u64, value: &[u8]) -> Secret {
    Secret { name, version, value: Zeroizing::new(value.to_vec()) }
}

impl SecretSource for InstanceSecrets {
    fn get(&self, name: &SecretName) -> Result<Secret, Refusal> {
        let service = self.service()?;
        let released = release::release_one(&service, &self.instance, name);
        let (version, value) =
            released.inspect_err(|refusal| service.note_caller(&self.instance, refusal))?;
        Ok(secret(name.clone(), version, value.expose()))
    }

    fn all(&self) -> Result<Secrets, Refusal> {
        let service = self.service()?;
        let released = release::release_all(&service, &self.instance);
        let (revision, values) =
            released.inspect_err(|refusal| service.note_caller(&self.instance, refusal))?;
        let secrets = values.into_iter().map(|(name, version, value)| secret(name, version, value.expose()));
        Ok(Secrets { revision, secrets: secrets.collect() })
    }

    fn revision(&self) -> Result<String, Refusal> {
        release::revision(&*self.service()?, &self.instance)
    }

    fn changes(&self) -> Result<watch::Receiver<u64>, Refusal> {
        Ok(self.service()?.revisions())
    }
}
