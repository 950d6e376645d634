use std::fmt;

use edgewarden_names::{Epoch, Principal};

use crate::action::Action;
use crate::epoch::CompiledEpoch;
use crate::rule::RuleEffect;

/// Permitted targets that an explanation lists.
const PERMITTED_MAX: usize = 100;

/// A decision for a person (`Display`, several lines) and for scripts (`Serialize`).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    pub principal: Principal,
    pub action: Action,
    pub target: String,
    pub allowed: bool,
    pub epoch: Epoch,
    /// As [`crate::Decision::rule`] says it.
    pub rule: String,
    /// Rules that decided, in the order of the policy: their names, effects and texts.
    pub rules: Vec<ExplainedRule>,
    /// Targets that the principal is permitted with this action, at most `PERMITTED_MAX`.
    pub permitted: Vec<Permitted>,
}

/// A rule that decided, as the policy has it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ExplainedRule {
    pub name: String,
    /// `permit` or `forbid`.
    pub effect: &'static str,
    /// As it is written in the policy.
    pub text: String,
}

/// A target that the principal is permitted, and the name of the rule that permits.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Permitted {
    pub target: String,
    pub rule: String,
}

impl CompiledEpoch {
    /// `target`: a topic, a topic filter, `<module>:<port>`, a cloud endpoint, or the gateway's name.
    pub fn explain(&self, principal: &Principal, action: Action, target: &str) -> Explanation {
        let decision = self.decide(principal, action, target);
        let rules = self
            .deciding(principal, action, target)
            .into_iter()
            .filter_map(|rule| self.tables.rules.get(rule as usize))
            .map(|rule| {
                let effect = match rule.effect {
                    RuleEffect::Permit => "permit",
                    RuleEffect::Forbid => "forbid",
                };
                ExplainedRule { name: rule.name.clone(), effect, text: rule.text.clone() }
            })
            .collect();
        let permitted = self
            .permitted(principal, action, PERMITTED_MAX)
            .into_iter()
            .map(|(target, rule)| Permitted { target, rule: rule.to_string() })
            .collect();
        Explanation {
            principal: principal.clone(),
            action,
            target: target.into(),
            allowed: decision.allowed,
            epoch: decision.epoch,
            rule: decision.rule().to_string(),
            rules,
            permitted,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { principal, action, target, epoch, .. } = self;
        let answer = if self.allowed { "allowed" } else { "denied" };
        writeln!(f, "{answer}: {principal} {action} {} (epoch {epoch})", target.escape_debug())?;
        if self.allowed {
            writeln!(f, "  by rule {}", self.rule)?;
        } else {
            writeln!(f, "  because {}", self.rule)?;
        }
        for rule in &self.rules {
            writeln!(f, "  rule {} ({}):", rule.name, rule.effect)?;
            for line in rule.text.lines() {
                writeln!(f, "    {line}")?;
            }
        }
        if !self.permitted.is_empty() {
            writeln!(f, "  {principal} may {action}:")?;
            for permitted in &self.permitted {
                writeln!(f, "    {} (rule {})", permitted.target, permitted.rule)?;
            }
        }
        Ok(())
    }
}
