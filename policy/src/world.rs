use std::collections::{BTreeSet, HashMap, HashSet};
use std::str::FromStr as _;

use cedar_policy::{Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use edgewarden_names::topic::{TOPIC_LEVELS_MAX, is_filter};
use edgewarden_names::{GatewayName, LeafName, Principal};
use edgewarden_protocol::deployment::{Deployment, Topic};

use crate::action::Action;
use crate::epoch::{PRINCIPALS_MAX, RESOURCES_MAX, Target};

const NAME_BYTES_MAX: usize = 128;
/// Longest filter that a deployment declares: each leaf has one of its own, and denials name them.
const DECLARED_FILTER_BYTES_MAX: usize = 256;
const LEAF_PLACEHOLDER: &str = "{leaf}";
/// The fleet, which is there without being named by a route.
const UPSTREAM: &str = "upstream";

/// Everything that a deployment declares, as Cedar entities and as what the tables speak of.
pub(crate) struct World {
    pub(crate) entities: Entities,
    /// Every entity that a rule may name.
    pub(crate) known: HashSet<EntityUid>,
    /// Topics with `{leaf}`: parents of filters, not filters.
    pub(crate) families: HashSet<EntityUid>,
    /// By position, as everywhere in the tables.
    pub(crate) principals: Vec<Declared>,
    pub(crate) principal_uids: Vec<EntityUid>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) resource_uids: Vec<EntityUid>,
    pub(crate) principal_positions: HashMap<EntityUid, u32>,
    pub(crate) resource_positions: HashMap<EntityUid, u32>,
}

/// A module, or a leaf with its groups.
pub(crate) struct Declared {
    pub(crate) principal: Principal,
    pub(crate) groups: BTreeSet<String>,
}

/// A target of the deployment, with its owner and its family.
pub(crate) struct Resource {
    pub(crate) target: Target,
    /// The leaf that owns a topic, the module that has a port.
    pub(crate) owner: Option<u32>,
    /// The topic with `{leaf}` that it is one of.
    pub(crate) family: Option<String>,
}

impl World {
    pub(crate) fn of(deployment: &Deployment, gateway: &GatewayName) -> Result<Self, String> {
        let mut world = Self {
            entities: Entities::empty(),
            known: HashSet::new(),
            families: HashSet::new(),
            principals: Vec::new(),
            principal_uids: Vec::new(),
            resources: Vec::new(),
            resource_uids: Vec::new(),
            principal_positions: HashMap::new(),
            resource_positions: HashMap::new(),
        };
        let mut entities = Vec::new();
        world.add_principals(deployment, &mut entities)?;
        let gateway_uid = uid("Gateway", gateway.as_str())?;
        entities.push(Entity::new_no_attrs(gateway_uid.clone(), HashSet::new()));
        world.add_resource(Target::Gateway, None, None, gateway_uid)?;
        world.add_topics(deployment, &mut entities)?;
        world.add_ports(deployment, &mut entities)?;
        world.add_endpoints(deployment, &mut entities)?;
        for entity in &entities {
            if !world.known.insert(entity.uid()) {
                return Err(format!("`{}` is declared twice", entity.uid()));
            }
        }
        // Made here and by the schema's rules: checking each against it again would cost most of a compilation.
        world.entities = Entities::from_entities(entities, None).map_err(|error| error.to_string())?;
        Ok(world)
    }

    fn add_principals(&mut self, deployment: &Deployment, entities: &mut Vec<Entity>) -> Result<(), String> {
        for module in &deployment.modules {
            let uid = uid("Module", module.name.as_str())?;
            entities.push(Entity::new_no_attrs(uid.clone(), HashSet::new()));
            self.add_principal(Principal::Module(module.name.clone()), BTreeSet::new(), uid)?;
        }
        let mut groups = BTreeSet::new();
        for leaf in &deployment.leaves {
            let mut parents = HashSet::new();
            for group in &leaf.groups {
                check_name("leaf group", group)?;
                groups.insert(group.as_str());
                parents.insert(uid("LeafGroup", group)?);
            }
            let uid = uid("Leaf", leaf.name.as_str())?;
            entities.push(Entity::new_no_attrs(uid.clone(), parents));
            let groups = leaf.groups.iter().cloned().collect();
            self.add_principal(Principal::Leaf(leaf.name.clone()), groups, uid)?;
        }
        for group in groups {
            entities.push(Entity::new_no_attrs(uid("LeafGroup", group)?, HashSet::new()));
        }
        Ok(())
    }

    fn add_principal(
        &mut self,
        principal: Principal,
        groups: BTreeSet<String>,
        uid: EntityUid,
    ) -> Result<(), String> {
        let at = next_position(self.principals.len(), PRINCIPALS_MAX)
            .ok_or_else(|| format!("modules and leaves are over the limit of {PRINCIPALS_MAX}"))?;
        self.principal_positions.insert(uid.clone(), at);
        self.principals.push(Declared { principal, groups });
        self.principal_uids.push(uid);
        Ok(())
    }

    fn add_topics(&mut self, deployment: &Deployment, entities: &mut Vec<Entity>) -> Result<(), String> {
        for topic in &deployment.topics {
            check_name("topic", &topic.name)?;
            let parent = uid("TopicFilter", &topic.name)?;
            let templated = topic.filter.contains(LEAF_PLACEHOLDER);
            entities.push(Entity::new_no_attrs(parent.clone(), HashSet::new()));
            if !templated {
                let filter = checked_filter(topic, &topic.filter)?;
                let target = Target::Topic { name: topic.name.clone(), filter };
                self.add_resource(target, None, None, parent)?;
                continue;
            }
            // Checked even when there is no leaf yet.
            checked_filter(topic, &topic.filter.replace(LEAF_PLACEHOLDER, "leaf"))?;
            self.families.insert(parent.clone());
            for leaf in &deployment.leaves {
                let (target, uid, owner) = self.owned_topic(topic, &leaf.name)?;
                let owner_uid =
                    self.principal_uids.get(owner as usize).cloned().ok_or("an entity is missing")?;
                let attributes =
                    HashMap::from([("owner".to_owned(), RestrictedExpression::new_entity_uid(owner_uid))]);
                let entity = Entity::new(uid.clone(), attributes, HashSet::from([parent.clone()]))
                    .map_err(|error| error.to_string())?;
                entities.push(entity);
                self.add_resource(target, Some(owner), Some(topic.name.clone()), uid)?;
            }
        }
        Ok(())
    }

    fn owned_topic(&self, topic: &Topic, leaf: &LeafName) -> Result<(Target, EntityUid, u32), String> {
        let name = format!("{}/{leaf}", topic.name);
        let filter = checked_filter(topic, &topic.filter.replace(LEAF_PLACEHOLDER, leaf.as_str()))?;
        let owner = self.position(&uid("Leaf", leaf.as_str())?)?;
        let uid = uid("TopicFilter", &name)?;
        Ok((Target::Topic { name, filter }, uid, owner))
    }

    fn add_ports(&mut self, deployment: &Deployment, entities: &mut Vec<Entity>) -> Result<(), String> {
        for module in &deployment.modules {
            let owner = self.position(&uid("Module", module.name.as_str())?)?;
            for port in &module.ports {
                check_name("port", &port.name)?;
                if port.port == 0 {
                    return Err(format!("port `{}` of module `{}` is 0", port.name, module.name));
                }
                let id = format!("{}/{}", module.name, port.name);
                let port_uid = uid("Port", &id)?;
                let attributes = HashMap::from([
                    (
                        "module".to_owned(),
                        RestrictedExpression::new_entity_uid(uid("Module", module.name.as_str())?),
                    ),
                    ("number".to_owned(), RestrictedExpression::new_long(port.port.into())),
                ]);
                let entity = Entity::new(port_uid.clone(), attributes, HashSet::new())
                    .map_err(|error| error.to_string())?;
                entities.push(entity);
                let target =
                    Target::Port { module: module.name.clone(), name: port.name.clone(), number: port.port };
                self.add_resource(target, Some(owner), None, port_uid)?;
            }
        }
        Ok(())
    }

    fn add_endpoints(&mut self, deployment: &Deployment, entities: &mut Vec<Entity>) -> Result<(), String> {
        let mut names = BTreeSet::from([UPSTREAM]);
        for route in &deployment.routes {
            check_name("route target", &route.to)?;
            if !is_filter(&route.filter) {
                return Err(format!(
                    "the route `{}` is not an MQTT topic filter",
                    route.filter.escape_debug()
                ));
            }
            names.insert(&route.to);
        }
        for name in names {
            let uid = uid("CloudEndpoint", name)?;
            entities.push(Entity::new_no_attrs(uid.clone(), HashSet::new()));
            self.add_resource(Target::Endpoint(name.to_owned()), None, None, uid)?;
        }
        Ok(())
    }

    fn add_resource(
        &mut self,
        target: Target,
        owner: Option<u32>,
        family: Option<String>,
        uid: EntityUid,
    ) -> Result<(), String> {
        let at = next_position(self.resources.len(), RESOURCES_MAX).ok_or_else(|| {
            format!("topics (for each leaf), ports and endpoints are over the limit of {RESOURCES_MAX}")
        })?;
        self.resource_positions.insert(uid.clone(), at);
        self.resources.push(Resource { target, owner, family });
        self.resource_uids.push(uid);
        Ok(())
    }

    fn position(&self, principal: &EntityUid) -> Result<u32, String> {
        self.principal_positions.get(principal).copied().ok_or_else(|| format!("{principal} is not declared"))
    }

    pub(crate) fn action_uid(action: Action) -> Result<EntityUid, String> {
        uid("Action", action.as_str())
    }
}

/// The position of the next row of a table with `rows`; `None` when there are `max`.
fn next_position(rows: usize, max: usize) -> Option<u32> {
    u32::try_from(rows).ok().filter(|_| rows < max)
}

pub(crate) fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind = EntityTypeName::from_str(kind).map_err(|error| error.to_string())?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!(
            "the {what} `{}` is empty, longer than {NAME_BYTES_MAX} bytes or holds control characters",
            name.chars().take(NAME_BYTES_MAX).collect::<String>().escape_debug()
        ));
    }
    Ok(())
}

fn checked_filter(topic: &Topic, filter: &str) -> Result<String, String> {
    let shown = filter.chars().take(DECLARED_FILTER_BYTES_MAX).collect::<String>();
    let wrong = |rule: &str| Err(format!("topic `{}`: `{}` {rule}", topic.name, shown.escape_debug()));
    if filter.len() > DECLARED_FILTER_BYTES_MAX || filter.split('/').count() > TOPIC_LEVELS_MAX {
        return wrong(&format!(
            "is longer than {DECLARED_FILTER_BYTES_MAX} bytes or {TOPIC_LEVELS_MAX} levels"
        ));
    }
    if filter.contains(['{', '}']) {
        return wrong("has a placeholder that is not `{leaf}`");
    }
    if !is_filter(filter) {
        return wrong("is not an MQTT topic filter");
    }
    Ok(filter.to_owned())
}
