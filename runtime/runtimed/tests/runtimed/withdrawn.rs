//! A running module when the key that signed its image is taken out of the deployment.

use crate::common;

use common::{Gateway, in_namespaces, shell, until};
use edgewarden_image_trust::sign::SigningKey;
use edgewarden_names::Reason;
use edgewarden_protocol::runtime_console::ModuleStatus;
use edgewarden_protocol::uplink::ModuleState;
use serde_json::{Value, json};

const OPEN: &str = r#"@id("alarm") permit (principal == Module::"analytics", action == Action::"open_flow", resource == Port::"alerts/alarm");"#;
const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
const CONNECT: &str = "while :; do (echo > /dev/tcp/alerts/9443) 2>&1 | cat; echo tried; sleep 0.2; done";

fn running(module: &ModuleStatus) -> bool {
    module.state == ModuleState::Running
}

fn untrusted(module: &ModuleStatus) -> bool {
    running(module) && module.reason.as_ref().is_some_and(|why| why.reason == Reason::ImageWithdrawn)
}

fn document(version: u64, key: &SigningKey, then: &str, modules: &[Value]) -> Value {
    json!({
        "name": "test", "version": version, "trust_domain": "plant.example",
        "image_keys": [{"name": "another", "public_key": key.public_pem()}],
        "untrusted": then, "modules": modules, "policy": OPEN,
    })
}

#[test]
fn what_runs_under_a_withdrawn_key_is_quarantined_or_stopped() {
    in_namespaces("withdrawn::what_runs_under_a_withdrawn_key_is_quarantined_or_stopped", async || {
        let mut gateway = Gateway::joined("withdrawn").await;
        let image = gateway.image("clinic/alerts", true).await;
        let modules = vec![shell("alerts", &image, WAIT), shell("analytics", &image, CONNECT)];
        gateway.deploy(1, modules.clone(), OPEN).await;
        gateway.start_runtimed().await;
        gateway.printed("analytics", "Connection refused").await;
        let before = gateway.module("alerts", "running", running).await;

        let other = SigningKey::generate().unwrap();
        gateway.deploy_document(&document(2, &other, "report", &modules)).await;
        assert_eq!(gateway.module("alerts", "reported", untrusted).await.pid, before.pid);
        gateway.deploy_document(&document(3, &other, "quarantine", &modules)).await;
        until("its flows are closed", async || {
            let refused = gateway.audit().await.into_iter().filter(|entry| entry.event == "refused");
            refused.into_iter().find(|entry| entry.subject.contains("analytics"))
        })
        .await;
        assert_eq!(gateway.module("alerts", "quarantined", untrusted).await.pid, before.pid, "it runs on");

        // Put back: it is what it was, without a start.
        gateway.deploy(4, modules.clone(), OPEN).await;
        let whole = |module: &ModuleStatus| running(module) && module.reason.is_none();
        assert_eq!(gateway.module("alerts", "whole", whole).await.pid, before.pid);

        gateway.deploy_document(&document(5, &other, "stop", &modules)).await;
        let refused = |module: &ModuleStatus| module.state == ModuleState::Refused;
        let stopped = gateway.module("alerts", "stopped", refused).await;
        assert_eq!(stopped.reason.unwrap().reason, Reason::ImageSignature, "it does not start again");
        until("nothing runs", async || gateway.runc(&["list", "--quiet"]).trim().is_empty().then_some(()))
            .await;
        gateway.deploy(6, modules, OPEN).await;
        let again = gateway.module("alerts", "running again", running).await;
        assert!(again.generation > before.generation);
    });
}
