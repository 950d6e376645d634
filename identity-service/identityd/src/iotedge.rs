//! The source behind an instance's IoT Edge workload API (docs/iotedge-api.md).
//!
//! The deployment in force says at each call whether the module has that API at all and which server names are its own;
//! the verdict says whether anything may go out. Keys to sign and encrypt with are in [`crate::module_keys`].

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use edgewarden_iotedge_api::{Instance, Issued, KeyId, ModuleApi};
use edgewarden_names::{ModuleName, Reason, Refusal, SpiffeId, UnixTime, pem};
use edgewarden_protocol::audit::{Event, KeyUse};
use zeroize::Zeroizing;

use crate::issuance::Issuance;
use crate::kept::KeptSecrets;
use crate::ledger::Ledger;
use crate::module_keys::ModuleKeys;
use crate::refuse::alive;

/// Certificates that one instance gets at once, and how long it takes until there is one more.
const CERTIFICATES_MAX: u32 = 16;
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(10);

/// Refusals of one instance's requests that are written down at once, and how long it takes until there is one more: a
/// module that asks for nonsense all day does not keep others' refusals out of the log.
const REFUSALS_MAX: u32 = 32;
const REFUSAL_INTERVAL: Duration = Duration::from_secs(1);
/// After a keystore that could not, it is left alone for so long: others wait for it too.
const KEYSTORE_REST: Duration = Duration::from_secs(5);

/// A module's keys are opened at their first use: a module that calls often does not keep the chip busy.
#[derive(Default)]
enum Keys {
    #[default]
    Closed,
    Open(Arc<ModuleKeys>),
    Failed(Refusal, Instant),
}

/// The parts of the service that the API uses.
#[derive(Debug)]
pub struct Desk {
    pub ledger: Arc<Ledger>,
    pub issuance: Arc<Issuance>,
    pub kept: Arc<KeptSecrets>,
}

/// IoT Edge API of one instance, with its own allowances.
pub struct InstanceApi {
    /// The socket's task must not keep the service alive.
    desk: Weak<Desk>,
    instance: String,
    keys: Mutex<Keys>,
    certificates: Mutex<Allowance>,
    refusals: Mutex<Allowance>,
}

impl InstanceApi {
    /// The API of an instance. It does not keep the desk alive.
    pub fn new(desk: &Arc<Desk>, instance: &str) -> Self {
        Self {
            desk: Arc::downgrade(desk),
            instance: instance.into(),
            keys: Mutex::default(),
            certificates: Mutex::new(Allowance::new(CERTIFICATES_MAX, CERTIFICATE_INTERVAL)),
            refusals: Mutex::new(Allowance::new(REFUSALS_MAX, REFUSAL_INTERVAL)),
        }
    }

    /// The desk, once it is certain that it may answer.
    fn open(&self) -> Result<(Arc<Desk>, Instance), Refusal> {
        let desk = alive(&self.desk)?;
        let state = desk.ledger.current();
        state.documents().enrolment.trusted()?;
        let record = state.documents().records.get(&self.instance).ok_or_else(|| {
            Refusal::new(Reason::CallerNotModule, &self.instance, "the instance does not run")
        })?;
        if !is_granted(&desk.ledger, &record.module) {
            let rule = "the deployment in force does not give this module the API (`iotedge`)";
            return Err(Refusal::new(Reason::PolicyDenied, &record.module, rule));
        }
        let instance = Instance {
            name: record.instance.clone(),
            module: record.module.clone(),
            generation: record.generation,
            started: record.at,
        };
        Ok((desk, instance))
    }

    fn keys(&self) -> Result<Arc<ModuleKeys>, Refusal> {
        let (desk, instance) = self.open()?;
        // Held while the chip is asked: the callers of one socket are few.
        let mut kept = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Keys::Open(keys) => return Ok(Arc::clone(keys)),
            Keys::Failed(refusal, at) if at.elapsed() < KEYSTORE_REST => return Err(refusal.clone()),
            Keys::Failed(..) | Keys::Closed => {}
        }
        let opened = ModuleKeys::of(&desk.kept, &desk.ledger.context.target, &instance.module);
        let keys = Arc::new(opened.inspect_err(|refusal| {
            *kept = Keys::Failed(refusal.clone(), Instant::now());
        })?);
        let event = Event::new("iotedge.keys_opened", &instance.module, &self.instance);
        desk.ledger.record(&event.with_key(KeyUse::Storage));
        *kept = Keys::Open(Arc::clone(&keys));
        Ok(keys)
    }

    fn issue(&self, dns: &[String], until: Option<UnixTime>) -> Result<Issued, Refusal> {
        let (desk, instance) = self.open()?;
        let now = desk.ledger.now();
        desk.ledger.current().documents().enrolment.may_issue(now)?;
        let wanted = until.map(|until| until.after(now));
        if wanted == Some(Duration::ZERO) {
            return Err(Refusal::new(Reason::RequestInvalid, "expiration", "it is in the past"));
        }
        if !take(&self.certificates) {
            let rule = format_args!(
                "an instance gets {CERTIFICATES_MAX} certificates, then one every {} seconds",
                CERTIFICATE_INTERVAL.as_secs()
            );
            return Err(Refusal::new(Reason::CallerBudget, &self.instance, rule));
        }
        let target = &desk.ledger.context.target;
        let id = SpiffeId::module(&target.trust_domain, &target.gateway, &instance.module);
        let svid = desk.issuance.issue_extra(&id, dns, wanted, now)?;
        let names = if dns.is_empty() { String::new() } else { format!(" for {}", dns.join(", ")) };
        let detail = format!("{}, serial {}, until {}{names}", self.instance, svid.serial, svid.not_after);
        desk.ledger.record(&Event::new("iotedge.certificate", &id, detail).with_key(KeyUse::IssuingCa));
        Ok(Issued {
            key_pem: pem::encode_secret(pem::PRIVATE_KEY, &svid.key_pkcs8),
            chain_pem: pem::chain(&svid.chain_der),
            expires: svid.not_after,
        })
    }
}

/// Does the deployment in force give the module this API?
pub fn is_granted(ledger: &Ledger, module: &ModuleName) -> bool {
    let state = ledger.current();
    state.in_force().is_some_and(|in_force| {
        in_force.deployment().modules.iter().any(|entry| entry.name == *module && entry.iotedge)
    })
}

/// The granted name that was asked for, as the deployment writes it.
fn granted_name(ledger: &Ledger, module: &ModuleName, asked: &str) -> Result<String, Refusal> {
    let state = ledger.current();
    let entries = state.in_force().map(|in_force| in_force.deployment().modules.as_slice());
    let entry = entries.unwrap_or_default().iter().find(|entry| entry.name == *module && entry.iotedge);
    // Who makes deployments for many gateways does not know their names. A module that has this one's would be taken for
    // the gateway itself.
    let gateway = ledger.context.target.gateway.as_str();
    let is_gateways = |name: &&str| name.split('.').next() == Some(gateway);
    let mut names = entry.into_iter().flat_map(|entry| {
        let more = entry.server_names.iter().map(String::as_str);
        std::iter::once(entry.name.as_str()).chain(more.filter(|name| !is_gateways(name)))
    });
    names.find(|name| name.eq_ignore_ascii_case(asked)).map(Into::into).ok_or_else(|| {
        let rule = "the deployment does not grant the module a server certificate for that name";
        Refusal::new(Reason::IotedgeName, module, rule)
    })
}

impl ModuleApi for InstanceApi {
    fn instance(&self) -> Result<Instance, Refusal> {
        self.open().map(|(_, instance)| instance)
    }

    fn sign(&self, key: KeyId, data: &[u8]) -> Result<[u8; 32], Refusal> {
        Ok(self.keys()?.sign(key, data))
    }

    fn encrypt(&self, plaintext: &[u8], initialization_vector: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.keys()?.encrypt(plaintext, initialization_vector)
    }

    fn decrypt(
        &self,
        ciphertext: &[u8],
        initialization_vector: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        self.keys()?.decrypt(ciphertext, initialization_vector)
    }

    fn server_certificate(&self, common_name: &str, until: Option<UnixTime>) -> Result<Issued, Refusal> {
        let (desk, instance) = self.open()?;
        let name = granted_name(&desk.ledger, &instance.module, common_name)?;
        self.issue(&[name], until)
    }

    fn identity_certificate(&self, until: Option<UnixTime>) -> Result<Issued, Refusal> {
        self.issue(&[], until)
    }

    fn trust_bundle(&self) -> Result<String, Refusal> {
        let (desk, _) = self.open()?;
        let state = desk.ledger.current();
        let accepted = state.documents().enrolment.trusted()?;
        Ok(pem::chain(&accepted.bundle()))
    }

    fn refused(&self, refusal: &Refusal) {
        if let Some(desk) = self.desk.upgrade()
            && take(&self.refusals)
        {
            desk.ledger.note_soon(&self.instance, refusal);
        }
    }
}

/// A token bucket by the monotonic clock.
struct Allowance {
    left: u32,
    most: u32,
    interval: Duration,
    since: Instant,
}

impl Allowance {
    fn new(most: u32, interval: Duration) -> Self {
        Self { left: most, most, interval, since: Instant::now() }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs() / self.interval.as_secs().max(1);
        if passed > 0 {
            let more = u32::try_from(passed).unwrap_or(self.most);
            self.left = self.left.saturating_add(more).min(self.most);
            self.since = now;
        }
        let taken = self.left.checked_sub(1);
        self.left = taken.unwrap_or_default();
        taken.is_some()
    }
}

fn take(allowance: &Mutex<Allowance>) -> bool {
    allowance.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_rationed() {
        let mut allowance = Allowance::new(CERTIFICATES_MAX, CERTIFICATE_INTERVAL);
        let start = allowance.since;
        for _ in 0..CERTIFICATES_MAX {
            assert!(allowance.take(start));
        }
        assert!(!allowance.take(start));
        assert!(!allowance.take(start + CERTIFICATE_INTERVAL / 2));
        assert!(allowance.take(start + CERTIFICATE_INTERVAL));
        assert!(!allowance.take(start + CERTIFICATE_INTERVAL));
        let later = start + CERTIFICATE_INTERVAL * 1000;
        assert_eq!((0..1000).filter(|_| allowance.take(later)).count(), CERTIFICATES_MAX as usize);
    }
}
