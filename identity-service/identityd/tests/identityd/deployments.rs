//! Deployments that take force; a bad one never replaces a good one.

use crate::common;

use common::{Gateway, Operator, document};
use edgewarden_names::{Epoch, Reason};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::{DeploymentInForce, Enforcer, Reply, Request, Snapshot};
use edgewarden_protocol::deployment::PAYLOAD_TYPE;
use edgewarden_protocol::dsse::ENVELOPE_BYTES_MAX;
use serde_json::{Value, json};

async fn in_force(gateway: &Gateway) -> Option<DeploymentInForce> {
    match gateway.ask(Request::Deployment).await.unwrap() {
        Reply::Deployment(deployment) => Some(*deployment),
        Reply::Done => None,
        other => panic!("{other:?}"),
    }
}

async fn snapshot(gateway: &Gateway, seen: u64) -> Snapshot {
    match gateway.ask(Request::Watch { seen }).await.unwrap() {
        Reply::Snapshot(snapshot) => *snapshot,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_signed_deployment_takes_force_and_stays_over_a_restart() {
    let mut gateway = Gateway::started().await;
    assert_eq!(in_force(&gateway).await, None);
    let before = snapshot(&gateway, 0).await;
    assert_eq!(before.policy, None);

    let envelope = gateway.operator.sign(&document(3));
    let watched = {
        let control = gateway.control();
        let seen = before.revision;
        tokio::spawn(async move { common::ask(&control, &Request::Watch { seen }).await.unwrap() })
    };
    gateway.ask(Request::DeploymentAccept(envelope.clone())).await.unwrap();
    let Reply::Snapshot(woken) = watched.await.unwrap() else { panic!() };
    let policy = woken.policy.unwrap();
    assert_eq!(policy.epoch, Epoch(1));
    let compiled: edgewarden_policy::CompiledEpoch =
        serde_json::from_slice(policy.compiled.as_slice()).unwrap();
    assert_eq!(compiled.epoch(), Epoch(1));

    let first = in_force(&gateway).await.unwrap();
    assert_eq!((first.deployment.version, first.epoch, first.signed_by.as_str()), (3, Epoch(1), "operator"));

    // The same envelope again is no news: no new epoch, no wake.
    gateway.ask(Request::DeploymentAccept(envelope)).await.unwrap();
    assert_eq!(in_force(&gateway).await.as_ref(), Some(&first));
    assert_eq!(snapshot(&gateway, 0).await.revision, woken.revision);

    gateway.stop().await;
    gateway.start().await.unwrap();
    assert_eq!(in_force(&gateway).await, Some(first));
    let later = snapshot(&gateway, woken.revision).await;
    assert_eq!(later.policy.unwrap(), policy, "the epoch means the same after a restart");

    gateway.deploy(&document(4)).await;
    assert_eq!(in_force(&gateway).await.unwrap().epoch, Epoch(2));
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table of bad deployments")]
async fn a_bad_deployment_does_not_replace_a_good_one() {
    let mut gateway = Gateway::started().await;
    gateway.deploy(&document(5)).await;
    let good = in_force(&gateway).await;
    let stranger = Operator::new();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut changed = document(6);
        change(&mut changed);
        gateway.operator.sign(&changed)
    };
    let flipped = {
        let envelope = String::from_utf8(gateway.operator.sign(&document(6)).0).unwrap();
        let mut parsed: Value = serde_json::from_str(&envelope).unwrap();
        parsed["payload"] = json!(Bytes(document(7).to_string().into_bytes()));
        Bytes(parsed.to_string().into_bytes())
    };
    let twice = {
        let mut parsed: Value =
            serde_json::from_slice(gateway.operator.sign(&document(6)).as_slice()).unwrap();
        parsed["signatures"] = json!([parsed["signatures"][0], parsed["signatures"][0]]);
        Bytes(parsed.to_string().into_bytes())
    };
    let cases: Vec<(&str, Reason, Bytes)> = vec![
        ("another key", Reason::DeploymentSignature, stranger.sign(&document(6))),
        ("a changed payload", Reason::DeploymentSignature, flipped),
        ("two signatures", Reason::DeploymentSignature, twice),
        ("no envelope", Reason::DeploymentInvalid, Bytes(b"{}".to_vec())),
        ("not JSON", Reason::DeploymentInvalid, Bytes(b"\x00\xff".to_vec())),
        (
            "another payload type",
            Reason::DeploymentInvalid,
            gateway.operator.sign_as("text/plain", document(6).to_string().as_bytes()),
        ),
        ("a signed nonsense", Reason::DeploymentInvalid, gateway.operator.sign_as(PAYLOAD_TYPE, b"[]")),
        ("too large", Reason::RequestTooLarge, Bytes(vec![b' '; ENVELOPE_BYTES_MAX + 1])),
        ("an unknown field", Reason::DeploymentInvalid, changed(&|d| d["privileged"] = json!(true))),
        (
            "a reserved module",
            Reason::DeploymentInvalid,
            changed(&|d| {
                d["modules"] =
                    json!([{"name": "gatewayd", "image": format!("r/a@sha256:{}", "ab".repeat(32))}]);
            }),
        ),
        (
            "an image key that is no key",
            Reason::DeploymentInvalid,
            changed(&|d| {
                d["image_keys"] = json!([{"name": "ci", "public_key": "-----BEGIN PUBLIC KEY-----"}]);
            }),
        ),
        (
            "an image key that is a private one",
            Reason::DeploymentInvalid,
            changed(&|d| {
                let pem = edgewarden_image_trust::sign::SigningKey::generate().unwrap().private_pem();
                d["image_keys"] = json!([{"name": "ci", "public_key": *pem}]);
            }),
        ),
        (
            "another trust domain",
            Reason::DeploymentTarget,
            changed(&|d| d["trust_domain"] = json!("other.example")),
        ),
        ("another site", Reason::DeploymentTarget, changed(&|d| d["selector"] = json!({"site": "ward"}))),
        (
            "a label that is not there",
            Reason::DeploymentTarget,
            changed(&|d| d["selector"] = json!({"ring": "1"})),
        ),
        ("an older version", Reason::DeploymentRollback, gateway.operator.sign(&document(4))),
        (
            "the same version, other content",
            Reason::DeploymentRollback,
            gateway.operator.sign(&{
                let mut other = document(5);
                other["name"] = json!("other");
                other
            }),
        ),
        ("version 0", Reason::DeploymentRollback, gateway.operator.sign(&document(0))),
        (
            "a policy that does not parse",
            Reason::PolicyInvalid,
            changed(&|d| d["policy"] = json!("permit everything")),
        ),
        (
            "a policy about unknown things",
            Reason::PolicyInvalid,
            changed(&|d| {
                d["policy"] =
                    json!("permit(principal == Module::\"ghost\", action == Action::\"connect\", resource);");
            }),
        ),
    ];
    for (name, reason, envelope) in cases {
        assert_eq!(gateway.refused(Request::DeploymentAccept(envelope)).await, reason, "{name}");
        assert_eq!(in_force(&gateway).await, good, "{name}");
    }
    gateway.stop().await;
    gateway.start().await.unwrap();
    assert_eq!(in_force(&gateway).await, good);
    // What fits this gateway's labels is taken.
    gateway
        .ask(Request::DeploymentAccept(gateway.operator.sign(&{
            let mut ours = document(6);
            ours["selector"] = json!({"site": "clinic"});
            ours
        })))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_key_that_is_no_longer_pinned_takes_its_deployment_out_of_force() {
    let mut gateway = Gateway::started().await;
    gateway.deploy(&document(5)).await;
    gateway.stop().await;
    let successor = Operator::new();
    let path = gateway.config.fleet.as_ref().unwrap().operator_keys[0].clone();
    std::fs::write(&path, successor.public_pem()).unwrap();
    gateway.start().await.unwrap();
    assert_eq!(in_force(&gateway).await, None);
    let status = gateway.status().await;
    assert!(status.refusals.iter().any(|(_, refusal)| refusal.reason == Reason::DeploymentSignature));
    // The counter outlives the deployment.
    let replayed = successor.sign(&document(5));
    assert_eq!(gateway.refused(Request::DeploymentAccept(replayed)).await, Reason::DeploymentRollback);
    gateway.ask(Request::DeploymentAccept(successor.sign(&document(6)))).await.unwrap();
    assert_eq!(in_force(&gateway).await.unwrap().epoch, Epoch(2));
}

#[tokio::test]
async fn enforcers_report_epochs_that_there_have_been() {
    let gateway = Gateway::started().await;
    let enforced = |enforcer, epoch| Request::EpochEnforced { enforcer, epoch: Epoch(epoch) };
    assert_eq!(gateway.refused(enforced(Enforcer::Runtimed, 1)).await, Reason::RequestInvalid);
    gateway.deploy(&document(1)).await;
    gateway.ask(enforced(Enforcer::Gatewayd, 1)).await.unwrap();
    gateway.ask(enforced(Enforcer::Runtimed, 1)).await.unwrap();
    assert_eq!(gateway.refused(enforced(Enforcer::Runtimed, 2)).await, Reason::RequestInvalid);
    let status = gateway.status().await;
    assert_eq!(status.enforced, [(Enforcer::Runtimed, Epoch(1)), (Enforcer::Gatewayd, Epoch(1))]);
    assert_eq!(status.deployment, Some(("glucose".into(), 1)));
}
