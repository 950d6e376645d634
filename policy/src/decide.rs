use std::sync::Arc;

use edgewarden_names::{Epoch, ModuleName};

use crate::epoch::{CompiledEpoch, Target};
use crate::mqtt::{covers, is_filter, is_topic, overlaps};
use crate::principal::{Action, Principal};

/// Permitted targets that a denial names.
const NEAREST_MAX: usize = 3;
/// How much of a client's text a denial repeats.
const SHOWN_CHARS_MAX: usize = 200;

/// An answer of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Allowed: the name of the rule that permits. Denied: why, in plain words, with the nearest rule that permits.
    pub rule: Arc<str>,
    pub epoch: Epoch,
}

/// What the declared resources that a request touches say together. A forbid wins.
pub(crate) struct Findings {
    /// Indices of rules, ascending, each once.
    pub(crate) forbidden: Vec<u32>,
    pub(crate) permitted: Vec<u32>,
    /// Whether the request touches anything that is declared.
    pub(crate) declared: bool,
}

impl CompiledEpoch {
    /// May this principal open a session with the broker?
    pub fn may_connect(&self, principal: &Principal) -> Decision {
        self.decide(principal, Action::Connect, self.gateway().as_str())
    }

    /// May it publish on this topic?
    pub fn may_publish(&self, principal: &Principal, topic: &str) -> Decision {
        self.decide(principal, Action::Publish, topic)
    }

    /// May it hold a subscription to this filter? Yes, if a permitted filter covers it and no forbidden one overlaps.
    pub fn may_subscribe(&self, principal: &Principal, filter: &str) -> Decision {
        self.decide(principal, Action::Subscribe, filter)
    }

    /// May it be given a message of this topic?
    pub fn may_receive(&self, principal: &Principal, topic: &str) -> Decision {
        self.decide(principal, Action::Receive, topic)
    }

    /// May its messages go to this cloud endpoint?
    pub fn may_upload(&self, principal: &Principal, endpoint: &str) -> Decision {
        self.decide(principal, Action::Upload, endpoint)
    }

    /// May `from` open a TCP connection to this port of `to`?
    pub fn may_flow(&self, from: &ModuleName, to: &ModuleName, port: u16) -> Decision {
        self.decide(&Principal::Module(from.clone()), Action::OpenFlow, &format!("{to}:{port}"))
    }

    /// Every permitted flow: from, to, port. Each once.
    pub fn flows(&self) -> Vec<(ModuleName, ModuleName, u16)> {
        let mut flows = Vec::new();
        for principal in self.principals() {
            let Principal::Module(from) = principal else { continue };
            for (to, port) in self.index.ports.keys() {
                let findings = self.findings(principal, Action::OpenFlow, &format!("{to}:{port}"));
                if findings.is_some_and(|findings| findings.allowed()) {
                    flows.push((from.clone(), to.clone(), *port));
                }
            }
        }
        flows.sort();
        flows
    }

    pub(crate) fn decide(&self, principal: &Principal, action: Action, target: &str) -> Decision {
        let (allowed, rule) = match self.findings(principal, action, target) {
            None => (false, format!("{principal} is not declared in the deployment").into()),
            Some(findings) => match (findings.forbidden.first(), findings.permitted.first()) {
                (Some(rule), _) => (false, self.forbids(*rule, principal, action, target).into()),
                (None, Some(rule)) => (true, self.rule_name(*rule)),
                (None, None) => (false, self.no_rule(principal, action, target, findings.declared).into()),
            },
        };
        Decision { allowed, rule, epoch: self.epoch() }
    }

    /// `None` for a principal that is not declared.
    pub(crate) fn findings(&self, principal: &Principal, action: Action, target: &str) -> Option<Findings> {
        let principal = *self.index.principals.get(principal)?;
        let mut findings = Findings { forbidden: Vec::new(), permitted: Vec::new(), declared: false };
        if action == Action::Subscribe {
            self.find_for_filter(principal, target, &mut findings);
        } else {
            for resource in self.touched(action, target) {
                self.add(principal, action, resource, true, &mut findings);
            }
        }
        for rules in [&mut findings.forbidden, &mut findings.permitted] {
            rules.sort_unstable();
            rules.dedup();
        }
        Some(findings)
    }

    fn find_for_filter(&self, principal: u32, requested: &str, findings: &mut Findings) {
        if !is_filter(requested) {
            return;
        }
        for resource in &self.index.all_topics {
            if let Some(Target::Topic { filter, .. }) = self.target(*resource)
                && overlaps(filter, requested)
            {
                let covered = covers(filter, requested);
                self.add(principal, Action::Subscribe, *resource, covered, findings);
            }
        }
    }

    /// Adds what the tables say of one resource. A permit counts only where it `covers` what is asked for.
    fn add(&self, principal: u32, action: Action, resource: u32, covers: bool, findings: &mut Findings) {
        findings.declared = true;
        match self.answer(principal, action, resource) {
            Some(answer) if answer.allowed && covers => findings.permitted.extend(&answer.rules),
            Some(answer) if !answer.allowed => findings.forbidden.extend(&answer.rules),
            _ => {}
        }
    }

    /// The declared resources that a target means.
    fn touched(&self, action: Action, target: &str) -> Vec<u32> {
        let index = &self.index;
        match action {
            Action::Connect if target == self.gateway().as_str() => index.gateway.clone(),
            Action::Connect => Vec::new(),
            Action::Publish | Action::Subscribe | Action::Receive => index.topics.matching(target),
            Action::OpenFlow => {
                let port = target.split_once(':').and_then(|(module, port)| {
                    Some((ModuleName::parse(module).ok()?, port.parse::<u16>().ok()?))
                });
                port.and_then(|port| index.ports.get(&port)).cloned().unwrap_or_default()
            }
            Action::Upload => index.endpoints.get(target).cloned().unwrap_or_default(),
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

    /// What the principal is permitted, at most `max` targets, its own first, each with the rule that permits.
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
        let own = self.index.owned.get(&at).into_iter().flatten();
        let others = self
            .index
            .permitted
            .get(&(class, action))
            .into_iter()
            .flatten()
            .filter_map(|class| self.index.members.get(class))
            .flatten()
            .filter(|resource| {
                self.tables.resources.get(**resource as usize).is_some_and(|row| row.owner != Some(at))
            });
        own.chain(others)
            .filter_map(|resource| {
                let answer = self.answer(at, action, *resource).filter(|answer| answer.allowed)?;
                let target = self.target(*resource).map(|target| self.name_of(target))?;
                Some((target, self.rule_name(*answer.rules.first()?)))
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

impl Findings {
    pub(crate) fn allowed(&self) -> bool {
        self.forbidden.is_empty() && !self.permitted.is_empty()
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
