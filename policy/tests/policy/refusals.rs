//! One bad rule refuses the whole document, and the refusal says where.

use crate::common;

use common::{CLINIC_POLICY, clinic, compiled, leaf, module};
use edgewarden_names::Reason;
use serde_json::json;

#[test]
fn a_bad_policy_is_refused_with_its_place() {
    let permit = |rest: &str| format!("{CLINIC_POLICY}\n@id(\"bad\") permit ({rest});");
    for (name, policy, part) in [
        (
            "unknown module",
            permit(r#"principal == Module::"analytic", action, resource"#),
            "Module::\"analytic\"",
        ),
        ("unknown leaf", permit(r#"principal == Leaf::"sensor-9", action, resource"#), "Leaf::\"sensor-9\""),
        (
            "unknown group",
            permit(r#"principal in LeafGroup::"sensors", action, resource"#),
            "LeafGroup::\"sensors\"",
        ),
        ("unknown topic", permit(r#"principal, action, resource == TopicFilter::"x""#), "TopicFilter::\"x\""),
        ("unknown port", permit(r#"principal, action, resource == Port::"alerts/x""#), "Port::\"alerts/x\""),
        ("another gateway", permit(r#"principal, action, resource == Gateway::"gw-2""#), "Gateway::\"gw-2\""),
        (
            "unknown endpoint",
            permit(r#"principal, action, resource == CloudEndpoint::"x""#),
            "CloudEndpoint::\"x\"",
        ),
        ("misspelled action", permit(r#"principal, action == Action::"publsh", resource"#), "publsh"),
        ("unknown type", permit(r#"principal == Modul::"analytics", action, resource"#), "Modul"),
        ("impossible", permit(r#"principal is Leaf, action == Action::"open_flow", resource"#), "bad"),
        (
            "a family with ==",
            permit(r#"principal, action, resource == TopicFilter::"glucose""#),
            "resource in",
        ),
        (
            "unknown in a condition",
            permit(
                r#"principal, action == Action::"publish", resource)
            when { resource has owner && resource.owner == Leaf::"sensor-9" };
            permit (principal, action == Action::"connect", resource"#,
            ),
            "Leaf::\"sensor-9\"",
        ),
        (
            "unknown attribute",
            permit(
                r#"principal, action == Action::"publish", resource)
            when { resource.qos == 1 }; permit (principal, action == Action::"connect", resource"#,
            ),
            "qos",
        ),
        (
            "context",
            permit(
                r#"principal, action == Action::"publish", resource)
            when { context.size < 10 }; permit (principal, action == Action::"connect", resource"#,
            ),
            "size",
        ),
        (
            "unguarded optional attribute",
            permit(
                r#"principal, action == Action::"publish", resource)
            when { resource.owner == principal }; permit (principal, action == Action::"connect", resource"#,
            ),
            "owner",
        ),
        ("template", permit("principal == ?principal, action, resource"), "template"),
        ("same name twice", format!("{CLINIC_POLICY}{CLINIC_POLICY}"), "`broker`"),
        (
            "bad name",
            "@id(\"a b\") permit (principal, action == Action::\"connect\", resource);".into(),
            "`@id`",
        ),
        ("unknown annotation", "@when(\"x\") permit (principal, action, resource);".into(), "`@when`"),
        ("malformed", "permit (principal, action,\n  resource".into(), "line 2"),
        ("not Cedar", "allow everything".into(), "line 1, column 7"),
        (
            "unknown function",
            permit(
                r#"principal, action == Action::"connect", resource)
            when { shell("true") }; permit (principal, action == Action::"connect", resource"#,
            ),
            "shell",
        ),
        ("oversized", format!("//{}\n", "x".repeat(256 * 1024)), "limit"),
    ] {
        let refusal = compiled(&clinic(&policy)).map(drop).expect_err(name);
        assert_eq!(refusal.reason, Reason::PolicyInvalid, "{name}");
        assert!(refusal.rule.contains(part), "{name}: {}", refusal.rule);
    }
}

#[test]
fn a_bad_declaration_is_refused() {
    type Change = fn(&mut serde_json::Value);
    let changes: [(&str, Change); 9] = [
        ("filter", |d| d["topics"][1]["filter"] = json!("leaf/a+/glucose")),
        ("hash inside", |d| d["topics"][1]["filter"] = json!("leaf/#/glucose")),
        ("placeholder", |d| d["topics"][0]["filter"] = json!("leaf/{leav}/glucose")),
        ("second placeholder", |d| d["topics"][0]["filter"] = json!("{gateway}/{leaf}/glucose")),
        ("levels", |d| d["topics"][1]["filter"] = json!("a/".repeat(40))),
        ("long", |d| d["topics"][1]["filter"] = json!("a".repeat(300))),
        ("route", |d| d["routes"][0]["filter"] = json!("a/#/b")),
        ("port", |d| d["modules"][1]["ports"][0]["port"] = json!(0)),
        ("a topic that looks like an expanded one", |d| d["topics"][2]["name"] = json!("glucose/sensor-1")),
    ];
    for (name, change) in changes {
        let mut bad = clinic("permit (principal, action == Action::\"connect\", resource);");
        change(&mut bad);
        assert_eq!(compiled(&bad).map(drop).expect_err(name).reason, Reason::PolicyInvalid, "{name}");
    }
}

/// A policy that no longer fits in a table is refused instead of cut.
#[test]
fn what_is_too_large_is_refused() {
    let mut large = clinic("permit (principal, action == Action::\"connect\", resource);");
    large["leaves"] = (0..1024).map(|n| json!({"name": format!("l{n}")})).collect();
    large["topics"] =
        (0..1024).map(|n| json!({"name": format!("t{n}"), "filter": format!("{{leaf}}/{n}")})).collect();
    let refusal = compiled(&large).map(drop).unwrap_err();
    assert!(refusal.rule.contains("limit"), "{refusal}");
}

/// A thousand leaves of one group are one row: this takes no noticeable time.
#[test]
fn many_leaves_stay_small() {
    let mut large = clinic(CLINIC_POLICY);
    large["leaves"] =
        (0..1000).map(|n| json!({"name": format!("sensor-{n}"), "groups": ["glucose-sensors"]})).collect();
    let epoch = compiled(&large).unwrap();
    assert!(epoch.may_publish(&leaf("sensor-999"), "leaf/sensor-999/glucose").allowed);
    assert!(!epoch.may_publish(&leaf("sensor-999"), "leaf/sensor-998/glucose").allowed);
    assert!(serde_json::to_vec(&epoch).unwrap().len() < 500_000);
}

/// A site with a rule for each of its thousand devices is not refused, and the work does not grow with their square.
#[test]
fn a_rule_for_each_of_a_thousand_leaves_compiles() {
    let rule = |n: u32| {
        format!(
            "@id(\"own-{n}\") permit (principal == Leaf::\"l{n}\", action in [Action::\"publish\", \
             Action::\"subscribe\", Action::\"receive\"], resource == TopicFilter::\"own/l{n}\");\n"
        )
    };
    let rules: String = (0..1000).map(rule).collect();
    let shared = r#"
        permit (principal, action == Action::"connect", resource);
        permit (principal is Leaf, action == Action::"receive", resource in TopicFilter::"own");
        forbid (principal is Leaf, action == Action::"receive", resource in TopicFilter::"own")
        unless { resource has owner && (resource.owner == principal || principal == Leaf::"l7") };
    "#;
    let mut large = clinic(&format!("{rules}{shared}"));
    large["leaves"] = (0..1000).map(|n| json!({"name": format!("l{n}")})).collect();
    large["topics"] = json!([{"name": "own", "filter": "leaf/{leaf}/x"}]);
    let epoch = compiled(&large).unwrap();
    for (who, topic, publish, receive) in [
        ("l0", "leaf/l0/x", true, true),
        ("l0", "leaf/l1/x", false, false),
        ("l999", "leaf/l999/x", true, true),
        ("l7", "leaf/l999/x", false, true),
        ("l999", "leaf/l7/x", false, false),
    ] {
        assert_eq!(epoch.may_publish(&leaf(who), topic).allowed, publish, "{who} publish {topic}");
        assert_eq!(epoch.may_receive(&leaf(who), topic).allowed, receive, "{who} receive {topic}");
        assert!(epoch.may_connect(&leaf(who)).allowed, "{who}");
    }
    assert_eq!(&*epoch.may_publish(&leaf("l3"), "leaf/l3/x").rule(), "own-3");
    assert!(serde_json::to_vec(&epoch).unwrap().len() < 2_000_000);
}

/// A rule that asks for more than the bound is refused at once, by its name.
#[test]
fn a_rule_that_names_everyone_for_everything_is_refused() {
    let list = |kind: &str, each: fn(u32) -> String| {
        (0..1000).map(|n| format!("{kind}::\"{}\"", each(n))).collect::<Vec<_>>().join(", ")
    };
    let policy = format!(
        "@id(\"all\") permit (principal is Leaf, action == Action::\"publish\", resource) when {{ [{}].contains(principal) && \
         [{}].contains(resource) }};",
        list("Leaf", |n| format!("l{n}")),
        list("TopicFilter", |n| format!("own/l{n}"))
    );
    let mut large = clinic(&policy);
    large["leaves"] = (0..1000).map(|n| json!({"name": format!("l{n}")})).collect();
    large["topics"] = json!([{"name": "own", "filter": "leaf/{leaf}/x"}]);
    let refusal = compiled(&large).map(drop).unwrap_err();
    assert!(refusal.rule.contains("`all`") && refusal.rule.contains("groups"), "{refusal}");
}

#[test]
fn without_a_policy_nothing_is_allowed() {
    let epoch = compiled(&clinic("")).unwrap();
    assert!(!epoch.may_connect(&module("analytics")).allowed);
    assert!(!epoch.may_publish(&leaf("sensor-1"), "leaf/sensor-1/glucose").allowed);
    assert!(epoch.flows().is_empty());
}

#[test]
fn tables_are_read_strictly() {
    let epoch = compiled(&clinic(CLINIC_POLICY)).unwrap();
    let good = serde_json::to_value(&epoch).unwrap();
    let read =
        |value: &serde_json::Value| serde_json::from_value::<edgewarden_policy::CompiledEpoch>(value.clone());
    assert_eq!(read(&good).unwrap(), epoch);
    type Change = fn(&mut serde_json::Value);
    let changes: [(&str, Change); 13] = [
        ("unknown field", |t| t["extra"] = json!(1)),
        ("a rule twice", |t| t["answers"][0]["rules"] = json!([1, 1])),
        ("nobody", |t| t["answers"][0]["principals"] = json!({"one": 99})),
        ("no class", |t| t["answers"][0]["resources"] = json!({"class": 1_000_000})),
        ("a rule that knows nobody", |t| t["rules"][0]["principals"] = json!([99])),
        ("a rule's resources out of order", |t| t["rules"][0]["resources"] = json!([1, 0])),
        ("unknown rule", |t| t["answers"][0]["rules"] = json!([99])),
        ("no rule", |t| t["answers"][0]["rules"] = json!([])),
        ("two answers", |t| t["answers"][1] = t["answers"][0].clone()),
        ("unknown owner", |t| t["resources"][1]["owner"] = json!(99)),
        ("bad filter", |t| t["resources"][1]["target"]["topic"]["filter"] = json!("a#")),
        ("a principal twice", |t| t["principals"][1] = t["principals"][0].clone()),
        ("bad name", |t| t["principals"][0]["principal"] = json!({"module": "A"})),
    ];
    for (name, change) in changes {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(read(&bad).is_err(), "{name}");
    }
}
