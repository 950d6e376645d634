//! State changes by a secret, and the modules that may have it.

use std::sync::Arc;

use edgewarden_names::{ModuleName, Refusal};
use edgewarden_protocol::secret::{Content, SecretUse};

use super::{Authority, Step};
use crate::secrets::{Judged, open};

impl Authority {
    /// Counts changes of secrets.
    pub(crate) fn secrets_changes(&self) -> u64 {
        self.documents.secrets.changes
    }

    /// Judges an envelope; `None` when it is held already. Pure.
    pub fn judge_secret(&self, envelope: &[u8]) -> Result<Option<Judged>, Refusal> {
        let judged = open(envelope, &self.context.target)?;
        let document = judged.document();
        let held = self.documents.secrets.held(&document.module, &document.name);
        if held.is_some_and(|(_, held)| held.envelope == *judged.envelope()) {
            return Ok(None);
        }
        self.documents.secrets.above(document)?;
        Ok(Some(judged))
    }

    pub(crate) fn secret_judged(&mut self, judged: &Judged) -> Result<Step, Refusal> {
        self.documents.secrets = Arc::new(self.documents.secrets.with(judged)?);
        let kind = match judged.document().content {
            Content::Sealed(_) => "secret.accepted",
            Content::Removed => "secret.removed",
        };
        let detail = format!("signed by {}, {}", judged.signed_by, judged.envelope());
        Ok(Step::done().event(kind, judged.document().subject(), detail).look())
    }

    /// The secrets that the deployment in force lets a module have.
    pub fn uses(&self, module: &ModuleName) -> &[SecretUse] {
        let modules = self.in_force.as_ref().map(|in_force| in_force.deployment().modules.as_slice());
        let found = modules.unwrap_or_default().iter().find(|found| found.name == *module);
        found.map_or(&[], |found| &found.secrets)
    }

    /// A module does not start without its secrets.
    pub(crate) fn secrets_are_there(&self, module: &ModuleName) -> Result<(), Refusal> {
        let secrets = &self.documents.secrets;
        match self.uses(module).iter().find(|secret| secrets.held(module, &secret.name).is_none()) {
            Some(secret) => Err(secrets.missing(module, &secret.name)),
            None => Ok(()),
        }
    }
}
