//! Start permits: `identityd`'s word that one start of one module may happen.
//!
//! A permit is a random name for a decision that stays here; whoever holds the name can change nothing in it. It lives
//! five minutes and its first use spends it. Permits are not kept over a restart: asking again costs little.

use std::collections::BTreeMap;
use std::time::Duration;

use edgewarden_image_trust::ImageProof;
use edgewarden_names::{Epoch, Generation, Reason, Refusal, UnixTime};
use edgewarden_protocol::control::StartPermit;
use edgewarden_protocol::document::Document;
use serde::{Deserialize, Serialize};

pub const PERMIT_LIFETIME: Duration = Duration::from_secs(300);
/// Of the random bytes of an input, as many as nobody guesses.
const PERMIT_NAME_BYTES: usize = 16;
/// Permits given and not used, and starts prepared and not done.
const OUTSTANDING_MAX: usize = 128;

/// Generations: counts up for the life of the gateway, on disk before a number is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    pub last: u64,
}

impl Document for Counter {
    const FILE: &'static str = "generations.json";
}

impl Counter {
    /// The counter with its next number. Fails at the end of the numbers.
    pub fn next(&self) -> Result<Self, Refusal> {
        let last = self.last.checked_add(1);
        last.map(|last| Self { last })
            .ok_or_else(|| Refusal::new(Reason::Internal, "generation", "the counter is at its end"))
    }
}

/// Starts between judged and done.
#[derive(Debug, Clone, Default)]
pub struct Permits {
    given: BTreeMap<String, StartPermit>,
    /// By instance: the permit is spent, the socket is bound, the process is not there yet.
    prepared: BTreeMap<String, StartPermit>,
}

impl Permits {
    /// A permit for the image that `proof` is about.
    pub fn give(
        &mut self,
        proof: &ImageProof,
        generation: Generation,
        epoch: Epoch,
        random: &[u8; 32],
        now: UnixTime,
    ) -> Result<StartPermit, Refusal> {
        let module = proof.module();
        self.drop_unused(now);
        if self.given.len() >= OUTSTANDING_MAX {
            return Err(Refusal::new(Reason::Busy, module, "too many start permits are unused"));
        }
        let permit = StartPermit {
            permit: hex::encode(&random[..PERMIT_NAME_BYTES]),
            module: module.clone(),
            generation,
            instance: format!("{module}-{generation}"),
            manifest: proof.manifest_digest().clone(),
            config: proof.config_digest().clone(),
            layers: proof.layers().to_vec(),
            epoch,
            signed_by: proof.key_name().to_owned(),
            vouchers: proof.vouchers().to_vec(),
            expires: now.plus(PERMIT_LIFETIME),
        };
        self.given.insert(permit.permit.clone(), permit.clone());
        Ok(permit)
    }

    /// Spends a permit. The start has as long again to happen.
    pub fn spend(&mut self, name: &str, now: UnixTime) -> Result<StartPermit, Refusal> {
        self.drop_unused(now);
        let unknown = || Refusal::new(Reason::StartPermit, "start", "the permit is unknown, used or expired");
        let mut permit = self.given.remove(name).ok_or_else(unknown)?;
        if self.prepared.len() >= OUTSTANDING_MAX {
            return Err(Refusal::new(
                Reason::Busy,
                &permit.module,
                "too many starts are prepared and not done",
            ));
        }
        permit.expires = now.plus(PERMIT_LIFETIME);
        self.prepared.insert(permit.instance.clone(), permit.clone());
        Ok(permit)
    }

    /// Ends the prepared state of an instance: it started, or never will.
    pub fn settle(&mut self, instance: &str) -> Option<StartPermit> {
        self.prepared.remove(instance)
    }

    /// True when [`Permits::drop_expired`] would find something.
    pub fn any_expired(&self, now: UnixTime) -> bool {
        self.given.values().chain(self.prepared.values()).any(|permit| permit.expires <= now)
    }

    fn drop_unused(&mut self, now: UnixTime) {
        self.given.retain(|_, permit| permit.expires > now);
    }

    /// Forgets what nobody used in time, and returns the instances that were prepared in vain.
    pub fn drop_expired(&mut self, now: UnixTime) -> Vec<String> {
        self.drop_unused(now);
        let late = |permit: &StartPermit| permit.expires <= now;
        let instances: Vec<String> = self
            .prepared
            .values()
            .filter(|permit| late(permit))
            .map(|permit| permit.instance.clone())
            .collect();
        self.prepared.retain(|_, permit| !late(permit));
        instances
    }
}
