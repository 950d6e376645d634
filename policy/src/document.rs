use std::collections::{BTreeSet, HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::LazyLock;

use cedar_policy::{
    Effect, EntityUid, ParseErrors, Policy, PolicyId, PolicySet, ResourceConstraint, Schema, ValidationMode,
    Validator,
};
use miette::Diagnostic as _;

use crate::rule::{POLICY_BYTES_MAX, Rule, RuleEffect};

const RULE_NAME_BYTES_MAX: usize = 64;

/// The schema that every policy is validated against.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// `Err` only when the embedded file is broken, which a test rules out.
static PARSED_SCHEMA: LazyLock<Result<Schema, String>> = LazyLock::new(|| {
    Schema::from_cedarschema_str(SCHEMA).map(|(schema, _)| schema).map_err(|error| error.to_string())
});

pub(crate) fn schema() -> Result<&'static Schema, String> {
    PARSED_SCHEMA.as_ref().map_err(Clone::clone)
}

/// A policy text that passed strict validation: static rules only, each with a unique name.
pub(crate) struct Document {
    set: PolicySet,
    /// By position in the text, as everywhere in the tables.
    pub(crate) rules: Vec<Rule>,
    /// The same rules.
    pub(crate) policies: Vec<Policy>,
    position: HashMap<PolicyId, u32>,
}

impl Document {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(format!("the policy has {} bytes, over the limit of {POLICY_BYTES_MAX}", text.len()));
        }
        let set = PolicySet::from_str(text).map_err(|errors| with_place(text, &errors))?;
        if let Some(template) = set.templates().next() {
            return Err(format!(
                "{}: templates (`?principal`, `?resource`) are not used here",
                template.id()
            ));
        }
        let mut policies: Vec<(u32, &Policy)> =
            set.policies().map(|policy| position(policy).map(|at| (at, policy))).collect::<Result<_, _>>()?;
        policies.sort_by_key(|(at, _)| *at);
        let mut rules = Vec::new();
        let mut names = BTreeSet::new();
        let mut position = HashMap::new();
        for (index, (at, policy)) in (0u32..).zip(&policies) {
            let rule = rule(*at, policy)?;
            if !names.insert(rule.name.clone()) {
                return Err(format!("two rules are called `{}`", rule.name));
            }
            rules.push(rule);
            position.insert(policy.id().clone(), index);
        }
        let policies = policies.into_iter().map(|(_, policy)| policy.clone()).collect();
        let document = Self { rules, policies, position, set: set.clone() };
        document.validate()?;
        Ok(document)
    }

    /// Strict validation against the schema. A warning refuses too: it says that a rule can never apply, or that a
    /// name in it looks like another.
    fn validate(&self) -> Result<(), String> {
        let result = Validator::new(schema()?.clone()).validate(&self.set, ValidationMode::Strict);
        if let Some(error) = result.validation_errors().next() {
            return Err(format!("rule `{}`: {error}", self.name(error.policy_id())));
        }
        if let Some(warning) = result.validation_warnings().next() {
            return Err(format!("rule `{}`: {warning}", self.name(warning.policy_id())));
        }
        Ok(())
    }

    /// The rule's index in `rules`.
    pub(crate) fn index(&self, id: &PolicyId) -> Option<u32> {
        self.position.get(id).copied()
    }

    fn name(&self, id: &PolicyId) -> &str {
        self.index(id).and_then(|index| self.rules.get(index as usize)).map_or("?", |rule| rule.name.as_str())
    }

    /// Checks that every entity that a rule names exists; `families` are those that only `in` makes sense with.
    pub(crate) fn check_names(
        &self,
        known: &HashSet<EntityUid>,
        families: &HashSet<EntityUid>,
    ) -> Result<(), String> {
        for policy in &self.policies {
            for uid in policy.entity_literals() {
                // Strict validation has checked actions already: they are part of the schema.
                if uid.type_name().basename() != "Action" && !known.contains(&uid) {
                    let rule = self.name(policy.id());
                    return Err(format!(
                        "rule `{rule}` names `{uid}`, which the deployment does not declare"
                    ));
                }
            }
            if let ResourceConstraint::Eq(uid) = policy.resource_constraint()
                && families.contains(&uid)
            {
                let rule = self.name(policy.id());
                return Err(format!(
                    "rule `{rule}`: `{uid}` is one topic for each leaf: say `resource in {uid}`"
                ));
            }
        }
        Ok(())
    }
}

/// Cedar numbers the policies of a text `policy0`, `policy1`, …
fn position(policy: &Policy) -> Result<u32, String> {
    let id: &str = policy.id().as_ref();
    id.strip_prefix("policy")
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("the rule `{id}` has no position"))
}

fn rule(at: u32, policy: &Policy) -> Result<Rule, String> {
    let place = format!("policy {}", at.saturating_add(1));
    if let Some((unknown, _)) = policy.annotations().find(|(key, _)| !matches!(*key, "id" | "note")) {
        return Err(format!(
            "{place}: the annotation `@{unknown}` is not known; there are `@id` and `@note`"
        ));
    }
    let name = match policy.annotation("id") {
        None => place,
        Some(id) if id.is_empty() || id.len() > RULE_NAME_BYTES_MAX || !id.bytes().all(is_name_byte) => {
            return Err(format!(
                "{place}: `@id` is 1 to {RULE_NAME_BYTES_MAX} of letters, digits, `-`, `_` and `.`, not `{}`",
                id.chars().take(RULE_NAME_BYTES_MAX).collect::<String>().escape_debug()
            ));
        }
        Some(id) => id.to_owned(),
    };
    let effect = match policy.effect() {
        Effect::Permit => RuleEffect::Permit,
        Effect::Forbid => RuleEffect::Forbid,
    };
    let text = policy.to_cedar().unwrap_or_else(|| policy.to_string());
    Ok(Rule { name, effect, text, principals: Vec::new(), resources: Vec::new() })
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// The first syntax error with its line and column.
fn with_place(text: &str, errors: &ParseErrors) -> String {
    let Some(error) = errors.iter().next() else { return errors.to_string() };
    let Some(label) = error.labels().and_then(|mut labels| labels.next()) else { return error.to_string() };
    let Some(before) = text.get(..label.offset()) else { return error.to_string() };
    let line = before.matches('\n').count() + 1;
    let last = before.rsplit_once('\n').map_or(before, |(_, last)| last);
    let column = last.chars().count() + 1;
    let what = label.label().map(|what| format!(": {what}")).unwrap_or_default();
    format!("line {line}, column {column}: {error}{what}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_embedded_schema_is_valid() {
        super::schema().unwrap();
    }
}
