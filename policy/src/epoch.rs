use std::sync::Arc;

use edgewarden_names::{Epoch, GatewayName, ModuleName, Principal};
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::quick::QuickMap;
use crate::rule::{RULES_MAX, Rule, RuleEffect};
use crate::trie::Trie;
use edgewarden_names::topic::is_filter;

pub(crate) const PRINCIPALS_MAX: usize = 2048;
pub(crate) const RESOURCES_MAX: usize = 20_000;
pub(crate) const ANSWERS_MAX: usize = 65_536;

/// One policy in force: every answer that Cedar gave, as tables.
///
/// Principals and resources that no rule can tell apart share a class, so the tables stay small: a thousand leaves
/// of one group are one row. A rule that knows one by itself has answers for that one, and those for its class are not
/// the rule's word about it. Serialized, it is what `identityd` hands to the enforcers.
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

/// The serialized form of an epoch: rows that name each other by position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tables {
    pub(crate) epoch: Epoch,
    pub(crate) gateway: GatewayName,
    /// In the order of the document.
    pub(crate) rules: Vec<Rule>,
    pub(crate) principals: Vec<PrincipalRow>,
    pub(crate) resources: Vec<ResourceRow>,
    /// The pairs with at least one rule that applies. Elsewhere the answer is no.
    pub(crate) answers: Vec<Answer>,
}

/// A declared principal and the class that rules see it in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrincipalRow {
    pub(crate) principal: Principal,
    pub(crate) class: u32,
}

/// A declared resource and the class that rules see it in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResourceRow {
    pub(crate) target: Target,
    pub(crate) class: u32,
    /// The leaf that owns a topic, the module that has a port: an index of `principals`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<u32>,
}

/// A declared target: the gateway, a topic filter, a module's port, or a cloud endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Target {
    Gateway,
    Topic { name: String, filter: String },
    Port { module: ModuleName, name: String, number: u16 },
    Endpoint(String),
}

/// A class of principals or resources, or one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    Class(u32),
    One(u32),
}

/// The rules that apply between two sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) principals: Side,
    pub(crate) action: Action,
    pub(crate) resources: Side,
    /// `true` for resources that the principal owns, `false` for all others.
    pub(crate) own: bool,
    /// Their indices, ascending.
    pub(crate) rules: Vec<u32>,
}

/// Look-up structures for answers. Made from the tables alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    pub(crate) principals: QuickMap<Principal, u32>,
    pub(crate) topics: Trie,
    pub(crate) all_topics: Vec<u32>,
    pub(crate) ports: QuickMap<(ModuleName, u16), Vec<u32>>,
    pub(crate) endpoints: QuickMap<String, Vec<u32>>,
    pub(crate) gateway: Vec<u32>,
    answers: QuickMap<u64, u32>,
    /// By index: `true` for a principal, or a resource, that has answers of its own.
    single_principals: Vec<bool>,
    single_resources: Vec<bool>,
    pub(crate) owned: QuickMap<u32, Vec<u32>>,
    pub(crate) members: QuickMap<u32, Vec<u32>>,
    /// Resources that others than the owner may be permitted.
    pub(crate) permitted: QuickMap<(Side, Action), Vec<Side>>,
    pub(crate) rule_names: Vec<Arc<str>>,
}

/// A fault in serialized tables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the compiled policy is not valid: {0}")]
pub(crate) struct TablesError(&'static str);

impl CompiledEpoch {
    /// The number of this policy, which every decision names.
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

    /// Gives `found` each rule that applies, in no order.
    pub(crate) fn each_rule(
        &self,
        principal: u32,
        action: Action,
        resource: u32,
        found: &mut impl FnMut(u32, RuleEffect),
    ) {
        let (Some(who), Some(what)) =
            (self.tables.principals.get(principal as usize), self.tables.resources.get(resource as usize))
        else {
            return;
        };
        let own = what.owner == Some(principal);
        let index = &self.index;
        // A look that finds nothing costs little; one that is left out could be for what forbids.
        let alone = |list: &[bool], at: u32| list.get(at as usize) != Some(&false);
        let whos = [
            Some(Side::Class(who.class)),
            Some(Side::One(principal)).filter(|_| alone(&index.single_principals, principal)),
        ];
        let whats = [
            Some(Side::Class(what.class)),
            Some(Side::One(resource)).filter(|_| alone(&index.single_resources, resource)),
        ];
        for who in whos.into_iter().flatten() {
            for what in whats.into_iter().flatten() {
                let answer = index.answers.get(&key(who, action, what, own));
                let answer = answer.and_then(|at| self.tables.answers.get(*at as usize));
                for at in answer.into_iter().flat_map(|answer| &answer.rules) {
                    let Some(rule) = self.tables.rules.get(*at as usize) else { continue };
                    // What a rule says of a class it does not say of those that it knows by themselves.
                    let excepted = matches!(who, Side::Class(_))
                        && rule.principals.binary_search(&principal).is_ok()
                        || matches!(what, Side::Class(_)) && rule.resources.binary_search(&resource).is_ok();
                    if !excepted {
                        found(*at, rule.effect);
                    }
                }
            }
        }
    }

    /// As the rule's `@id` says, or by its position.
    pub(crate) fn rule_name(&self, rule: u32) -> Arc<str> {
        let name = self.index.rule_names.get(rule as usize).cloned();
        name.unwrap_or_else(|| format!("policy {}", rule.saturating_add(1)).into())
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

/// All of a question in one number. Sides have at most 32 bits each less one, and no table has 2^24 rows.
fn key(who: Side, action: Action, what: Side, own: bool) -> u64 {
    let side = |side: Side| match side {
        Side::Class(class) => u64::from(class) << 1,
        Side::One(one) => u64::from(one) << 1 | 1,
    };
    (side(who) << 36) | (side(what) << 8) | (action as u64) << 1 | u64::from(own)
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
            single_principals: vec![false; tables.principals.len()],
            single_resources: vec![false; tables.resources.len()],
            ..Self::default()
        };
        let ascends = |list: &[u32], length: usize| {
            list.is_sorted_by(|one, next| one < next)
                && list.last().is_none_or(|last| (*last as usize) < length)
        };
        let rules_fit = tables.rules.iter().all(|rule| {
            ascends(&rule.principals, tables.principals.len())
                && ascends(&rule.resources, tables.resources.len())
        });
        let classes_fit = tables.principals.iter().all(|row| (row.class as usize) < PRINCIPALS_MAX)
            && tables.resources.iter().all(|row| (row.class as usize) < RESOURCES_MAX);
        if !rules_fit || !classes_fit {
            return Err(TablesError("a rule or a class names what is not there"));
        }
        for (at, row) in (0u32..).zip(&tables.principals) {
            if index.principals.insert(row.principal.clone(), at).is_some() {
                return Err(TablesError("a principal is there twice"));
            }
        }
        for (at, row) in (0u32..).zip(&tables.resources) {
            index.add_resource(at, row, tables.principals.len())?;
        }
        for (at, answer) in (0u32..).zip(&tables.answers) {
            index.add_answer(at, answer, tables)?;
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
                if !is_filter(filter) {
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

    fn add_answer(&mut self, at: u32, answer: &Answer, tables: &Tables) -> Result<(), TablesError> {
        let mut permits = false;
        let mut last = None;
        for rule in &answer.rules {
            let Some(known) = tables.rules.get(*rule as usize).filter(|_| last < Some(*rule)) else {
                return Err(TablesError("an answer names an unknown rule, or one twice"));
            };
            permits |= known.effect == RuleEffect::Permit;
            last = Some(*rule);
        }
        let known = |side: Side, singles: &mut Vec<bool>, classes: usize| match side {
            Side::Class(class) => (class as usize) < classes,
            Side::One(one) => singles.get_mut(one as usize).map(|single| *single = true).is_some(),
        };
        let fits = last.is_some()
            && known(answer.principals, &mut self.single_principals, PRINCIPALS_MAX)
            && known(answer.resources, &mut self.single_resources, RESOURCES_MAX);
        if !fits {
            return Err(TablesError("an answer names no rule, or nobody that is there"));
        }
        let key = key(answer.principals, answer.action, answer.resources, answer.own);
        if self.answers.insert(key, at).is_some() {
            return Err(TablesError("a question has two answers"));
        }
        if permits && !answer.own {
            self.permitted.entry((answer.principals, answer.action)).or_default().push(answer.resources);
        }
        Ok(())
    }
}
