use std::collections::HashMap;

use cedar_policy::{Authorizer, Context, Decision as CedarDecision, EntityUid, Request};
use edgewarden_names::{Epoch, GatewayName, Reason, Refusal};
use edgewarden_protocol::deployment::Deployment;

use crate::document::Document;
use crate::epoch::{
    ANSWERS_MAX, Answer, CompiledEpoch, PrincipalRow, RULES_PER_ANSWER_MAX, ResourceRow, Tables, Target,
};
use crate::principal::{Action, Principal};
use crate::world::World;

/// Most evaluations of one rule in one compilation, some ten seconds on a small gateway.
const WORK_MAX: usize = 20_000_000;

/// Compiles a deployment's policy for one gateway. Any error refuses the whole document.
///
/// Takes time (milliseconds, seconds for the largest documents): call it where blocking is allowed.
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
    let document = Document::parse(&deployment.policy)?;
    let world = World::of(deployment, gateway)?;
    let literals = document.literals(&world.known, &world.families)?;
    let rows = world.classify(&literals);
    let mut enumeration = Enumeration {
        document: &document,
        world: &world,
        principals: &rows.principals,
        resources: &rows.resources,
        authorizer: Authorizer::new(),
        work: 0,
        answers: HashMap::new(),
    };
    enumeration.run()?;
    let mut answers: Vec<Answer> = enumeration.answers.into_values().flatten().collect();
    if answers.len() > ANSWERS_MAX {
        return Err(format!(
            "{} answers are over the limit of {ANSWERS_MAX}: say it with groups",
            answers.len()
        ));
    }
    answers.sort_by_key(|answer| (answer.principals, answer.action, answer.resources, answer.own));
    let tables = Tables {
        epoch,
        gateway: gateway.clone(),
        rules: document.rules,
        principals: rows.principals,
        resources: rows.resources,
        answers,
    };
    CompiledEpoch::try_from(tables).map_err(|error| error.to_string())
}

/// Asks Cedar every question once, one for each pair of classes.
struct Enumeration<'a> {
    document: &'a Document,
    world: &'a World,
    principals: &'a [PrincipalRow],
    resources: &'a [ResourceRow],
    authorizer: Authorizer,
    work: usize,
    /// By classes and ownership; `None` where no rule applies.
    answers: HashMap<(u32, Action, u32, bool), Option<Answer>>,
}

impl Enumeration<'_> {
    fn run(&mut self) -> Result<(), String> {
        // Two members of a class are enough to find a pair in which the one does not own the other.
        let mut some_principals: HashMap<u32, Vec<u32>> = HashMap::new();
        for (at, row) in (0u32..).zip(self.principals) {
            let members = some_principals.entry(row.class).or_default();
            if members.len() < 2 {
                members.push(at);
            }
        }
        let mut resource_classes = std::collections::HashSet::new();
        for (resource, row) in (0u32..).zip(self.resources) {
            if let Some(owner) = row.owner {
                self.ask(owner, resource)?;
            }
            // All resources of a class have owners of one class, so the first one stands for the rest, unless its
            // owner is the only principal of its class: then no resource of the class is another's.
            if resource_classes.insert(row.class) {
                for members in some_principals.values() {
                    if let Some(other) = members.iter().find(|member| row.owner != Some(**member)) {
                        self.ask(*other, resource)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, principal: u32, resource: u32) -> Result<(), String> {
        let (Some(who), Some(what)) =
            (self.principals.get(principal as usize), self.resources.get(resource as usize))
        else {
            return Ok(());
        };
        let own = what.owner == Some(principal);
        for action in actions(&who.principal, &what.target) {
            let key = (who.class, *action, what.class, own);
            if self.answers.contains_key(&key) {
                continue;
            }
            let answer = self.evaluate(principal, *action, resource)?.map(|(allowed, rules)| Answer {
                principals: who.class,
                action: *action,
                resources: what.class,
                own,
                allowed,
                rules,
            });
            self.answers.insert(key, answer);
        }
        Ok(())
    }

    /// Whether it is allowed and by which rules; `None` when no rule applies.
    fn evaluate(
        &mut self,
        principal: u32,
        action: Action,
        resource: u32,
    ) -> Result<Option<(bool, Vec<u32>)>, String> {
        self.work = self.work.saturating_add(self.document.rules.len());
        if self.work > WORK_MAX {
            return Err(format!(
                "it takes more than {WORK_MAX} evaluations: say it with fewer names and more groups"
            ));
        }
        let uid = |list: &[EntityUid], at: u32| list.get(at as usize).cloned().ok_or("an entity is missing");
        let request = Request::new(
            uid(&self.world.principal_uids, principal)?,
            World::action_uid(action)?,
            uid(&self.world.resource_uids, resource)?,
            Context::empty(),
            Some(crate::document::schema()?),
        )
        .map_err(|error| error.to_string())?;
        let response = self.authorizer.is_authorized(&request, &self.document.set, &self.world.entities);
        // Cedar skips a rule that fails. Strict validation leaves no such rule; if one is there, nothing is sure.
        if let Some(error) = response.diagnostics().errors().next() {
            return Err(error.to_string());
        }
        let mut rules: Vec<u32> =
            response.diagnostics().reason().filter_map(|id| self.document.index(id)).collect();
        rules.sort_unstable();
        rules.truncate(RULES_PER_ANSWER_MAX);
        let allowed = response.decision() == CedarDecision::Allow;
        Ok(if rules.is_empty() { None } else { Some((allowed, rules)) })
    }
}

/// What the schema lets this kind of principal do with that kind of target.
fn actions(principal: &Principal, target: &Target) -> &'static [Action] {
    match (target, principal) {
        (Target::Gateway, _) => &[Action::Connect],
        (Target::Topic { .. }, _) => &[Action::Publish, Action::Subscribe, Action::Receive],
        (Target::Endpoint(_), _) => &[Action::Upload],
        (Target::Port { .. }, Principal::Module(_)) => &[Action::OpenFlow],
        (Target::Port { .. }, Principal::Leaf(_)) => &[],
    }
}
