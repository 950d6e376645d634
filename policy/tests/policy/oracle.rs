//! The compiled tables answer as Cedar's own authorizer does, over random deployments, policies and requests.
//!
//! The oracle builds its entities by itself, from the schema's description, and asks Cedar anew for each declared
//! resource that a request touches.

use crate::common;

use std::str::FromStr as _;

use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicySet, Request, Schema};
use common::{compiled, image, leaf, module};
use edgewarden_names::{Principal, topic};
use edgewarden_policy::{Action, CompiledEpoch, SCHEMA};
use proptest::prelude::*;
use serde_json::{Value, json};

const GROUPS: [&str; 2] = ["red", "blue"];

fn scope(kind: &'static str, names: Vec<String>) -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(kind.to_owned()),
        4 => prop::sample::select(names).prop_map(move |name| format!("{kind} {name}")),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    let principals = [
        "== Module::\"a\"",
        "== Module::\"b\"",
        "== Leaf::\"l0\"",
        "== Leaf::\"l1\"",
        "is Leaf",
        "is Module",
        "in LeafGroup::\"red\"",
        "in LeafGroup::\"blue\"",
        "== Leaf::\"l2\"",
        "in Leaf::\"l1\"",
        "in Module::\"b\"",
        "is Leaf in LeafGroup::\"red\"",
        "is Leaf in Leaf::\"l0\"",
    ];
    let actions = [
        "== Action::\"connect\"",
        "== Action::\"publish\"",
        "== Action::\"subscribe\"",
        "== Action::\"receive\"",
        "in [Action::\"publish\", Action::\"receive\"]",
        "in [Action::\"subscribe\", Action::\"receive\"]",
        "in [Action::\"publish\", Action::\"publish\", Action::\"connect\"]",
        "in Action::\"receive\"",
        "== Action::\"open_flow\"",
        "== Action::\"upload\"",
    ];
    let resources = [
        "in TopicFilter::\"own\"",
        "== TopicFilter::\"own/l0\"",
        "== TopicFilter::\"all\"",
        "== TopicFilter::\"one\"",
        "== Port::\"a/p\"",
        "is Port",
        "== Gateway::\"gw-1\"",
        "== CloudEndpoint::\"upstream\"",
        "is TopicFilter",
        "in TopicFilter::\"mine\"",
        "== TopicFilter::\"own/l2\"",
        "== TopicFilter::\"mine/l1\"",
        "in TopicFilter::\"one\"",
        "is TopicFilter in TopicFilter::\"own\"",
        "is Port in Port::\"b/same\"",
        "== Port::\"b/p\"",
    ];
    let conditions = [
        "",
        "when { resource has owner && resource.owner == principal }",
        "unless { resource has owner && resource.owner == principal }",
        "when { resource has owner && resource.owner in LeafGroup::\"red\" }",
        "when { resource has number && resource.number < 100 }",
        "when { resource has module && resource.module == principal }",
        "unless { principal == Leaf::\"l2\" }",
        "when { principal is Leaf && principal in LeafGroup::\"blue\" }",
        "when { resource has owner && resource.owner == Leaf::\"l1\" }",
        "when { resource[\"module\"] == principal || resource[\"number\"] == 443 }",
        "when { resource has \"\\u{6f}wner\" && resource[\"\\u{6f}wner\"] == principal }",
        "unless { resource[\"n\\u{75}mber\"] == 443 }",
        "when { resource.module == Module::\"b\" } unless { principal == Module::\"c\" }",
        "when { [Leaf::\"l0\", Leaf::\"l2\"].contains(principal) }",
        "when { principal in [Leaf::\"l1\", LeafGroup::\"red\"] }",
        "unless { principal in [LeafGroup::\"red\", LeafGroup::\"blue\"] }",
        "when { resource in TopicFilter::\"mine\" || resource == TopicFilter::\"own/l1\" }",
        "unless { resource in TopicFilter::\"own\" }",
        "unless { resource == TopicFilter::\"own/l0\" && principal == Leaf::\"l0\" }",
        "when { resource has owner && resource.owner in LeafGroup::\"red\" && principal in LeafGroup::\"blue\" }",
        "unless { resource has owner && [Leaf::\"l1\", Leaf::\"l0\"].contains(resource.owner) }",
        "when { resource has owner && resource.owner in principal }",
        "when { resource has owner } unless { \"abc\" like \"a*d\" }",
        "when { if principal is Leaf then resource has owner else resource == TopicFilter::\"all\" }",
    ];
    let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    (
        prop_oneof![3 => Just("permit"), 1 => Just("forbid")],
        scope("principal", owned(&principals)),
        scope("action", owned(&actions)),
        scope("resource", owned(&resources)),
        prop::sample::select(conditions.to_vec()),
    )
        .prop_map(|(effect, principal, action, resource, condition)| {
            format!("{effect} ({principal}, {action}, {resource}) {condition};\n")
        })
}

fn deployment(leaf_groups: &[Vec<usize>], policy: &str) -> Value {
    let leaves: Vec<Value> = leaf_groups
        .iter()
        .enumerate()
        .map(|(n, groups)| {
            let groups: Vec<&str> = groups.iter().map(|group| GROUPS[*group]).collect();
            json!({"name": format!("l{n}"), "groups": groups})
        })
        .collect();
    json!({
        "name": "random", "version": 1, "trust_domain": "plant.example", "image_keys": [],
        "modules": [
            {"name": "a", "image": image(), "ports": [{"name": "p", "port": 80}, {"name": "q", "port": 443}]},
            {"name": "b", "image": image(), "ports": [{"name": "p", "port": 80}, {"name": "same", "port": 80}]},
            {"name": "c", "image": image()},
        ],
        "leaves": leaves,
        "topics": [
            {"name": "own", "filter": "t/{leaf}/x"},
            {"name": "mine", "filter": "m/{leaf}/#"},
            {"name": "all", "filter": "t/+/x"},
            {"name": "one", "filter": "t/l1/#"},
        ],
        "routes": [],
        "policy": policy,
    })
}

struct Oracle {
    schema: Schema,
    entities: Entities,
    policies: PolicySet,
    /// Identifier and filter of every declared topic.
    topics: Vec<(String, String)>,
}

impl Oracle {
    fn new(deployment: &Value) -> Self {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        let id = |kind: &str, id: &str| json!({"type": kind, "id": id});
        let entity = |uid: Value, attrs: Value, parents: Vec<Value>| json!({"uid": uid, "attrs": attrs, "parents": parents});
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut entities = vec![
            entity(id("Gateway", "gw-1"), json!({}), vec![]),
            entity(id("CloudEndpoint", "upstream"), json!({}), vec![]),
        ];
        for group in GROUPS {
            entities.push(entity(id("LeafGroup", group), json!({}), vec![]));
        }
        for module in deployment["modules"].as_array().unwrap() {
            let name = text(&module["name"]);
            entities.push(entity(id("Module", &name), json!({}), vec![]));
            for port in module["ports"].as_array().into_iter().flatten() {
                let uid = id("Port", &format!("{name}/{}", text(&port["name"])));
                let module = json!({"__entity": id("Module", &name)});
                entities.push(entity(uid, json!({"module": module, "number": port["port"]}), vec![]));
            }
        }
        let leaves = deployment["leaves"].as_array().unwrap();
        for leaf in leaves {
            let groups = leaf["groups"].as_array().unwrap();
            let groups = groups.iter().map(|group| id("LeafGroup", &text(group))).collect();
            entities.push(entity(id("Leaf", &text(&leaf["name"])), json!({}), groups));
        }
        let mut topics = Vec::new();
        for topic in deployment["topics"].as_array().unwrap() {
            let (name, filter) = (text(&topic["name"]), text(&topic["filter"]));
            entities.push(entity(id("TopicFilter", &name), json!({}), vec![]));
            if !filter.contains("{leaf}") {
                topics.push((name, filter));
                continue;
            }
            for leaf in leaves {
                let leaf = text(&leaf["name"]);
                let own = format!("{name}/{leaf}");
                let owner = json!({"owner": {"__entity": id("Leaf", &leaf)}});
                entities.push(entity(id("TopicFilter", &own), owner, vec![id("TopicFilter", &name)]));
                topics.push((own, filter.replace("{leaf}", &leaf)));
            }
        }
        let entities = Entities::from_json_value(Value::Array(entities), Some(&schema)).unwrap();
        let policies = PolicySet::from_str(deployment["policy"].as_str().unwrap()).unwrap();
        Self { schema, entities, policies, topics }
    }

    /// `Some(true)`: permitted, `Some(false)`: a rule forbids, `None`: no rule applies.
    fn ask(&self, principal: &Principal, action: Action, resource: &str) -> Option<bool> {
        let principal = match principal {
            Principal::Module(name) => format!("Module::\"{name}\""),
            Principal::Leaf(name) => format!("Leaf::\"{name}\""),
        };
        let uid = |text: &str| EntityUid::from_str(text).unwrap();
        let action = uid(&format!("Action::\"{action}\""));
        let request =
            Request::new(uid(&principal), action, uid(resource), Context::empty(), Some(&self.schema))
                .ok()?;
        let response = Authorizer::new().is_authorized(&request, &self.policies, &self.entities);
        assert_eq!(response.diagnostics().errors().count(), 0);
        match response.decision() {
            Decision::Allow => Some(true),
            Decision::Deny => response.diagnostics().reason().next().map(|_| false),
        }
    }

    /// `touched`: Cedar resources, and whether a permit there suffices.
    fn together(&self, principal: &Principal, action: Action, touched: Vec<(String, bool)>) -> bool {
        let mut permitted = false;
        for (resource, suffices) in touched {
            match self.ask(principal, action, &resource) {
                Some(false) => return false,
                Some(true) => permitted |= suffices,
                None => {}
            }
        }
        permitted
    }

    fn topic(&self, topic: &str) -> Vec<(String, bool)> {
        let touched = self.topics.iter().filter(|(_, filter)| topic::matches(filter, topic));
        touched.map(|(id, _)| (format!("TopicFilter::\"{id}\""), true)).collect()
    }

    fn filter(&self, requested: &str) -> Vec<(String, bool)> {
        let touched = self.topics.iter().filter(|(_, filter)| topic::overlaps(filter, requested));
        touched
            .map(|(id, filter)| (format!("TopicFilter::\"{id}\""), topic::covers(filter, requested)))
            .collect()
    }
}

fn check(epoch: &CompiledEpoch, oracle: &Oracle, leaves: usize) -> Result<(), TestCaseError> {
    let ports = |module: &str, port: u16| -> Vec<(String, bool)> {
        let names: &[&str] = match (module, port) {
            ("a", 80) => &["a/p"],
            ("a", 443) => &["a/q"],
            ("b", 80) => &["b/p", "b/same"],
            _ => &[],
        };
        names.iter().map(|name| (format!("Port::\"{name}\""), true)).collect()
    };
    let modules = ["a", "b", "c"];
    let mut principals: Vec<Principal> = modules.iter().map(|name| module(name)).collect();
    principals.extend((0..leaves).map(|n| leaf(&format!("l{n}"))));
    for who in &principals {
        let connect = oracle.together(who, Action::Connect, vec![("Gateway::\"gw-1\"".into(), true)]);
        prop_assert_eq!(epoch.may_connect(who).allowed, connect, "{} connect", who);
        let upload = oracle.together(who, Action::Upload, vec![("CloudEndpoint::\"upstream\"".into(), true)]);
        prop_assert_eq!(epoch.may_upload(who, "upstream").allowed, upload, "{} upload", who);
        for topic in [
            "m/l0/a",
            "m/l1",
            "m/l2/b/c",
            "t/l0/x",
            "t/l1/x",
            "t/l2/x",
            "t/l1/y",
            "t/l1",
            "t/other/x",
            "u",
            "$SYS/x",
        ] {
            let publish = oracle.together(who, Action::Publish, oracle.topic(topic));
            prop_assert_eq!(epoch.may_publish(who, topic).allowed, publish, "{} publish {}", who, topic);
            let receive = oracle.together(who, Action::Receive, oracle.topic(topic));
            prop_assert_eq!(epoch.may_receive(who, topic).allowed, receive, "{} receive {}", who, topic);
        }
        for filter in [
            "m/l0/#", "m/+/a", "m/l1/a", "t/+/x", "t/l0/x", "t/l1/x", "t/l1/#", "t/#", "#", "+/l1/+",
            "t/l1/+",
        ] {
            let subscribe = oracle.together(who, Action::Subscribe, oracle.filter(filter));
            prop_assert_eq!(
                epoch.may_subscribe(who, filter).allowed,
                subscribe,
                "{} subscribe {}",
                who,
                filter
            );
        }
        let Principal::Module(from) = who else { continue };
        for to in modules {
            for port in [80, 443, 22] {
                let flow = oracle.together(who, Action::OpenFlow, ports(to, port));
                let Principal::Module(to) = module(to) else { continue };
                prop_assert_eq!(
                    epoch.may_flow(from, &to, port).allowed,
                    flow,
                    "{} flow {}:{}",
                    who,
                    to,
                    port
                );
                prop_assert_eq!(epoch.flows().contains(&(from.clone(), to, port)), flow);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_global_rejects: 100_000, ..ProptestConfig::default() })]
    #[test]
    fn tables_answer_as_cedar_does(
        mut leaf_groups in prop::collection::vec(prop::collection::vec(0..2usize, 0..3), 3..6),
        rules in prop::collection::vec(rule(), 0..10),
    ) {
        leaf_groups[0] = vec![0];
        leaf_groups[1] = vec![1];
        // A rule that strict validation refuses is left out, so that documents with several rules get through.
        let policy: String = rules
            .into_iter()
            .filter(|rule| compiled(&deployment(&leaf_groups, rule)).is_ok())
            .collect();
        prop_assume!(!policy.is_empty());
        let deployment = deployment(&leaf_groups, &policy);
        let epoch = compiled(&deployment).unwrap();
        let carried: CompiledEpoch = serde_json::from_slice(&serde_json::to_vec(&epoch).unwrap()).unwrap();
        prop_assert_eq!(&carried, &epoch);
        check(&carried, &Oracle::new(&deployment), leaf_groups.len())?;
    }
}
