//! The principals and resources that one rule can tell apart. Cedar has no way to take an identifier apart, so a rule
//! knows a principal or a resource by itself only if it names it (or, of a resource, if it looks at owners and names
//! the owner); all others are to it what their kind, groups, families, owners and numbers are, as far as it looks at
//! those.

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use edgewarden_names::Principal;

use crate::action::Action;
use crate::epoch::Target;
use crate::world::{Declared, Resource, World};

/// Parts of the world that one rule looks at.
pub(crate) struct Sight {
    /// Named principals, and resources that are known by themselves.
    pub(crate) principals: BTreeSet<u32>,
    pub(crate) resources: BTreeSet<u32>,
    pub(crate) groups: BTreeSet<String>,
    pub(crate) families: BTreeSet<String>,
    /// `true` when the rule looks at owners; `numbers`: when it looks at the numbers of ports.
    pub(crate) owners: bool,
    pub(crate) numbers: bool,
    who: PrincipalConstraint,
    what: ResourceConstraint,
    pub(crate) actions: Vec<Action>,
}

/// A principal as a rule sees it that does not name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Who {
    Module,
    Leaf(BTreeSet<String>),
}

/// A resource as a rule sees it that does not name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum What {
    Gateway,
    Endpoint,
    Topic { family: Option<String>, owner: Option<Who> },
    Port { number: Option<u16> },
}

impl Sight {
    /// `text`: the rule as it is written.
    pub(crate) fn of(policy: &Policy, text: &str, world: &World) -> Self {
        // An attribute that is looked at is written out, unless it hides behind an escape.
        let looks_at = |attribute: &str| text.contains(attribute) || text.contains('\\');
        let mut sight = Self {
            principals: BTreeSet::new(),
            resources: BTreeSet::new(),
            groups: BTreeSet::new(),
            families: BTreeSet::new(),
            owners: looks_at("owner") || looks_at("module"),
            numbers: looks_at("number"),
            who: policy.principal_constraint(),
            what: policy.resource_constraint(),
            actions: actions(&policy.action_constraint()),
        };
        for uid in policy.entity_literals() {
            if let Some(at) = world.principal_positions.get(&uid) {
                sight.principals.insert(*at);
            } else if let Some(at) = world.resource_positions.get(&uid) {
                sight.resources.insert(*at);
            } else {
                let id: &str = uid.id().as_ref();
                match uid.type_name().basename() {
                    "LeafGroup" => sight.groups.insert(id.to_owned()),
                    "TopicFilter" => sight.families.insert(id.to_owned()),
                    _ => false,
                };
            }
        }
        if sight.owners && !sight.principals.is_empty() {
            let owned = (0u32..).zip(&world.resources).filter(|(_, resource)| {
                resource.owner.is_some_and(|owner| sight.principals.contains(&owner))
            });
            sight.resources.extend(owned.map(|(at, _)| at));
        }
        sight
    }

    /// `who` with no more than this rule looks at.
    pub(crate) fn who(&self, who: &Who) -> Who {
        match who {
            Who::Module => Who::Module,
            Who::Leaf(groups) => Who::Leaf(groups.intersection(&self.groups).cloned().collect()),
        }
    }

    /// `what` with no more than this rule looks at.
    pub(crate) fn what(&self, what: &What) -> What {
        match what {
            What::Topic { family, owner } => What::Topic {
                family: family.clone().filter(|family| self.families.contains(family)),
                owner: owner.as_ref().filter(|_| self.owners).map(|owner| self.who(owner)),
            },
            What::Port { number } => What::Port { number: number.filter(|_| self.numbers) },
            What::Gateway | What::Endpoint => what.clone(),
        }
    }

    /// May the scope's principal be this one? Never wrongly no.
    pub(crate) fn admits_principal(&self, at: u32, declared: &Declared, world: &World) -> bool {
        match &self.who {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Eq(uid) => is_at(&world.principal_positions, uid, at),
            PrincipalConstraint::In(uid) => {
                is_at(&world.principal_positions, uid, at) || in_group(declared, uid)
            }
            PrincipalConstraint::Is(kind) => kind.basename() == kind_of(&declared.principal),
            PrincipalConstraint::IsIn(kind, uid) => {
                kind.basename() == kind_of(&declared.principal)
                    && (is_at(&world.principal_positions, uid, at) || in_group(declared, uid))
            }
        }
    }

    /// May the scope's resource be this one? Never wrongly no.
    pub(crate) fn admits_resource(&self, at: u32, resource: &Resource, world: &World) -> bool {
        let within = |uid: &EntityUid| {
            let id: &str = uid.id().as_ref();
            is_at(&world.resource_positions, uid, at) || resource.family.as_deref() == Some(id)
        };
        match &self.what {
            ResourceConstraint::Any => true,
            ResourceConstraint::Eq(uid) => is_at(&world.resource_positions, uid, at),
            ResourceConstraint::In(uid) => within(uid),
            ResourceConstraint::Is(kind) => kind.basename() == target_kind(&resource.target),
            ResourceConstraint::IsIn(kind, uid) => {
                kind.basename() == target_kind(&resource.target) && within(uid)
            }
        }
    }

    /// True when the scope names one principal, so that no other needs to be looked at; likewise for the resource.
    pub(crate) fn is_for_one_principal(&self) -> bool {
        matches!(self.who, PrincipalConstraint::Eq(_))
    }

    pub(crate) fn is_for_one_resource(&self) -> bool {
        matches!(self.what, ResourceConstraint::Eq(_))
    }
}

fn is_at(positions: &std::collections::HashMap<EntityUid, u32>, uid: &EntityUid, at: u32) -> bool {
    positions.get(uid) == Some(&at)
}

fn in_group(declared: &Declared, uid: &EntityUid) -> bool {
    let id: &str = uid.id().as_ref();
    uid.type_name().basename() == "LeafGroup" && declared.groups.contains(id)
}

fn kind_of(principal: &Principal) -> &'static str {
    match principal {
        Principal::Module(_) => "Module",
        Principal::Leaf(_) => "Leaf",
    }
}

fn target_kind(target: &Target) -> &'static str {
    match target {
        Target::Gateway => "Gateway",
        Target::Topic { .. } => "TopicFilter",
        Target::Port { .. } => "Port",
        Target::Endpoint(_) => "CloudEndpoint",
    }
}

fn actions(constraint: &ActionConstraint) -> Vec<Action> {
    let named = |uid: &EntityUid| {
        let id: &str = uid.id().as_ref();
        Action::parse(id)
    };
    match constraint {
        ActionConstraint::Any => Action::ALL.to_vec(),
        ActionConstraint::Eq(uid) => named(uid).into_iter().collect(),
        ActionConstraint::In(list) => {
            let mut actions: Vec<Action> = list.iter().filter_map(named).collect();
            actions.sort_unstable();
            actions.dedup();
            actions
        }
    }
}
