use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use edgewarden_names::{Epoch, ModuleName, Principal};

use crate::action::Action;
use crate::epoch::{CompiledEpoch, Side, Target};
use crate::rule::RuleEffect;
use edgewarden_names::topic::{covers, is_filter, is_topic, overlaps};

/// Permitted targets that a denial names.
const NEAREST_MAX: usize = 3;
/// Targets that are looked at for those, so that no denial costs more than this.
const LOOKED_AT_MAX: usize = 1024;
/// Characters of a client's text that a denial repeats.
const SHOWN_CHARS_MAX: usize = 200;

/// An answer of one epoch. Why it is so is worked out when it is asked for.
#[derive(Debug, Clone)]
pub struct Decision<'e> {
    pub allowed: bool,
    pub epoch: Epoch,
    source: &'e CompiledEpoch,
    principal: Cow<'e, Principal>,
    action: Action,
    target: Cow<'e, str>,
    /// `None` for a principal that is not declared.
    verdict: Option<Verdict>,
}

/// The common answer of all declared resources that a request touches. A forbid wins.
#[derive(Debug, Clone, Copy, Default)]
struct Verdict {
    /// The first rule of each effect.
    forbidden: Option<u32>,
    permitted: Option<u32>,
    /// `true` when the request touches anything that is declared.
    declared: bool,
}

impl Verdict {
    fn allowed(self) -> bool {
        self.forbidden.is_none() && self.permitted.is_some()
    }
}

impl Decision<'_> {
    /// Allowed: the name of the rule that permits. Denied: why, in plain words, with the nearest rules that permit.
    pub fn rule(&self) -> Arc<str> {
        let (principal, action, target) = (self.principal.as_ref(), self.action, self.target.as_ref());
        match self.verdict {
            None => format!("{principal} is not declared in the deployment").into(),
            Some(Verdict { forbidden: Some(rule), .. }) => {
                self.source.forbids(rule, principal, action, target).into()
            }
            Some(Verdict { permitted: Some(rule), .. }) => self.source.rule_name(rule),
            Some(Verdict { declared, .. }) => self.source.no_rule(principal, action, target, declared).into(),
        }
    }
}

impl CompiledEpoch {
    /// May this principal open a session with the broker?
    pub fn may_connect<'e>(&'e self, principal: &'e Principal) -> Decision<'e> {
        self.decide(principal, Action::Connect, self.gateway().as_str())
    }

    /// May it publish on this topic?
    pub fn may_publish<'e>(&'e self, principal: &'e Principal, topic: &'e str) -> Decision<'e> {
        self.decide(principal, Action::Publish, topic)
    }

    /// May it hold a subscription to this filter? Yes, if a permitted filter covers it and no forbidden one overlaps.
    pub fn may_subscribe<'e>(&'e self, principal: &'e Principal, filter: &'e str) -> Decision<'e> {
        self.decide(principal, Action::Subscribe, filter)
    }

    /// May it be given a message of this topic?
    pub fn may_receive<'e>(&'e self, principal: &'e Principal, topic: &'e str) -> Decision<'e> {
        self.decide(principal, Action::Receive, topic)
    }

    /// May its messages go to this cloud endpoint?
    pub fn may_upload<'e>(&'e self, principal: &'e Principal, endpoint: &'e str) -> Decision<'e> {
        self.decide(principal, Action::Upload, endpoint)
    }

    /// May `from` open a TCP connection to this port of `to`?
    pub fn may_flow(&self, from: &ModuleName, to: &ModuleName, port: u16) -> Decision<'_> {
        let principal = Cow::Owned(Principal::Module(from.clone()));
        self.decision(principal, Action::OpenFlow, Cow::Owned(format!("{to}:{port}")))
    }

    /// Every permitted flow: from, to, port. Each once.
    pub fn flows(&self) -> Vec<(ModuleName, ModuleName, u16)> {
        let mut flows = Vec::new();
        for principal in self.principals() {
            let Principal::Module(from) = principal else { continue };
            let Some(at) = self.index.principals.get(principal) else { continue };
            for ((to, port), resources) in &self.index.ports {
                let mut verdict = Verdict::default();
                for resource in resources {
                    self.add(*at, Action::OpenFlow, *resource, true, &mut verdict);
                }
                if verdict.allowed() {
                    flows.push((from.clone(), to.clone(), *port));
                }
            }
        }
        flows.sort();
        flows
    }

    pub(crate) fn decide<'e>(
        &'e self,
        principal: &'e Principal,
        action: Action,
        target: &'e str,
    ) -> Decision<'e> {
        self.decision(Cow::Borrowed(principal), action, Cow::Borrowed(target))
    }

    fn decision<'e>(
        &'e self,
        principal: Cow<'e, Principal>,
        action: Action,
        target: Cow<'e, str>,
    ) -> Decision<'e> {
        let verdict = self.index.principals.get(principal.as_ref()).map(|at| {
            let mut verdict = Verdict::default();
            self.each_touched(action, &target, &mut |resource, covers| {
                self.add(*at, action, resource, covers, &mut verdict);
            });
            verdict
        });
        let allowed = verdict.is_some_and(Verdict::allowed);
        Decision { allowed, epoch: self.epoch(), source: self, principal, action, target, verdict }
    }

    /// Adds what the tables say of one resource. A permit counts only where it `covers` what is asked for.
    fn add(&self, principal: u32, action: Action, resource: u32, covers: bool, verdict: &mut Verdict) {
        verdict.declared = true;
        self.each_rule(principal, action, resource, &mut |rule, effect| {
            let first = |known: Option<u32>| Some(known.map_or(rule, |known| known.min(rule)));
            match effect {
                RuleEffect::Forbid => verdict.forbidden = first(verdict.forbidden),
                RuleEffect::Permit if covers => verdict.permitted = first(verdict.permitted),
                RuleEffect::Permit => {}
            }
        });
    }

    /// The rules that decide, ascending: of each resource those that forbid, else those that permit.
    pub(crate) fn deciding(&self, principal: &Principal, action: Action, target: &str) -> Vec<u32> {
        let Some(at) = self.index.principals.get(principal) else { return Vec::new() };
        let mut deciding = Vec::new();
        self.each_touched(action, target, &mut |resource, covers| {
            let (mut forbid, mut permit) = (Vec::new(), Vec::new());
            self.each_rule(*at, action, resource, &mut |rule, effect| match effect {
                RuleEffect::Forbid => forbid.push(rule),
                RuleEffect::Permit => permit.push(rule),
            });
            if !forbid.is_empty() {
                deciding.append(&mut forbid);
            } else if covers {
                deciding.append(&mut permit);
            }
        });
        deciding.sort_unstable();
        deciding.dedup();
        deciding
    }

    /// Gives `found` the declared resources that a target means, and whether each covers all of it.
    fn each_touched(&self, action: Action, target: &str, found: &mut impl FnMut(u32, bool)) {
        let index = &self.index;
        let mut all = |list: Option<&Vec<u32>>| {
            list.into_iter().flatten().for_each(|resource| found(*resource, true));
        };
        match action {
            Action::Connect => all(Some(&index.gateway).filter(|_| target == self.gateway().as_str())),
            Action::Publish | Action::Receive => {
                index.topics.each_matching(target, &mut |resource| found(resource, true));
            }
            Action::Subscribe if is_filter(target) => {
                for resource in &index.all_topics {
                    if let Some(Target::Topic { filter, .. }) = self.target(*resource)
                        && overlaps(filter, target)
                    {
                        found(*resource, covers(filter, target));
                    }
                }
            }
            Action::Subscribe => {}
            Action::OpenFlow => {
                let port = target.split_once(':').and_then(|(module, port)| {
                    Some((ModuleName::parse(module).ok()?, port.parse::<u16>().ok()?))
                });
                all(port.and_then(|port| index.ports.get(&port)));
            }
            Action::Upload => all(index.endpoints.get(target)),
        }
    }

    pub(crate) fn target(&self, resource: u32) -> Option<&Target> {
        self.tables.resources.get(resource as usize).map(|row| &row.target)
    }

    fn forbids(&self, rule: u32, principal: &Principal, action: Action, target: &str) -> String {
        format!("rule {} forbids {action} on {} for {principal}", self.rule_name(rule), shown(target))
    }

    fn no_rule(&self, principal: &Principal, action: Action, target: &str, declared: bool) -> String {
        let shown = shown(target);
        let malformed = match action {
            Action::Publish | Action::Receive => !is_topic(target),
            Action::Subscribe => !is_filter(target),
            _ => false,
        };
        let why = if malformed {
            format!("{shown} is malformed, so no rule permits {action} on it for {principal}")
        } else if declared {
            format!("no rule permits {action} on {shown} for {principal}")
        } else {
            format!(
                "no rule permits {action} on {shown} for {principal}, and the deployment declares no such target"
            )
        };
        let nearest = self.permitted(principal, action, NEAREST_MAX);
        if nearest.is_empty() {
            return format!("{why}; permitted: nothing");
        }
        let nearest: Vec<String> =
            nearest.into_iter().map(|(target, rule)| format!("{target} (rule {rule})")).collect();
        format!("{why}; permitted: {}", nearest.join(", "))
    }

    /// Targets that the principal is permitted, at most `max`, its own first, each with the rule that permits.
    pub(crate) fn permitted(
        &self,
        principal: &Principal,
        action: Action,
        max: usize,
    ) -> Vec<(String, Arc<str>)> {
        let Some(at) = self.index.principals.get(principal).copied() else { return Vec::new() };
        let Some(class) = self.tables.principals.get(at as usize).map(|row| row.class) else {
            return Vec::new();
        };
        let is_own = |resource: u32| {
            self.tables.resources.get(resource as usize).is_some_and(|row| row.owner == Some(at))
        };
        let mut seen = HashSet::new();
        let own = self.index.owned.get(&at).into_iter().flatten().copied();
        let mut others: Vec<u32> = [Side::Class(class), Side::One(at)]
            .into_iter()
            .filter_map(|side| self.index.permitted.get(&(side, action)))
            .flatten()
            .flat_map(|side| match side {
                Side::Class(class) => self.index.members.get(class).map(Vec::as_slice).unwrap_or_default(),
                Side::One(one) => std::slice::from_ref(one),
            })
            .copied()
            .filter(|resource| !is_own(*resource) && seen.insert(*resource))
            .take(LOOKED_AT_MAX)
            .collect();
        others.sort_unstable();
        own.chain(others)
            .filter_map(|resource| {
                let mut verdict = Verdict::default();
                self.add(at, action, resource, true, &mut verdict);
                let rule = verdict.permitted.filter(|_| verdict.allowed())?;
                let target = self.target(resource).map(|target| self.name_of(target))?;
                Some((target, self.rule_name(rule)))
            })
            .take(max)
            .collect()
    }

    fn name_of(&self, target: &Target) -> String {
        match target {
            Target::Gateway => self.gateway().to_string(),
            Target::Topic { filter, .. } => filter.clone(),
            Target::Port { module, number, .. } => format!("{module}:{number}"),
            Target::Endpoint(name) => name.clone(),
        }
    }
}

/// A client's text, safe to put in a line.
fn shown(text: &str) -> String {
    if text.is_empty() {
        return "\"\"".into();
    }
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
