use std::collections::HashMap;
use std::sync::Arc;

use edgewarden_names::{Epoch, GatewayName, ModuleName};
use serde::{Deserialize, Serialize};

use crate::document::RULES_MAX;
use crate::mqtt::{FILTER_LEVELS_MAX, is_filter};
use crate::principal::{Action, Principal};
use crate::trie::Trie;

pub(crate) const PRINCIPALS_MAX: usize = 2048;
pub(crate) const RESOURCES_MAX: usize = 20_000;
pub(crate) const ANSWERS_MAX: usize = 65_536;
/// Rules that are kept with one answer; the rest say the same.
pub(crate) const RULES_PER_ANSWER_MAX: usize = 8;

/// One policy in force: every answer that Cedar gave, as tables.
///
/// Principals and resources that no rule can tell apart share a class, so the tables stay small: a thousand leaves
/// of one group are one row. Serialized, it is what `identityd` hands to the enforcers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Tables", into = "Tables")]
pub struct CompiledEpoch {
    pub(crate) tables: Tables,
    pub(crate) index: Index,
}

impl PartialEq for CompiledEpoch {
    fn eq(&self, other: &Self) -> bool {
        self.tables == other.tables
    }
}
impl Eq for CompiledEpoch {}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tables {
    pub(crate) epoch: Epoch,
    pub(crate) gateway: GatewayName,
    /// In the order of the document.
    pub(crate) rules: Vec<Rule>,
    pub(crate) principals: Vec<PrincipalRow>,
    pub(crate) resources: Vec<ResourceRow>,
    /// Where at least one rule applies. Elsewhere the answer is no.
    pub(crate) answers: Vec<Answer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) effect: RuleEffect,
    /// As it is written.
    pub(crate) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RuleEffect {
    Permit,
    Forbid,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrincipalRow {
    pub(crate) principal: Principal,
    pub(crate) class: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResourceRow {
    pub(crate) target: Target,
    pub(crate) class: u32,
    /// The leaf that owns a topic, the module that has a port: an index of `principals`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Target {
    Gateway,
    Topic { name: String, filter: String },
    Port { module: ModuleName, name: String, number: u16 },
    Endpoint(String),
}

/// What Cedar answered for two classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) principals: u32,
    pub(crate) action: Action,
    pub(crate) resources: u32,
    /// Whether the principal is the resource's owner.
    pub(crate) own: bool,
    pub(crate) allowed: bool,
    /// Indices of the rules that decided, ascending.
    pub(crate) rules: Vec<u32>,
}

type AnswerKey = (u32, Action, u32, bool);

/// How answers are found. Made from the tables alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    pub(crate) principals: HashMap<Principal, u32>,
    pub(crate) topics: Trie,
    pub(crate) all_topics: Vec<u32>,
    pub(crate) ports: HashMap<(ModuleName, u16), Vec<u32>>,
    pub(crate) endpoints: HashMap<String, Vec<u32>>,
    pub(crate) gateway: Vec<u32>,
    answers: HashMap<AnswerKey, u32>,
    pub(crate) owned: HashMap<u32, Vec<u32>>,
    pub(crate) members: HashMap<u32, Vec<u32>>,
    /// Classes of resources that others than the owner are permitted.
    pub(crate) permitted: HashMap<(u32, Action), Vec<u32>>,
    pub(crate) rule_names: Vec<Arc<str>>,
}

/// What is wrong with serialized tables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the compiled policy is not valid: {0}")]
pub(crate) struct TablesError(&'static str);

impl CompiledEpoch {
    pub fn epoch(&self) -> Epoch {
        self.tables.epoch
    }

    /// The gateway that it was compiled for.
    pub fn gateway(&self) -> &GatewayName {
        &self.tables.gateway
    }

    /// Everyone that the policy knows.
    pub fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.tables.principals.iter().map(|row| &row.principal)
    }

    /// Names of the cloud endpoints that the policy knows.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.tables.resources.iter().filter_map(|row| match &row.target {
            Target::Endpoint(name) => Some(name.as_str()),
            _ => None,
        })
    }

    pub(crate) fn answer(&self, principal: u32, action: Action, resource: u32) -> Option<&Answer> {
        let class = self.tables.principals.get(principal as usize)?.class;
        let row = self.tables.resources.get(resource as usize)?;
        let key = (class, action, row.class, row.owner == Some(principal));
        self.tables.answers.get(*self.index.answers.get(&key)? as usize)
    }

    pub(crate) fn rule_name(&self, rule: u32) -> Arc<str> {
        self.index.rule_names.get(rule as usize).cloned().unwrap_or_else(|| "?".into())
    }
}

impl From<CompiledEpoch> for Tables {
    fn from(epoch: CompiledEpoch) -> Self {
        epoch.tables
    }
}

impl TryFrom<Tables> for CompiledEpoch {
    type Error = TablesError;

    fn try_from(tables: Tables) -> Result<Self, TablesError> {
        let index = Index::of(&tables)?;
        Ok(Self { tables, index })
    }
}

impl Index {
    fn of(tables: &Tables) -> Result<Self, TablesError> {
        let fits = tables.rules.len() <= RULES_MAX
            && tables.principals.len() <= PRINCIPALS_MAX
            && tables.resources.len() <= RESOURCES_MAX
            && tables.answers.len() <= ANSWERS_MAX;
        if !fits {
            return Err(TablesError("a table is over its limit"));
        }
        let mut index = Self {
            rule_names: tables.rules.iter().map(|rule| rule.name.as_str().into()).collect(),
            ..Self::default()
        };
        for (at, row) in (0u32..).zip(&tables.principals) {
            if index.principals.insert(row.principal.clone(), at).is_some() {
                return Err(TablesError("a principal is there twice"));
            }
        }
        for (at, row) in (0u32..).zip(&tables.resources) {
            index.add_resource(at, row, tables.principals.len())?;
        }
        for (at, answer) in (0u32..).zip(&tables.answers) {
            index.add_answer(at, answer, tables.rules.len())?;
        }
        Ok(index)
    }

    fn add_resource(&mut self, at: u32, row: &ResourceRow, principals: usize) -> Result<(), TablesError> {
        if row.owner.is_some_and(|owner| owner as usize >= principals) {
            return Err(TablesError("an owner is unknown"));
        }
        match &row.target {
            Target::Gateway => self.gateway.push(at),
            Target::Topic { filter, .. } => {
                // A filter that slipped in unchecked would bound neither the depth nor the meaning of the trie.
                if !is_filter(filter) || filter.split('/').count() > FILTER_LEVELS_MAX {
                    return Err(TablesError("a topic filter is malformed"));
                }
                self.topics.insert(filter, at);
                self.all_topics.push(at);
            }
            Target::Port { module, number, .. } => {
                self.ports.entry((module.clone(), *number)).or_default().push(at);
            }
            Target::Endpoint(name) => self.endpoints.entry(name.clone()).or_default().push(at),
        }
        if let Some(owner) = row.owner {
            self.owned.entry(owner).or_default().push(at);
        }
        self.members.entry(row.class).or_default().push(at);
        Ok(())
    }

    fn add_answer(&mut self, at: u32, answer: &Answer, rules: usize) -> Result<(), TablesError> {
        let known = answer.rules.iter().all(|rule| (*rule as usize) < rules);
        if !known || answer.rules.is_empty() || answer.rules.len() > RULES_PER_ANSWER_MAX {
            return Err(TablesError("an answer names no rule, too many or unknown ones"));
        }
        let key = (answer.principals, answer.action, answer.resources, answer.own);
        if self.answers.insert(key, at).is_some() {
            return Err(TablesError("a question has two answers"));
        }
        if answer.allowed && !answer.own {
            self.permitted.entry((answer.principals, answer.action)).or_default().push(answer.resources);
        }
        Ok(())
    }
}
