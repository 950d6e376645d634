//! Deployments for tests.

use edgewarden_names::{Epoch, GatewayName, LeafName, ModuleName, Principal, Refusal};
use edgewarden_policy::{CompiledEpoch, compile};
use edgewarden_protocol::deployment::Deployment;
use serde_json::{Value, json};

pub fn gateway() -> GatewayName {
    GatewayName::parse("gw-1").unwrap()
}

pub fn module(name: &str) -> Principal {
    Principal::Module(ModuleName::parse(name).unwrap())
}

pub fn leaf(name: &str) -> Principal {
    Principal::Leaf(LeafName::parse(name).unwrap())
}

pub fn image() -> String {
    format!("127.0.0.1:5000/clinic/module@sha256:{}", "ab".repeat(32))
}

/// The worked example's deployment with another policy.
pub fn clinic(policy: &str) -> Value {
    json!({
        "name": "glucose", "version": 1, "trust_domain": "plant.example", "image_keys": [],
        "modules": [
            {"name": "analytics", "image": image()},
            {"name": "alerts", "image": image(), "ports": [{"name": "alarm", "port": 9443}]},
        ],
        "leaves": [
            {"name": "sensor-1", "groups": ["glucose-sensors"]},
            {"name": "sensor-2", "groups": ["glucose-sensors"]},
            {"name": "pump-1", "groups": ["pumps"]},
        ],
        "topics": [
            {"name": "glucose", "filter": "leaf/{leaf}/glucose"},
            {"name": "all-glucose", "filter": "leaf/+/glucose"},
            {"name": "summary", "filter": "clinic/summary"},
            {"name": "clinic", "filter": "clinic/#"},
        ],
        "routes": [{"filter": "clinic/summary", "to": "upstream"}],
        "policy": policy,
    })
}

pub const CLINIC_POLICY: &str = r#"
@id("broker")
permit (principal, action == Action::"connect", resource);

@id("own-topics")
permit (principal in LeafGroup::"glucose-sensors", action == Action::"publish", resource in TopicFilter::"glucose")
when { resource has owner && resource.owner == principal };

@id("analytics-reads")
permit (principal == Module::"analytics", action in [Action::"subscribe", Action::"receive"],
        resource == TopicFilter::"all-glucose");

@id("alarm")
permit (principal == Module::"analytics", action == Action::"open_flow", resource == Port::"alerts/alarm");

@id("summary")
permit (principal == Module::"analytics", action == Action::"publish", resource == TopicFilter::"summary");

@id("upload-summary")
permit (principal == Module::"analytics", action == Action::"upload", resource == CloudEndpoint::"upstream");
"#;

pub fn parse(document: &Value) -> Deployment {
    Deployment::parse(document.to_string().as_bytes()).unwrap()
}

pub fn compiled(document: &Value) -> Result<CompiledEpoch, Refusal> {
    compile(&parse(document), &gateway(), Epoch(7))
}
