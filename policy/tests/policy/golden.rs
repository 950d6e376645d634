//! `golden/<case>/deployment.json` is a deployment; `policy.cedar` its policy; `requests.json` lists requests and answers.
//! A new case is a new folder. `UPDATE_GOLDEN=1` writes the answers.

use crate::common;

use common::{compiled, leaf, module};
use edgewarden_names::Principal;
use edgewarden_policy::Action;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// `module <name>` or `leaf <name>`
    who: String,
    action: String,
    target: String,
    #[serde(default)]
    allowed: bool,
    #[serde(default)]
    rule: String,
}

fn principal(who: &str) -> Principal {
    match who.split_once(' ').unwrap() {
        ("module", name) => module(name),
        ("leaf", name) => leaf(name),
        _ => panic!("{who}"),
    }
}

#[test]
fn golden() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases = 0;
    for case in std::fs::read_dir(folder).unwrap() {
        let case = case.unwrap().path();
        let read = |name: &str| std::fs::read_to_string(case.join(name)).unwrap();
        let mut document: serde_json::Value = serde_json::from_str(&read("deployment.json")).unwrap();
        document["policy"] = read("policy.cedar").into();
        let epoch = compiled(&document).unwrap_or_else(|refusal| panic!("{}: {refusal}", case.display()));
        let mut requests: Vec<Case> = serde_json::from_str(&read("requests.json")).unwrap();
        for request in &mut requests {
            let action = Action::parse(&request.action).unwrap();
            let answer = epoch.explain(&principal(&request.who), action, &request.target);
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                (request.allowed, request.rule) = (answer.allowed, answer.rule);
            } else {
                let place = format!("{}: {} {action} {}", case.display(), request.who, request.target);
                assert_eq!((answer.allowed, &answer.rule), (request.allowed, &request.rule), "{place}");
            }
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let text = serde_json::to_string_pretty(&requests).unwrap() + "\n";
            std::fs::write(case.join("requests.json"), text).unwrap();
        }
        cases += 1;
    }
    assert!(cases >= 3);
}

/// The worked example's policy fits the deployment that these tests use for it.
#[test]
fn the_example_compiles() {
    let policy = include_str!("../../../examples/glucose-monitor/policy.cedar");
    let epoch = compiled(&common::clinic(policy)).unwrap();
    assert!(epoch.may_publish(&leaf("sensor-1"), "leaf/sensor-1/glucose").allowed);
    assert!(!epoch.may_publish(&leaf("sensor-1"), "leaf/sensor-2/glucose").allowed);
    assert!(!epoch.may_connect(&module("alerts")).allowed);
    assert!(epoch.may_upload(&module("analytics"), "upstream").allowed);
    assert_eq!(epoch.flows().len(), 1);
}
