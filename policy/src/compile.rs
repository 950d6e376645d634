use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy::{Authorizer, Context, EntityUid, PolicySet, Request};
use edgewarden_names::{Epoch, GatewayName, Principal, Reason, Refusal};
use edgewarden_protocol::deployment::Deployment;

use crate::action::Action;
use crate::document::Document;
use crate::epoch::{ANSWERS_MAX, Answer, CompiledEpoch, PrincipalRow, ResourceRow, Side, Tables, Target};
use crate::sight::{Sight, What, Who};
use crate::world::World;

/// Most pairs of a principal and a resource that the rules of one policy single out together. A rule that names nobody
/// singles out none; one that names a leaf and a topic, one for each action.
const PAIRS_MAX: usize = 200_000;
/// Rules of one effect that apply without exception, after which another one changes no answer and is not kept.
const ALIKE_MAX: usize = 8;

/// Compiles a deployment's policy for one gateway. Any error refuses the whole document.
///
/// Takes time (milliseconds, a second for the largest documents): call it where blocking is allowed.
pub fn compile(
    deployment: &Deployment,
    gateway: &GatewayName,
    epoch: Epoch,
) -> Result<CompiledEpoch, Refusal> {
    compile_text(deployment, gateway, epoch)
        .map_err(|rule| Refusal::new(Reason::PolicyInvalid, format!("policy of {}", deployment.name), rule))
}

fn compile_text(
    deployment: &Deployment,
    gateway: &GatewayName,
    epoch: Epoch,
) -> Result<CompiledEpoch, String> {
    let mut document = Document::parse(&deployment.policy)?;
    let world = World::of(deployment, gateway)?;
    document.check_names(&world.known, &world.families)?;
    let sights: Vec<Sight> = document
        .policies
        .iter()
        .zip(&document.rules)
        .map(|(policy, rule)| Sight::of(policy, &rule.text, &world))
        .collect();
    let classes = Classes::of(&world, &sights);
    let mut enumeration = Enumeration {
        world: &world,
        classes: &classes,
        authorizer: Authorizer::new(),
        pairs: 0,
        answers: HashMap::new(),
    };
    for ((index, sight), (policy, rule)) in
        (0u32..).zip(&sights).zip(document.policies.iter().zip(&document.rules))
    {
        let set = PolicySet::from_policies([policy.clone()]).map_err(|error| error.to_string())?;
        enumeration.ask(index, sight, &set).map_err(|error| format!("rule `{}`: {error}", rule.name))?;
    }
    let mut answers: Vec<Answer> = enumeration
        .answers
        .into_iter()
        .map(|((principals, action, resources, own), rules)| Answer {
            principals,
            action,
            resources,
            own,
            rules,
        })
        .collect();
    answers.sort_by_key(|answer| (answer.principals, answer.action, answer.resources, answer.own));
    for answer in &mut answers {
        answer.rules = without_alike(&answer.rules, &document, &sights);
    }
    for (rule, sight) in document.rules.iter_mut().zip(sights) {
        rule.principals = sight.principals.into_iter().collect();
        rule.resources = sight.resources.into_iter().collect();
    }
    let Classes { principals, resources, .. } = classes;
    let principals = world.principals.into_iter().zip(principals);
    let resources = world.resources.into_iter().zip(resources);
    let tables = Tables {
        epoch,
        gateway: gateway.clone(),
        rules: document.rules,
        principals: principals
            .map(|(declared, class)| PrincipalRow { principal: declared.principal, class })
            .collect(),
        resources: resources
            .map(|(resource, class)| ResourceRow { target: resource.target, class, owner: resource.owner })
            .collect(),
        answers,
    };
    CompiledEpoch::try_from(tables).map_err(|error| error.to_string())
}

/// The rules of one answer without those that change nothing.
fn without_alike(rules: &[u32], document: &Document, sights: &[Sight]) -> Vec<u32> {
    let mut alike = BTreeMap::new();
    rules
        .iter()
        .copied()
        .filter(|rule| {
            let at = *rule as usize;
            let (Some(rule), Some(sight)) = (document.rules.get(at), sights.get(at)) else { return false };
            let count: &mut usize = alike.entry(rule.effect).or_default();
            let kept = *count < ALIKE_MAX;
            if kept && sight.principals.is_empty() && sight.resources.is_empty() {
                *count += 1;
            }
            kept
        })
        .collect()
}

/// Principals and resources that no rule can tell apart, unless it names one.
struct Classes {
    /// By position: the class.
    principals: Vec<u32>,
    resources: Vec<u32>,
    /// By class: how rules see it, and its members.
    who: Vec<(Who, Vec<u32>)>,
    what: Vec<(What, Vec<u32>)>,
}

impl Classes {
    fn of(world: &World, sights: &[Sight]) -> Self {
        let groups: BTreeSet<&String> = sights.iter().flat_map(|sight| &sight.groups).collect();
        let families: BTreeSet<&String> = sights.iter().flat_map(|sight| &sight.families).collect();
        let owners = sights.iter().any(|sight| sight.owners);
        let numbers = sights.iter().any(|sight| sight.numbers);
        let whos: Vec<Who> = world
            .principals
            .iter()
            .map(|declared| match declared.principal {
                Principal::Module(_) => Who::Module,
                Principal::Leaf(_) => Who::Leaf(
                    declared.groups.iter().filter(|group| groups.contains(group)).cloned().collect(),
                ),
            })
            .collect();
        let whats = world.resources.iter().map(|resource| match &resource.target {
            Target::Gateway => What::Gateway,
            Target::Endpoint(_) => What::Endpoint,
            Target::Port { number, .. } => What::Port { number: numbers.then_some(*number) },
            Target::Topic { .. } => What::Topic {
                family: resource.family.clone().filter(|family| families.contains(family)),
                owner: resource.owner.filter(|_| owners).and_then(|owner| whos.get(owner as usize).cloned()),
            },
        });
        let (resources, what) = put_together(whats);
        let (principals, who) = put_together(whos.iter().cloned());
        Self { principals, resources, who, what }
    }
}

/// The class of each, and of each class what it is and who is in it.
fn put_together<K: Clone + Ord>(all: impl Iterator<Item = K>) -> (Vec<u32>, Vec<(K, Vec<u32>)>) {
    let mut numbers: BTreeMap<K, u32> = BTreeMap::new();
    let mut classes: Vec<(K, Vec<u32>)> = Vec::new();
    let mut of = Vec::new();
    let mut next = 0;
    for (at, key) in (0u32..).zip(all) {
        let class = *numbers.entry(key.clone()).or_insert(next);
        if class == next {
            classes.push((key, Vec::new()));
            next += 1;
        }
        if let Some((_, members)) = classes.get_mut(class as usize) {
            members.push(at);
        }
        of.push(class);
    }
    (of, classes)
}

type Key = (Side, Action, Side, bool);

/// Asks Cedar about each rule: once for each kind of principal and resource that the rule can tell apart.
struct Enumeration<'a> {
    world: &'a World,
    classes: &'a Classes,
    authorizer: Authorizer,
    pairs: usize,
    /// The rules that apply, ascending.
    answers: HashMap<Key, Vec<u32>>,
}

/// One side of a question.
struct Stand<'a> {
    side: Side,
    /// Equal for those that the rule cannot tell apart.
    seen: usize,
    /// Those who may stand for it, ascending: not those that the rule knows by themselves.
    members: Cow<'a, [u32]>,
}

/// One rule, and what it has answered already.
struct Asking<'a> {
    rule: u32,
    sight: &'a Sight,
    set: &'a PolicySet,
    answered: HashMap<(usize, Action, usize, bool), bool>,
}

impl<'a> Enumeration<'a> {
    fn ask(&mut self, rule: u32, sight: &Sight, set: &PolicySet) -> Result<(), String> {
        let (who, what) = (self.principals(sight), self.resources(sight));
        self.pairs = self.pairs.saturating_add(who.len().saturating_mul(what.len()));
        if self.pairs > PAIRS_MAX {
            return Err(format!(
                "it and the rules before it single out over {PAIRS_MAX} pairs of principals and resources: \
                 say it with groups, and with topics that have `{{leaf}}`"
            ));
        }
        let mut asking = Asking { rule, sight, set, answered: HashMap::new() };
        for who in &who {
            for what in &what {
                for action in &sight.actions {
                    self.ask_pair(&mut asking, who, *action, what)?;
                }
            }
        }
        Ok(())
    }

    /// The principals that the rule may speak of: those that it names, and classes of the others.
    fn principals(&self, sight: &Sight) -> Vec<Stand<'a>> {
        let mut stands = Vec::new();
        let admits = |at: u32| {
            let declared = self.world.principals.get(at as usize);
            declared.is_some_and(|declared| sight.admits_principal(at, declared, self.world))
        };
        for at in sight.principals.iter().copied().filter(|at| admits(*at)) {
            add_one(&mut stands, at);
        }
        if sight.is_for_one_principal() {
            return stands;
        }
        let mut kinds: Vec<Who> = Vec::new();
        for (class, (who, members)) in (0u32..).zip(&self.classes.who) {
            add_class(&mut stands, &mut kinds, class, sight.who(who), members, &sight.principals, admits);
        }
        stands
    }

    fn resources(&self, sight: &Sight) -> Vec<Stand<'a>> {
        let mut stands = Vec::new();
        let admits = |at: u32| {
            let resource = self.world.resources.get(at as usize);
            resource.is_some_and(|resource| {
                sight.actions.iter().any(|action| is_for(*action, &resource.target))
                    && sight.admits_resource(at, resource, self.world)
            })
        };
        for at in sight.resources.iter().copied().filter(|at| admits(*at)) {
            add_one(&mut stands, at);
        }
        if sight.is_for_one_resource() {
            return stands;
        }
        let mut kinds: Vec<What> = Vec::new();
        for (class, (what, members)) in (0u32..).zip(&self.classes.what) {
            add_class(&mut stands, &mut kinds, class, sight.what(what), members, &sight.resources, admits);
        }
        stands
    }

    fn ask_pair(
        &mut self,
        asking: &mut Asking<'_>,
        who: &Stand<'_>,
        action: Action,
        what: &Stand<'_>,
    ) -> Result<(), String> {
        let (Some(principal), Some(resource)) = (who.members.first(), what.members.first()) else {
            return Ok(());
        };
        if !self.is_possible(*principal, action, *resource) {
            return Ok(());
        }
        for own in [false, true] {
            let pair = if asking.sight.owners {
                self.representatives(who, what, own)
            } else if matches!((who.side, what.side), (Side::One(_), Side::One(_))) {
                // To such a rule it makes no difference, but only one of the two will be looked up.
                Some((*principal, *resource)).filter(|_| (self.owner(*resource) == Some(*principal)) == own)
            } else {
                Some((*principal, *resource))
            };
            let Some((principal, resource)) = pair else { continue };
            let key = (who.seen, action, what.seen, own && asking.sight.owners);
            let applies = match asking.answered.entry(key) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(place) => *place.insert(applies(
                    &self.authorizer,
                    self.world,
                    asking.set,
                    principal,
                    action,
                    resource,
                )?),
            };
            if applies {
                self.answers.entry((who.side, action, what.side, own)).or_default().push(asking.rule);
            }
        }
        if self.answers.len() > ANSWERS_MAX {
            return Err(format!(
                "there are over {ANSWERS_MAX} answers so far: say it with fewer groups and topics"
            ));
        }
        Ok(())
    }

    fn owner(&self, resource: u32) -> Option<u32> {
        self.world.resources.get(resource as usize)?.owner
    }

    /// Two members of which the one owns the other, or does not.
    fn representatives(&self, who: &Stand<'_>, what: &Stand<'_>, own: bool) -> Option<(u32, u32)> {
        if own {
            // All resources of a class have owners of one class, so the first one stands for the rest.
            let resource = *what.members.first()?;
            let owner = self.owner(resource)?;
            return who.members.binary_search(&owner).is_ok().then_some((owner, resource));
        }
        let pairs =
            what.members.iter().flat_map(|what| who.members.iter().take(2).map(move |who| (*who, *what)));
        pairs.into_iter().find(|(who, what)| self.owner(*what) != Some(*who))
    }

    /// `true` when the schema lets this kind of principal do that with this kind of target.
    fn is_possible(&self, principal: u32, action: Action, resource: u32) -> bool {
        let principal = self.world.principals.get(principal as usize).map(|declared| &declared.principal);
        let target = self.world.resources.get(resource as usize).map(|resource| &resource.target);
        match (principal, target) {
            (Some(Principal::Leaf(_)), Some(Target::Port { .. })) => false,
            (Some(_), Some(target)) => is_for(action, target),
            _ => false,
        }
    }
}

fn is_for(action: Action, target: &Target) -> bool {
    match action {
        Action::Connect => matches!(target, Target::Gateway),
        Action::Publish | Action::Subscribe | Action::Receive => matches!(target, Target::Topic { .. }),
        Action::OpenFlow => matches!(target, Target::Port { .. }),
        Action::Upload => matches!(target, Target::Endpoint(_)),
    }
}

fn add_one(stands: &mut Vec<Stand<'_>>, at: u32) {
    // Beyond every number of a kind.
    let seen = usize::MAX - at as usize;
    stands.push(Stand { side: Side::One(at), seen, members: Cow::Owned(vec![at]) });
}

fn add_class<'a, K: PartialEq>(
    stands: &mut Vec<Stand<'a>>,
    kinds: &mut Vec<K>,
    class: u32,
    kind: K,
    members: &'a [u32],
    named: &BTreeSet<u32>,
    admits: impl Fn(u32) -> bool,
) {
    let members: Cow<'a, [u32]> = if named.is_empty() {
        Cow::Borrowed(members)
    } else {
        Cow::Owned(members.iter().copied().filter(|member| !named.contains(member)).collect())
    };
    // The scope does not tell the members of a class apart, but for those that it names.
    if !members.first().is_some_and(|first| admits(*first)) {
        return;
    }
    let seen = kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
        kinds.push(kind);
        kinds.len() - 1
    });
    stands.push(Stand { side: Side::Class(class), seen, members });
}

/// Asks Cedar whether the one rule of `set` applies.
fn applies(
    authorizer: &Authorizer,
    world: &World,
    set: &PolicySet,
    principal: u32,
    action: Action,
    resource: u32,
) -> Result<bool, String> {
    let uid = |list: &[EntityUid], at: u32| list.get(at as usize).cloned().ok_or("an entity is missing");
    let request = Request::new(
        uid(&world.principal_uids, principal)?,
        World::action_uid(action)?,
        uid(&world.resource_uids, resource)?,
        Context::empty(),
        None,
    )
    .map_err(|error| error.to_string())?;
    let response = authorizer.is_authorized(&request, set, &world.entities);
    // Cedar skips a rule that fails. Strict validation leaves no such rule; if one is there, nothing is sure.
    if let Some(error) = response.diagnostics().errors().next() {
        return Err(error.to_string());
    }
    Ok(response.diagnostics().reason().next().is_some())
}
