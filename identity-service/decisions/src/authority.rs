//! The decisions, as a state machine without I/O: state and an input make the next state, a reply, and what to do.
//!
//! The shell (`identityd`) works on a copy, writes events and changed documents to disk, and only then puts the
//! copy in the place of the state: a decision that is not on disk has not been made. An input that is refused leaves
//! nothing behind. Trusts its inputs as the shell parsed or read them from the kernel; judges all they say.

mod federation;
mod secrets;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use edgewarden_image_trust::ImageProof;
use edgewarden_names::{Epoch, LeafName, ModuleName, Reason, Refusal, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::audit::{Event, KeyUse};
use edgewarden_protocol::control::{
    Enforcer, LeafAllowed, PolicyInForce, Reply, Snapshot, StartRecord, ToldTime, TopicSize,
};
use edgewarden_protocol::deployment::SvidKey;
use edgewarden_protocol::enrol::Enrolled;
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::token::LeafToken;

use crate::boot::Measured;
use crate::clock::{Belief, Known};
use crate::deployments::{InForce, Target};
use crate::documents::Documents;
use crate::enrolment::{Accepted, Enrolment, Expected};
use crate::federation::Fetched;
use crate::jwt_keys::PublishedKey;
use crate::permits::Permits;
use crate::records::ProcessSeen;
use crate::secrets::Judged;
use crate::site::{self, Site};

/// Facts that do not change while the process runs.
#[derive(Debug)]
pub struct Context {
    pub layout: Layout,
    pub target: Target,
    /// `None` when the configuration names no fleet.
    pub expected: Option<Expected>,
    /// `None` when the configuration names no site's CA.
    pub site: Option<Site>,
    /// The cgroup of `identityd`, which no module may share.
    pub own_cgroup: String,
    /// The kernel's random name of this boot.
    pub boot: String,
    /// Measurements of this boot by the TPM.
    pub measured_boot: Measured,
}

/// Time at which an input arrives, and 32 random bytes for it alone.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// As believed ([`crate::clock`]).
    pub now: UnixTime,
    pub random: [u8; 32],
}

/// An input that changes state.
#[derive(Debug)]
pub enum Input {
    EnrolAccept(Box<Enrolled>),
    EnrolRefused(Refusal),
    Site(site::Input),
    /// A deployment was judged; it takes force.
    DeploymentJudged(Box<InForce>),
    /// An image was judged under the deployment of this epoch.
    ImageJudged(Box<ImageProof>, Epoch),
    /// A secret was judged and opens; it counts from now on.
    SecretJudged(Box<Judged>),
    StartPrepare {
        permit: String,
    },
    Started {
        instance: String,
        seen: ProcessSeen,
        address: Ipv4Addr,
    },
    Stopped {
        instance: String,
    },
    Proven {
        instance: String,
    },
    EpochEnforced {
        enforcer: Enforcer,
        epoch: Epoch,
    },
    LeafAllow {
        leaf: LeafName,
        lifetime_seconds: u32,
    },
    /// A certificate has been made for this leaf and waits for its token to be spent.
    LeafEnrolled {
        leaf: LeafName,
        token: LeafToken,
        serial: String,
    },
    /// A certificate has been made in the place of a leaf's own.
    LeafRenewed {
        leaf: LeafName,
        serial: String,
    },
    /// A key for JWT-SVIDs was made; it may sign when this is on disk. `alone`: no key of before is in memory.
    JwtKeyPublished {
        key: PublishedKey,
        alone: bool,
    },
    /// Another trust domain's endpoint gave a bundle that reads well.
    FederationFetched(Box<Fetched>),
    /// Another time is believed from now on.
    TimeBelieved {
        belief: Option<Belief>,
        event: Option<Event>,
    },
    /// Time has passed; the processes of these instances are gone.
    Tick {
        gone: Vec<String>,
    },
}

impl Input {
    /// Does it do nothing but take from somebody what they had? Then it does not wait for a disk.
    pub fn only_takes_away(&self) -> bool {
        matches!(self, Self::EnrolRefused(_) | Self::Stopped { .. } | Self::Tick { .. })
    }
}

/// Work of the shell after the new state is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make the instance's Workload API socket.
    Bind { instance: String, module: ModuleName },
    /// Hold on to the process and give the instance its identity.
    Begin(Box<StartRecord>),
    /// End the instance's streams and remove its socket.
    Unbind { instance: String },
    /// A new issuing CA and new certificates: the ground of issuance has changed.
    Reissue,
    /// No certificate may be in use any more.
    Withdraw,
    /// Take the identity from an instance that runs on.
    Suspend { instance: String },
    /// Something that was in force is no longer: for status and for the fleet.
    Complain(Refusal),
}

/// Result of a decision: the reply, the lines of the audit log, and what is to be carried out.
#[derive(Debug)]
pub struct Step {
    pub reply: Reply,
    pub events: Vec<Event>,
    pub effects: Vec<Effect>,
    /// True when enforcers must look again.
    pub enforcers_look: bool,
}

impl Step {
    pub(crate) fn done() -> Self {
        Self { reply: Reply::Done, events: Vec::new(), effects: Vec::new(), enforcers_look: false }
    }
    pub(crate) fn reply(mut self, reply: Reply) -> Self {
        self.reply = reply;
        self
    }
    pub(crate) fn event(mut self, kind: &'static str, subject: impl ToString, detail: impl ToString) -> Self {
        self.events.push(Event::new(kind, subject, detail));
        self
    }
    pub(crate) fn effect(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }
    pub(crate) fn look(mut self) -> Self {
        self.enforcers_look = true;
        self
    }
}

/// The documents of `identityd`, what follows from them, and the decisions on both. Each decision is taken on a clone.
#[derive(Debug, Clone)]
pub struct Authority {
    pub(crate) context: Arc<Context>,
    pub(crate) documents: Documents,
    pub(crate) in_force: Option<Arc<InForce>>,
    pub(crate) permits: Permits,
    enforced: HashMap<Enforcer, Epoch>,
}

impl Authority {
    /// Takes up what is on disk. Returns also what of it no longer holds under this configuration: it is not in force,
    /// and its counters are kept.
    pub fn recover(context: Arc<Context>, mut documents: Documents) -> (Self, Vec<Refusal>) {
        let mut refusals = Vec::new();
        let rechecked = match (&context.expected, &context.site, &documents.enrolment.accepted) {
            (_, _, None) => Ok(None),
            (Some(expected), _, Some(_)) => documents.enrolment.recheck(expected).map(|()| None),
            (None, Some(site), Some(accepted)) => site.recheck(accepted).map(Some),
            (None, None, Some(_)) => Err(Refusal::new(
                Reason::AttestRequired,
                "gateway",
                "the configuration names neither a fleet nor a site's CA",
            )),
        };
        match rechecked {
            Ok(None) => {}
            Ok(Some(accepted)) => documents.enrolment = Arc::new(Enrolment { accepted: Some(accepted) }),
            Err(refusal) => {
                refusals.push(refusal);
                documents.enrolment = Arc::default();
            }
        }
        documents.records = Arc::new(documents.records.of_boot(&context.boot));
        let other_boot = |accepted: &Accepted| !accepted.is_of_boot(&context.measured_boot);
        if documents.enrolment.accepted.as_ref().is_some_and(other_boot) {
            let mut enrolment = Enrolment::clone(&documents.enrolment);
            if let Some(accepted) = &mut enrolment.accepted {
                accepted.other_boot = true;
            }
            refusals.extend(enrolment.trusted().err());
            documents.enrolment = Arc::new(enrolment);
        }
        let in_force = documents.deployments.recover(&context.target).unwrap_or_else(|refusal| {
            refusals.push(refusal);
            None
        });
        let in_force = in_force.map(Arc::new);
        let authority =
            Self { context, documents, in_force, permits: Permits::default(), enforced: HashMap::new() };
        (authority, refusals)
    }

    /// Facts that do not change while the process runs.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The documents as they are on disk.
    pub fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Facts that the belief in a time depends on.
    pub fn known_of_time(&self) -> Known {
        let clock = &self.documents.clock;
        Known {
            enrolled: self.documents.enrolment.accepted.is_some(),
            floor: clock.floor,
            signed: clock.signed,
        }
    }

    /// The deployment in force, if there is one.
    pub fn in_force(&self) -> Option<&Arc<InForce>> {
        self.in_force.as_ref()
    }

    /// Does the deployment in force want this module's key in the keystore?
    pub fn wants_resident_key(&self, module: &ModuleName) -> bool {
        let modules = self.in_force().into_iter().flat_map(|in_force| &in_force.deployment().modules);
        modules.into_iter().any(|one| one.name == *module && one.svid_key == SvidKey::Resident)
    }

    /// The policy epoch that each enforcer says it has in force.
    pub fn enforced(&self) -> Vec<(Enforcer, Epoch)> {
        let epoch = |enforcer| Some((enforcer, *self.enforced.get(&enforcer)?));
        [Enforcer::Runtimed, Enforcer::Gatewayd].into_iter().filter_map(epoch).collect()
    }

    /// The state that enforcers need, under `revision` and with the time to go by.
    pub fn snapshot(&self, revision: u64, time: ToldTime) -> Snapshot {
        let target = &self.context.target;
        let has_identity =
            |record: &StartRecord| self.distrusts(record).is_none_or(|untrusted| untrusted.keeps_identity());
        Snapshot {
            revision,
            gateway: target.gateway.clone(),
            trust_domain: target.trust_domain.clone(),
            policy: self.in_force.as_ref().map(|in_force| PolicyInForce {
                epoch: in_force.epoch(),
                compiled: in_force.compiled().clone(),
                routes: in_force.deployment().routes.clone(),
                messages: in_force.deployment().messages.clone(),
                sizes: TopicSize::of(&in_force.deployment().topics),
            }),
            records: self.documents.records.iter().filter(|record| has_identity(record)).cloned().collect(),
            untrusted: self.documents.records.iter().filter_map(|record| self.distrusts(record)).collect(),
            secrets: self.secrets_changes(),
            trusted: self.documents.enrolment.trusted().is_ok(),
            time,
            standing: Vec::new(),
        }
    }

    /// Decides one input. On an error `self` may be half changed: the caller works on a copy and drops it then.
    pub fn decide(&mut self, moment: &Moment, input: Input) -> Result<Step, Refusal> {
        let now = moment.now;
        match input {
            Input::EnrolAccept(enrolled) => self.enrol_accept(&enrolled, now),
            Input::EnrolRefused(refusal) => Ok(self.enrol_refused(&refusal, now)),
            Input::Site(input) => self.site_decides(input),
            Input::DeploymentJudged(judged) => self.deployment_judged(*judged, now),
            Input::FederationFetched(fetched) => self.federation_fetched(&fetched, now),
            Input::ImageJudged(proof, epoch) => self.image_judged(&proof, epoch, moment, now),
            Input::SecretJudged(judged) => self.secret_judged(&judged),
            Input::StartPrepare { permit } => self.start_prepare(&permit, now),
            Input::Started { instance, seen, address } => self.started(&instance, &seen, address, now),
            Input::Stopped { instance } => Ok(self.stopped(&instance, "runtimed says so")),
            Input::Proven { instance } => Ok(self.proven(&instance)),
            Input::EpochEnforced { enforcer, epoch } => self.epoch_enforced(enforcer, epoch),
            Input::LeafAllow { leaf, lifetime_seconds } => {
                self.leaf_allow(&leaf, lifetime_seconds, moment, now)
            }
            Input::LeafEnrolled { leaf, token, serial } => self.leaf_enrolled(&leaf, &token, &serial, now),
            Input::LeafRenewed { leaf, serial } => {
                self.check_leaf(&leaf, now)?;
                let event = Event::new("leaf.renewed", &leaf, format!("serial {serial}"));
                let mut step = Step::done();
                step.events.push(event.with_key(KeyUse::IssuingCa));
                Ok(step)
            }
            Input::JwtKeyPublished { key, alone } => self.jwt_key_published(key, alone, now),
            Input::TimeBelieved { belief, event } => Ok(self.time_believed(belief, event, now)),
            Input::Tick { gone } => Ok(self.tick(&gone, now)),
        }
    }

    fn enrol_accept(&mut self, enrolled: &Enrolled, now: UnixTime) -> Result<Step, Refusal> {
        let expected = self.context.expected.as_ref().ok_or_else(|| {
            Refusal::new(Reason::RequestInvalid, "gateway", "the configuration names no fleet")
        })?;
        let before = self.documents.enrolment.accepted.as_ref().map(|held| held.not_before);
        let mut next = self.documents.enrolment.accept(enrolled, expected, now)?;
        let Some(accepted) = &mut next.accepted else { return Ok(Step::done()) };
        accepted.boot = self.context.measured_boot.value();
        if !accepted.is_of_boot(&self.context.measured_boot) {
            let rule = "the lease is long, and the TPM does not say what it has measured of this boot";
            return Err(Refusal::new(Reason::KeystoreFailed, "gateway", rule));
        }
        if before.is_none_or(|before| before < accepted.not_before) {
            self.documents.clock = Arc::new(self.documents.clock.signed(accepted.not_before));
        }
        let detail = format!(
            "verdict fresh, gateway CA until {}, hardware {}",
            accepted.not_after, enrolled.verdict.hardware
        );
        self.documents.enrolment = Arc::new(next);
        let step = Step::done().event("enrol.accepted", &self.context.target.gateway, detail);
        Ok(step.effect(Effect::Reissue).look())
    }

    fn enrol_refused(&mut self, refusal: &Refusal, now: UnixTime) -> Step {
        let step = Step::done().event(
            "enrol.refused",
            refusal.reason,
            format!("{}: {}", refusal.subject, refusal.rule),
        );
        match self.documents.enrolment.refused(refusal, now) {
            None => step,
            Some(next) => {
                self.documents.enrolment = Arc::new(next);
                let subject = self.context.target.gateway.clone();
                step.event("verdict.failed", subject, refusal.reason).effect(Effect::Withdraw).look()
            }
        }
    }

    /// Judges an envelope; `None` when it is the one in force. Pure, and slow enough to be done beside other decisions.
    pub fn judge_deployment(&self, envelope: &Bytes) -> Result<Option<InForce>, Refusal> {
        self.documents.deployments.judge(envelope, self.in_force.as_ref(), &self.context.target)
    }

    fn deployment_judged(&mut self, judged: InForce, now: UnixTime) -> Result<Step, Refusal> {
        let before = self.clone();
        self.documents.deployments =
            Arc::new(self.documents.deployments.put(&judged, self.in_force.as_ref())?);
        let reply = judged.to_reply(&self.documents.deployments);
        let subject = format!("{} version {}", reply.deployment.name, reply.deployment.version);
        let detail = format!("signed by {}, epoch {}, {}", reply.signed_by, reply.epoch, reply.envelope);
        self.in_force = Some(Arc::new(judged));
        self.federate(now)?;
        let step = Step::done().event("deployment.accepted", subject, detail).look();
        let step = self.judge_again(&before, step);
        Ok(step.reply(Reply::Deployment(Box::new(reply))))
    }

    fn epoch_enforced(&mut self, enforcer: Enforcer, epoch: Epoch) -> Result<Step, Refusal> {
        let current = self.in_force.as_ref().map(|in_force| in_force.epoch());
        if current.is_none_or(|current| current < epoch) {
            let rule = format!("no epoch {epoch} has been in force");
            return Err(Refusal::new(Reason::RequestInvalid, enforcer, rule));
        }
        let known = self.enforced.insert(enforcer, epoch) == Some(epoch);
        let step = Step::done();
        Ok(if known { step } else { step.event("epoch.enforced", enforcer, epoch) })
    }

    /// Is the leaf declared, and may it have a certificate now?
    pub fn check_leaf(&self, leaf: &LeafName, now: UnixTime) -> Result<(), Refusal> {
        self.declared(leaf)?;
        self.documents.enrolment.may_issue(now).map(drop)
    }

    /// Would this token enrol the leaf?
    pub fn check_leaf_token(&self, leaf: &LeafName, token: &LeafToken, now: UnixTime) -> Result<(), Refusal> {
        self.documents.leaves.spend(leaf, token, now).map(drop)
    }

    fn declared(&self, leaf: &LeafName) -> Result<(), Refusal> {
        let leaves = self.in_force.as_ref().map(|in_force| in_force.deployment().leaves.as_slice());
        if leaves.unwrap_or_default().iter().any(|declared| declared.name == *leaf) {
            return Ok(());
        }
        Err(Refusal::new(Reason::LeafUnknown, leaf, "the deployment in force does not declare it"))
    }

    fn leaf_allow(
        &mut self,
        leaf: &LeafName,
        lifetime_seconds: u32,
        moment: &Moment,
        now: UnixTime,
    ) -> Result<Step, Refusal> {
        self.declared(leaf)?;
        let (leaves, token, expires) =
            self.documents.leaves.allow(leaf, lifetime_seconds, &moment.random, now)?;
        self.documents.leaves = Arc::new(leaves);
        let step = Step::done().event("leaf.allowed", leaf, format!("until {expires}"));
        Ok(step.reply(Reply::LeafToken(LeafAllowed { token, expires })))
    }

    fn leaf_enrolled(
        &mut self,
        leaf: &LeafName,
        token: &LeafToken,
        serial: &str,
        now: UnixTime,
    ) -> Result<Step, Refusal> {
        self.check_leaf(leaf, now)?;
        let leaves = self.documents.leaves.spend(leaf, token, now)?;
        self.documents.leaves = Arc::new(leaves);
        let event = Event::new("leaf.enrolled", leaf, format!("serial {serial}"));
        let mut step = Step::done();
        step.events.push(event.with_key(KeyUse::IssuingCa));
        Ok(step)
    }

    fn jwt_key_published(&mut self, key: PublishedKey, alone: bool, now: UnixTime) -> Result<Step, Refusal> {
        self.documents.enrolment.may_issue(now)?;
        let detail = format!("{}, until {}", key.kid, key.not_after);
        self.documents.jwt_keys = Arc::new(self.documents.jwt_keys.publish(key, alone, now));
        Ok(Step::done().event("jwt_key.published", &self.context.target.gateway, detail))
    }

    fn time_believed(&mut self, belief: Option<Belief>, event: Option<Event>, now: UnixTime) -> Step {
        self.documents.clock = Arc::new(self.documents.clock.believed(now, belief));
        let mut step = Step::done();
        step.events.extend(event);
        step
    }

    fn tick(&mut self, gone: &[String], now: UnixTime) -> Step {
        let mut all = Step::done();
        let late = self.permits.drop_expired(now);
        for instance in late {
            all = all.event("start.abandoned", &instance, "").effect(Effect::Unbind { instance });
        }
        for instance in gone {
            let step = self.stopped(instance, "its process is gone");
            all.events.extend(step.events);
            all.effects.extend(step.effects);
            all.enforcers_look |= step.enforcers_look;
        }
        if let Some(accepted) = &self.documents.enrolment.accepted
            && let Some(raised) = self.documents.clock.raised(now, accepted.not_after)
        {
            self.documents.clock = Arc::new(raised);
        }
        if let Some(left) = self.documents.jwt_keys.without_expired(now) {
            self.documents.jwt_keys = Arc::new(left);
        }
        all
    }

    /// True when a tick would change something even if no process is gone.
    pub fn tick_is_due(&self, now: UnixTime) -> bool {
        let ceiling = self.documents.enrolment.accepted.as_ref().map(|accepted| accepted.not_after);
        self.permits.any_expired(now)
            || self.documents.jwt_keys.without_expired(now).is_some()
            || ceiling.is_some_and(|ceiling| self.documents.clock.raised(now, ceiling).is_some())
    }
}
