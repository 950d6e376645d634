//! Random lives of a gateway: whatever comes in whatever order, the promises hold after each step.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{LeafName, Reason, Refusal, UnixTime};
use edgewarden_protocol::control::{LeafAllowed, Reply, ToldTime};
use proptest::prelude::*;

use super::world::{START, world};
use crate::authority::{Authority, Effect, Input, Moment};
use crate::documents::Documents;
use crate::records::{ProcessSeen, is_caller_of};

#[derive(Debug, Clone, Copy)]
enum Step {
    AcceptNewer,
    AcceptAny(usize),
    RefuseRenewal(Reason),
    Deploy(usize),
    Judge,
    Prepare(usize),
    Start { which: usize, cgroup: u8, address: u8 },
    Stop(usize),
    Gone(usize),
    Allow,
    Enrol(usize),
    Pass(u32),
    SetBack(u32),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let reasons = [Reason::AttestQuote, Reason::AttestReference, Reason::AttestNonce, Reason::Busy];
    prop_oneof![
        3 => Just(Step::AcceptNewer),
        1 => (0..20_usize).prop_map(Step::AcceptAny),
        1 => prop::sample::select(reasons.to_vec()).prop_map(Step::RefuseRenewal),
        4 => (0..6_usize).prop_map(Step::Deploy),
        6 => Just(Step::Judge),
        5 => (0..8_usize).prop_map(Step::Prepare),
        5 => (0..8_usize, 0..6_u8, 2..6_u8)
            .prop_map(|(which, cgroup, address)| Step::Start { which, cgroup, address }),
        2 => (0..8_usize).prop_map(Step::Stop),
        1 => (0..8_usize).prop_map(Step::Gone),
        3 => Just(Step::Allow),
        3 => (0..6_usize).prop_map(Step::Enrol),
        2 => (0..400_u32).prop_map(Step::Pass),
        1 => (0..1_000_000_u32).prop_map(Step::SetBack),
        1 => Just(Step::Restart),
    ]
}

/// The gateway, and what its peers remember.
struct Life {
    authority: Authority,
    wall: UnixTime,
    /// Makes each random value another.
    counter: u64,
    permits: Vec<String>,
    spent: BTreeSet<String>,
    instances: Vec<String>,
    generations: BTreeSet<u64>,
    tokens: Vec<String>,
    used: BTreeSet<String>,
    pids: i32,
    answers: usize,
}

impl Life {
    fn new() -> Self {
        let (authority, refusals) = Authority::recover(Arc::clone(&world().context), Documents::default());
        assert!(refusals.is_empty());
        Self {
            authority,
            wall: START.plus(Duration::from_secs(60)),
            counter: 0,
            permits: Vec::new(),
            spent: BTreeSet::new(),
            instances: Vec::new(),
            generations: BTreeSet::new(),
            tokens: Vec::new(),
            used: BTreeSet::new(),
            pids: 100,
            answers: 20,
        }
    }

    /// As the shell does it: on a copy, kept only when decided.
    fn put(&mut self, input: Input) -> Result<(Reply, Vec<Effect>), Refusal> {
        self.counter += 1;
        let mut random = [0; 32];
        random[..8].copy_from_slice(&self.counter.to_be_bytes());
        let mut next = self.authority.clone();
        let step = next.decide(&Moment { now: self.wall, random }, input)?;
        assert!(!step.enforcers_look || !step.events.is_empty(), "what enforcers must see is written down");
        self.authority = next;
        Ok((step.reply, step.effects))
    }

    fn take(&mut self, step: Step) {
        let world = world();
        let trusted = self.authority.documents.enrolment.trusted().is_ok();
        match step {
            Step::AcceptNewer => {
                self.answers += 1;
                let answer = Box::new(world.enrolled[self.answers % world.enrolled.len()].clone());
                self.wall = self.wall.max(START.plus(Duration::from_secs(300)));
                self.put(Input::EnrolAccept(answer)).unwrap();
                assert!(self.authority.documents.enrolment.trusted().is_ok());
            }
            Step::AcceptAny(n) => drop(self.put(Input::EnrolAccept(Box::new(world.enrolled[n].clone())))),
            Step::RefuseRenewal(reason) => {
                let (_, effects) =
                    self.put(Input::EnrolRefused(Refusal::new(reason, "device", "rule"))).unwrap();
                if reason == Reason::AttestQuote {
                    assert!(self.authority.documents.enrolment.trusted().is_err());
                    assert!(!trusted || effects == [Effect::Withdraw]);
                }
            }
            Step::Deploy(n) => {
                if let Ok(Some(judged)) = self.authority.judge_deployment(&world.envelopes[n]) {
                    self.put(Input::DeploymentJudged(Box::new(judged))).unwrap();
                }
            }
            Step::Judge => self.judge(trusted),
            Step::Prepare(n) => {
                let Some(permit) = self.permits.get(n).cloned() else { return };
                if self.put(Input::StartPrepare { permit: permit.clone() }).is_ok() {
                    assert!(trusted, "a start was prepared without trust");
                    assert!(self.spent.insert(permit), "a permit was spent twice");
                }
            }
            Step::Start { which, cgroup, address } => {
                let Some(instance) = self.instances.get(which).cloned() else { return };
                self.pids += 1;
                let paths = ["/", "/daemons", "/ew/a", "/ew/a/b", "/ew/b", "/ew/ab"];
                let seen =
                    ProcessSeen { pid: self.pids, pid_started: 7, cgroup: paths[usize::from(cgroup)].into() };
                let address = Ipv4Addr::new(10, 77, 0, address);
                if self.put(Input::Started { instance, seen, address }).is_ok() {
                    assert!(trusted, "a start without trust");
                }
            }
            Step::Stop(n) => {
                let Some(instance) = self.instances.get(n).cloned() else { return };
                self.put(Input::Stopped { instance: instance.clone() }).unwrap();
                assert!(self.authority.documents.records.get(&instance).is_none());
            }
            Step::Gone(n) => {
                let gone = self.instances.get(n).cloned().into_iter().collect();
                self.put(Input::Tick { gone }).unwrap();
            }
            Step::Allow => {
                let leaf = LeafName::parse("sensor-1").unwrap();
                if let Ok((reply, _)) = self.put(Input::LeafAllow { leaf, lifetime_seconds: 300 }) {
                    let Reply::LeafToken(LeafAllowed { token, .. }) = reply else { panic!("{reply:?}") };
                    self.tokens.push(token.reveal().to_owned());
                }
            }
            Step::Enrol(n) => {
                let Some(token) = self.tokens.iter().rev().nth(n).cloned() else { return };
                let leaf = LeafName::parse("sensor-1").unwrap();
                let offered = token.as_str().into();
                if self.put(Input::LeafEnrolled { leaf, token: offered, serial: "1".into() }).is_ok() {
                    assert!(trusted, "a leaf enrolled without trust");
                    assert_eq!(n, 0, "a replaced token was taken");
                    assert!(self.used.insert(token), "a token was used twice");
                }
            }
            Step::Pass(seconds) => {
                self.wall = self.wall.plus(Duration::from_secs(seconds.into()));
                self.put(Input::Tick { gone: Vec::new() }).unwrap();
            }
            Step::SetBack(seconds) => self.wall = self.wall.minus(Duration::from_secs(seconds.into())),
            Step::Restart => {
                let documents = self.authority.documents.clone();
                let epoch = self.authority.in_force().map(|in_force| in_force.epoch());
                let (again, refusals) = Authority::recover(Arc::clone(&world.context), documents.clone());
                assert!(refusals.is_empty(), "{refusals:?}");
                assert_eq!(again.in_force().map(|in_force| in_force.epoch()), epoch);
                assert_eq!(again.documents.records, documents.records);
                self.authority = again;
                for permit in self.permits.drain(..) {
                    self.spent.insert(permit);
                }
            }
        }
    }

    fn judge(&mut self, trusted: bool) {
        let evidence = world().image.evidence("alerts");
        let judged = self.authority.judge_image(&evidence);
        let deployed = self
            .authority
            .in_force()
            .is_some_and(|in_force| in_force.deployment().modules.iter().any(|m| m.name == evidence.module));
        assert_eq!(judged.is_ok(), trusted && deployed);
        let Ok((proof, epoch)) = judged else { return };
        if let Ok((reply, _)) = self.put(Input::ImageJudged(Box::new(proof), epoch)) {
            let Reply::Permit(permit) = reply else { panic!("{reply:?}") };
            assert!(self.generations.insert(permit.generation.0), "a generation was used twice");
            assert_eq!(self.generations.last(), Some(&permit.generation.0), "generations rise");
            self.permits.push(permit.permit);
            self.instances.push(permit.instance);
        }
    }

    /// Checks the invariants, compared with the moment before.
    fn check(&self, before: &Documents) {
        let now = &self.authority.documents;
        assert!(now.deployments.highest >= before.deployments.highest, "a version was forgotten");
        assert!(now.deployments.epoch >= before.deployments.epoch, "an epoch was forgotten");
        assert!(now.generations.last >= before.generations.last, "a generation was forgotten");
        let held = |documents: &Documents| documents.enrolment.accepted.as_ref().map(|held| held.not_before);
        assert!(held(now) >= held(before), "an older gateway CA replaced a newer one");
        if held(now) == held(before) {
            assert!(
                now.clock.floor >= before.clock.floor,
                "the floor fell without a belief or the fleet's word"
            );
        }
        assert!(now.clock.floor >= now.clock.signed, "the floor is below what the fleet signed");
        let records: Vec<_> = now.records.iter().collect();
        for (n, one) in records.iter().enumerate() {
            assert!(self.generations.contains(&one.generation.0), "a record without a permit");
            assert!(now.records.instance_of(&world().context.own_cgroup).is_none(), "identityd is no module");
            for other in &records[n + 1..] {
                assert_ne!(one.address, other.address);
                assert!(one.cgroup != other.cgroup && one.pid != other.pid);
                assert!(!is_caller_of(one, &other.cgroup) && !is_caller_of(other, &one.cgroup));
            }
        }
        let snapshot = self.authority.snapshot(1, ToldTime { offset_millis: 0, unsure: false });
        assert_eq!(snapshot.trusted, now.enrolment.trusted().is_ok());
        // What the deployment in force has no more is not told, though it may still run.
        let standing = records.iter().filter(|record| self.authority.standing(&record.instance).is_ok());
        assert_eq!(snapshot.records.len(), standing.count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn promises_hold_in_every_life(steps in prop::collection::vec(step(), 1..80)) {
        let mut life = Life::new();
        for step in steps {
            let before = life.authority.documents.clone();
            life.take(step);
            life.check(&before);
        }
    }
}
