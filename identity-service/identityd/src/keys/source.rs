//! One instance's door to its module's keys: who it is, the verdict, the audit log and the counters.

use std::sync::{Arc, Weak};

use edgewarden_names::{KeyName, ModuleName, Refusal};
use edgewarden_protocol::audit::{Event, KeyUse};
use edgewarden_workload_server::{KeySource, Place};
use edgewarden_workload_wire::keys::{
    Attestation, Capability, Certified, Key, Operation, Purpose, Use, Wanted,
};
use zeroize::Zeroizing;

use super::{Keys, Who};
use crate::issuance::Issuance;
use crate::ledger::Ledger;
use crate::metrics::KeyCall;
use crate::refuse::alive;

/// The parts of the service that the doors of all instances use.
#[derive(Debug)]
pub(crate) struct Door {
    pub ledger: Arc<Ledger>,
    pub keys: Arc<Keys>,
    pub issuance: Arc<Issuance>,
}

pub(crate) struct InstanceKeys {
    door: Weak<Door>,
    instance: String,
    module: ModuleName,
}

impl std::fmt::Debug for InstanceKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InstanceKeys").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl InstanceKeys {
    /// The keys of one instance. It does not keep the door alive.
    pub fn new(door: &Arc<Door>, instance: String, module: ModuleName) -> Self {
        Self { door: Arc::downgrade(door), instance, module }
    }

    fn who(&self) -> Who<'_> {
        Who { instance: &self.instance, module: &self.module }
    }

    fn call<T>(&self, call: KeyCall, work: impl FnOnce(&Door) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let door = alive(&self.door)?;
        let outcome = work(&door);
        door.ledger.metrics.key_call(call, outcome.is_ok());
        outcome
    }

    fn record(&self, door: &Door, kind: &'static str, key: &Key) {
        let detail = format!(
            "{}, key `{}` for {}, generation {}",
            self.instance,
            key.name,
            key.purpose.as_str(),
            key.generation
        );
        door.ledger.record(&Event::new(kind, &self.module, detail).with_key(KeyUse::Resident));
    }
}

impl KeySource for InstanceKeys {
    fn admit(&self) -> Result<Place, Refusal> {
        let door = alive(&self.door)?;
        let entered = door.keys.budget(&self.module).enter(door.ledger.tick().monotonic);
        let place = entered.map_err(|refusal| Refusal { subject: self.instance.clone(), ..refusal });
        place.map(Place::new).inspect_err(|refusal| door.ledger.note_soon(&self.instance, refusal))
    }

    fn refused(&self, refusal: &Refusal) {
        if let Ok(door) = alive(&self.door) {
            let subject = format!("{}, {}", self.instance, refusal.subject);
            door.ledger.note_caller(&self.instance, &Refusal { subject, ..refusal.clone() });
        }
    }

    fn create(
        &self,
        name: &KeyName,
        purpose: Purpose,
        wanted: Wanted,
    ) -> Result<(Key, Capability, Option<Vec<u8>>), Refusal> {
        self.call(KeyCall::Create, |door| {
            let made = door.keys.create(self.who(), name, purpose, wanted, door.ledger.tick())?;
            self.record(door, "key.created", &made.0);
            Ok(made)
        })
    }

    fn grant(&self, name: &KeyName, wanted: Wanted) -> Result<(Key, Capability), Refusal> {
        self.call(KeyCall::Grant, |door| door.keys.grant(self.who(), name, wanted, door.ledger.tick()))
    }

    fn public_key(&self, name: &KeyName) -> Result<Vec<u8>, Refusal> {
        self.call(KeyCall::PublicKey, |door| door.keys.public_key(self.who(), name, door.ledger.tick()))
    }

    fn sign(&self, by: &Use, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.call(KeyCall::Use(Operation::Sign), |door| {
            door.keys.sign(self.who(), by, message, door.ledger.tick())
        })
    }

    fn certify(&self, by: &Use, nonce: &[u8]) -> Result<Certified, Refusal> {
        self.call(KeyCall::Use(Operation::Certify), |door| {
            let (point, attestation) = door.keys.certify(self.who(), by, nonce, door.ledger.tick())?;
            let now = door.ledger.now();
            door.ledger.current().documents().enrolment.may_issue(now)?;
            let (id, issued, bundle_der) = door.issuance.certify(&self.instance, &point, now)?;
            let detail = format!(
                "{}, serial {}, until {}, for resident key `{}`",
                self.instance, issued.serial, issued.not_after, by.key
            );
            door.ledger.record(&Event::new("svid.issued", &id, detail).with_key(KeyUse::IssuingCa));
            Ok(Certified {
                id,
                chain_der: issued.chain_der,
                bundle_der,
                not_after: issued.not_after,
                attestation: attestation.map(|attestation| Attestation {
                    message: attestation.message,
                    signature: attestation.signature,
                    key_public: attestation.key_public,
                    ak_public: attestation.ak_public,
                }),
            })
        })
    }

    fn encrypt(&self, by: &Use, plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.call(KeyCall::Use(Operation::Encrypt), |door| {
            door.keys.encrypt(self.who(), by, plaintext, context, door.ledger.tick())
        })
    }

    fn decrypt(&self, by: &Use, ciphertext: &[u8], context: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        self.call(KeyCall::Use(Operation::Decrypt), |door| {
            door.keys.decrypt(self.who(), by, ciphertext, context, door.ledger.tick())
        })
    }

    fn seal(&self, by: &Use, secret: &[u8], wanted: Wanted) -> Result<(Key, Capability), Refusal> {
        self.call(KeyCall::Use(Operation::Seal), |door| {
            let sealed = door.keys.seal(self.who(), by, secret, wanted, door.ledger.tick())?;
            self.record(door, "key.created", &sealed.0);
            Ok(sealed)
        })
    }

    fn unseal(&self, by: &Use) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        self.call(KeyCall::Use(Operation::Unseal), |door| {
            door.keys.unseal(self.who(), by, door.ledger.tick())
        })
    }

    fn delete(&self, by: &Use) -> Result<(), Refusal> {
        self.call(KeyCall::Use(Operation::Delete), |door| {
            let deleted = door.keys.delete(self.who(), by, door.ledger.tick())?;
            self.record(door, "key.deleted", &deleted);
            Ok(())
        })
    }

    fn list(&self) -> Result<Vec<Key>, Refusal> {
        self.call(KeyCall::List, |door| Ok(door.keys.list(&self.module)))
    }
}

/// Writes down how often each key was used since the last time, and forgets what nobody uses. Blocks on the disk.
pub(crate) fn write_uses(ledger: &Ledger, keys: &Keys) {
    let trusted = ledger.current().documents().enrolment.trusted().is_ok();
    for (module, words) in keys.take_uses() {
        ledger.record(&Event::new("key.used", module, words).with_key(KeyUse::Resident));
    }
    keys.tidy(ledger.tick().monotonic, !trusted);
}
