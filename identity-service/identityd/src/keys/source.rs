//! One instance's door to its module's keys: who it is, the verdict, the audit log and the counters.

use std::sync::Weak;

use edgewarden_names::{KeyName, ModuleName, Refusal};
use edgewarden_protocol::audit::{Event, KeyUse};
use edgewarden_workload_server::{KeySource, Place};
use edgewarden_workload_wire::keys::{
    Attestation, Capability, Certified, Key, Operation, Purpose, Use, Wanted,
};
use zeroize::Zeroizing;

use super::Who;
use crate::metrics::KeyCall;
use crate::service::Service;
use crate::workload::upgrade;

pub(crate) struct InstanceKeys {
    service: Weak<Service>,
    instance: String,
    module: ModuleName,
}

impl std::fmt::Debug for InstanceKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InstanceKeys").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl InstanceKeys {
    pub fn new(service: Weak<Service>, instance: String, module: ModuleName) -> Self {
        Self { service, instance, module }
    }

    fn who(&self) -> Who<'_> {
        Who { instance: &self.instance, module: &self.module }
    }

    fn call<T>(
        &self,
        call: KeyCall,
        work: impl FnOnce(&Service) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let service = upgrade(&self.service)?;
        let outcome = work(&service);
        service.metrics.key_call(call, outcome.is_ok());
        outcome
    }

    fn record(&self, service: &Service, kind: &'static str, key: &Key) {
        let detail = format!(
            "{}, key `{}` for {}, generation {}",
            self.instance,
            key.name,
            key.purpose.as_str(),
            key.generation
        );
        service.record(&Event::new(kind, &self.module, detail).with_key(KeyUse::Resident));
    }
}

impl KeySource for InstanceKeys {
    fn admit(&self) -> Result<Place, Refusal> {
        let service = upgrade(&self.service)?;
        let entered = service.keys.budget(&self.module).enter(service.tick().monotonic);
        let place = entered.map_err(|refusal| Refusal { subject: self.instance.clone(), ..refusal });
        place.map(Place::new).inspect_err(|refusal| service.note_soon(&self.instance, refusal))
    }

    fn refused(&self, refusal: &Refusal) {
        if let Ok(service) = upgrade(&self.service) {
            let subject = format!("{}, {}", self.instance, refusal.subject);
            service.note_caller(&self.instance, &Refusal { subject, ..refusal.clone() });
        }
    }

    fn create(
        &self,
        name: &KeyName,
        purpose: Purpose,
        wanted: Wanted,
    ) -> Result<(Key, Capability, Option<Vec<u8>>), Refusal> {
        self.call(KeyCall::Create, |service| {
            let made = service.keys.create(self.who(), name, purpose, wanted, service.tick())?;
            self.record(service, "key.created", &made.0);
            Ok(made)
        })
    }

    fn grant(&self, name: &KeyName, wanted: Wanted) -> Result<(Key, Capability), Refusal> {
        self.call(KeyCall::Grant, |service| service.keys.grant(self.who(), name, wanted, service.tick()))
    }

    fn public_key(&self, name: &KeyName) -> Result<Vec<u8>, Refusal> {
        self.call(KeyCall::PublicKey, |service| service.keys.public_key(self.who(), name, service.tick()))
    }

    fn sign(&self, by: &Use, message: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.call(KeyCall::Use(Operation::Sign), |service| {
            service.keys.sign(self.who(), by, message, service.tick())
        })
    }

    fn certify(&self, by: &Use, nonce: &[u8]) -> Result<Certified, Refusal> {
        self.call(KeyCall::Use(Operation::Certify), |service| {
            let (point, attestation) = service.keys.certify(self.who(), by, nonce, service.tick())?;
            let now = service.now();
            service.current().documents().enrolment.may_issue(now)?;
            let (id, issued, bundle_der) = service.issuance.certify(&self.instance, &point, now)?;
            let detail = format!(
                "{}, serial {}, until {}, for resident key `{}`",
                self.instance, issued.serial, issued.not_after, by.key
            );
            service.record(&Event::new("svid.issued", &id, detail).with_key(KeyUse::IssuingCa));
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
        self.call(KeyCall::Use(Operation::Encrypt), |service| {
            service.keys.encrypt(self.who(), by, plaintext, context, service.tick())
        })
    }

    fn decrypt(&self, by: &Use, ciphertext: &[u8], context: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        self.call(KeyCall::Use(Operation::Decrypt), |service| {
            service.keys.decrypt(self.who(), by, ciphertext, context, service.tick())
        })
    }

    fn seal(&self, by: &Use, secret: &[u8], wanted: Wanted) -> Result<(Key, Capability), Refusal> {
        self.call(KeyCall::Use(Operation::Seal), |service| {
            let sealed = service.keys.seal(self.who(), by, secret, wanted, service.tick())?;
            self.record(service, "key.created", &sealed.0);
            Ok(sealed)
        })
    }

    fn unseal(&self, by: &Use) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        self.call(KeyCall::Use(Operation::Unseal), |service| {
            service.keys.unseal(self.who(), by, service.tick())
        })
    }

    fn delete(&self, by: &Use) -> Result<(), Refusal> {
        self.call(KeyCall::Use(Operation::Delete), |service| {
            let deleted = service.keys.delete(self.who(), by, service.tick())?;
            self.record(service, "key.deleted", &deleted);
            Ok(())
        })
    }

    fn list(&self) -> Result<Vec<Key>, Refusal> {
        self.call(KeyCall::List, |service| Ok(service.keys.list(&self.module)))
    }
}

/// Writes down how often each key was used since the last time, and forgets what nobody uses. Blocks on the disk.
pub(crate) fn write_uses(service: &Service) {
    let trusted = service.current().documents().enrolment.trusted().is_ok();
    for (module, words) in service.keys.take_uses() {
        service.record(&Event::new("key.used", module, words).with_key(KeyUse::Resident));
    }
    service.keys.tidy(service.tick().monotonic, !trusted);
}
