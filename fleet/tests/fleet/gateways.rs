//! Enrolled gateways: which deployment they get, when, and what they may send.

use crate::common;

use std::time::Duration;

use common::{Fleet, Gateway, post, report};
use edgewarden_names::{Digest, Reason, SpiffeId, TrustDomain};
use edgewarden_protocol::uplink::{Message, Messages, MessagesReply, Sync};

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_reaches_the_gateways_it_selects() {
    let fleet = Fleet::start(&[]);
    let gateway = fleet.gateway("gw-1").await;
    assert_eq!(gateway.sync(&fleet, None, 0).await.unwrap().deployment, None, "nothing to run yet");

    // Held until there is one.
    let (held, said) = tokio::join!(gateway.sync(&fleet, None, 60), async {
        // Not needed for the outcome: it only makes the wait likely.
        tokio::time::sleep(Duration::from_millis(200)).await;
        tokio::task::block_in_place(|| fleet.deploy(1, "operator.key", &[]).ok())
    });
    assert!(said.contains("glucose v1") && said.contains("gw-1"), "{said}");
    let envelope = held.unwrap().deployment.expect("a deployment");
    let have = Some(Digest::of(envelope.as_slice()));
    assert_eq!(gateway.sync(&fleet, have.clone(), 0).await.unwrap().deployment, None, "it has it already");

    fleet.deploy(2, "operator.key", &[]).ok();
    let newer = gateway.sync(&fleet, have.clone(), 60).await.unwrap().deployment.expect("the newer version");
    // Sent a moment ago and still not in force: it is not sent again at once.
    assert_eq!(gateway.sync(&fleet, have, 0).await.unwrap().deployment, None);
    let have = Some(Digest::of(newer.as_slice()));

    let elsewhere = fleet.document(3, "site = \"plant\"");
    let key = fleet.path("operator.key");
    let send = ["deploy", elsewhere.to_str().unwrap(), "--skip-images", "--key", key.to_str().unwrap()];
    fleet.cli(&send).refused(Reason::DeploymentSelector);
    fleet.cli(&[&send[..], &["--allow-empty"]].concat()).ok();
    assert_eq!(gateway.sync(&fleet, have, 0).await.unwrap().deployment, None, "for another site");

    let listed = fleet.json(&["device", "list"]);
    assert_eq!(listed[0]["wanted"]["version"], 2);
    assert_eq!(listed[0]["running"]["version"], 1);
    let deployments = fleet.json(&["deployment", "list"]);
    assert_eq!(deployments[0]["gateways"], serde_json::json!({"count": 0, "sample": []}));
    assert_eq!(deployments[1]["gateways"], serde_json::json!({"count": 1, "sample": ["gw-1"]}));
    assert_eq!(deployments[1]["signer"], "operator.key");
}

#[tokio::test]
async fn deployments_are_refused() {
    let fleet = Fleet::start(&[]);
    fleet.deploy(5, "operator.key", &[]).ok();
    fleet.deploy(5, "operator.key", &[]).refused(Reason::DeploymentRollback);
    fleet.deploy(4, "operator.key", &[]).refused(Reason::DeploymentRollback);
    fleet.deploy(6, "stranger.key", &[]).refused(Reason::DeploymentSignature);
    let file = fleet.path("envelope.json");
    let file = file.to_str().unwrap();
    for garbage in ["", "{}", "{\"payloadType\":\"x\",\"payload\":\"\",\"signatures\":[]}"] {
        common::write(&fleet.path("envelope.json"), garbage);
        fleet.cli(&["deploy", "--skip-images", "--envelope", file]).refused(Reason::DeploymentSignature);
    }
    // A good envelope whose payload was changed after signing.
    std::fs::remove_file(file).unwrap();
    fleet.deploy(6, "operator.key", &["--out", file]).ok();
    let good = std::fs::read_to_string(file).unwrap();
    let mut envelope: serde_json::Value = serde_json::from_str(&good).unwrap();
    envelope["payload"] = "e30=".into();
    common::write(&fleet.path("envelope.json"), &envelope.to_string());
    fleet.cli(&["deploy", "--skip-images", "--envelope", file]).refused(Reason::DeploymentSignature);
    common::write(&fleet.path("envelope.json"), &good);
    fleet.cli(&["deploy", "--skip-images", "--envelope", file]).refused(Reason::DeploymentSelector);
    fleet.cli(&["deploy", "--skip-images", "--envelope", file, "--allow-empty"]).ok();

    // What people get wrong is found before anything is signed.
    let document = fleet.path("deployment.toml");
    let text = std::fs::read_to_string(&document).unwrap();
    for (case, from, to) in [
        ("unknown field", "policy = ", "priority = 1\npolicy = "),
        ("unknown module field", "name = \"alerts\"", "privileged = true\nname = \"alerts\""),
        ("reserved name", "\"alerts\"", "\"runtimed\""),
        ("policy that does not parse", "policy = \"\"", "policy = \"permit(\""),
        ("policy twice", "policy = \"\"", "policy = \"\"\npolicy_file = \"x\""),
        ("policy nowhere", "policy = \"\"", ""),
        ("not TOML", "policy = ", "policy "),
        ("registry that is not there", "@sha256:", "#"),
    ] {
        common::write(&document, &text.replace("version = 6", "version = 9").replace(from, to));
        let answer = fleet.cli(&["deploy", document.to_str().unwrap(), "--check", "--skip-images"]);
        assert!(matches!(answer.code(), 1 | 3), "{case}: {}", answer.errors());
        assert!(!answer.errors().is_empty(), "{case}");
    }
    // A version that the fleet is past.
    let check = ["deploy", document.to_str().unwrap(), "--check", "--skip-images", "--allow-empty"];
    common::write(&document, &text);
    fleet.cli(&check).refused(Reason::DeploymentRollback);
    common::write(&document, &text.replace("version = 6\n", ""));
    fleet.cli(&check[..4]).refused(Reason::DeploymentSelector);
    let said = fleet.cli(&check).ok();
    assert!(said.contains("glucose v7"), "the next version: {said}");
}

/// The same function as `identityd`'s, whose own test has the other side.
#[test]
fn what_a_gateway_refuses_of_federation_the_check_refuses() {
    let fleet = Fleet::start(&[]);
    let file = fleet.document(1, "site = \"clinic\"");
    let document = std::fs::read_to_string(&file).unwrap();
    let root = std::fs::read_to_string(fleet.data().join("root.pem")).unwrap();
    let web = |ca: &str| format!("{{ kind = \"https_web\", ca = \"\"\"\n{ca}\"\"\" }}");
    let spiffe = |bundle: &str| {
        format!(
            "{{ kind = \"https_spiffe\", endpoint_spiffe_id = \"spiffe://other.example/x\", bundle = '{bundle}' }}"
        )
    };
    let with = |profile: &str| {
        let federation =
            "[[federation]]\ntrust_domain = \"other.example\"\nurl = \"https://other.example/\"\n";
        std::fs::write(&file, format!("{document}{federation}profile = {profile}\n")).unwrap();
        file.to_str().unwrap()
    };
    let operator = fleet.path("operator.key");
    let operator = operator.to_str().unwrap();
    for (name, profile) in [
        ("no PEM", web("CA")),
        ("no certificate", web("\n")),
        ("no bundle", spiffe("{}")),
        ("no authority", spiffe("{\"keys\":[]}")),
        ("a broken key", spiffe("{\"keys\":[{\"kty\":\"EC\",\"use\":\"x509-svid\",\"x5c\":[\"AA==\"]}]}")),
    ] {
        for rest in [&["--check", "--skip-images"][..], &["--key", operator]] {
            let answer = fleet.cli(&[&["deploy", with(&profile), "--allow-empty"], rest].concat());
            let said = answer.errors();
            answer.refused(Reason::DeploymentInvalid);
            assert!(said.contains("federation `other.example`"), "{name}: {said}");
        }
    }
    fleet.cli(&["deploy", with(&web(&root)), "--allow-empty", "--check", "--skip-images"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_deployments_with_one_version_the_fleet_takes_one() {
    let fleet = Fleet::start(&[]);
    let _gateway = fleet.gateway("gw-1").await;
    let envelopes: Vec<_> = (0..6)
        .map(|n| {
            let out = fleet.path(&format!("envelope-{n}.json"));
            fleet.deploy(1, "operator.key", &["--out", out.to_str().unwrap()]).ok();
            out
        })
        .collect();
    let send = |out: &str| fleet.cli(&["deploy", "--skip-images", "--envelope", out]).code();
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let send = &send;
        let all: Vec<_> =
            envelopes.iter().map(|out| scope.spawn(move || send(out.to_str().unwrap()))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert_eq!(fleet.json(&["deployment", "list"]).as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn who_is_meant_is_said_on_purpose() {
    let fleet = Fleet::start(&[]);
    let key = fleet.path("operator.key");
    let everywhere = fleet.document(1, "");
    let send = ["deploy", everywhere.to_str().unwrap(), "--skip-images", "--key", key.to_str().unwrap()];
    let forgotten = fleet.cli(&send);
    assert_eq!(forgotten.code(), 2, "{}", forgotten.errors());
    assert!(forgotten.errors().contains("--all"), "{}", forgotten.errors());
    for both in [&["--all", "--select", "site=clinic"][..], &["--all", "--all"]] {
        assert_eq!(fleet.cli(&[&send[..], both].concat()).code(), 2, "{both:?}");
    }
    fleet.cli(&[&send[..], &["--all"]].concat()).refused(Reason::DeploymentSelector);
    for n in 0..12 {
        fleet.gateway(&format!("gw-{n:02}")).await;
    }
    let said = fleet.cli(&[&send[..], &["--all"]].concat()).ok();
    assert!(said.contains("12 gateways: gw-00") && said.contains("and 2 more"), "{said}");
    let listed = fleet.json(&["deployment", "list"]);
    assert_eq!(listed[0]["gateways"]["count"], 12);
    assert_eq!(listed[0]["gateways"]["sample"].as_array().unwrap().len(), 10);
    // `--all` beside a selector of the document contradicts it.
    let clinic = fleet.document(2, "site = \"clinic\"");
    let send = ["deploy", clinic.to_str().unwrap(), "--key", key.to_str().unwrap(), "--all"];
    assert_eq!(fleet.cli(&send).code(), 2);
}

#[tokio::test]
async fn a_fleet_that_carries_anything_says_so() {
    let fleet = Fleet::start(&["--dangerous-carry-unverified"]);
    // One that verifies and means nobody is a slip, here as anywhere.
    let file = fleet.path("envelope.json");
    let file = file.to_str().unwrap();
    fleet.deploy(5, "operator.key", &["--out", file]).ok();
    fleet.cli(&["deploy", "--skip-images", "--envelope", file]).refused(Reason::DeploymentSelector);
    let gateway = fleet.gateway("gw-1").await;
    fleet.deploy(5, "operator.key", &[]).ok();
    for (version, key) in [(6, "stranger.key"), (4, "operator.key")] {
        fleet.deploy(version, key, &[]).ok();
        let sent = gateway.sync(&fleet, None, 10).await.unwrap().deployment.expect("carried");
        let listed = fleet.json(&["deployment", "list"]);
        assert_eq!(listed[0]["digest"], Digest::of(sent.as_slice()).as_str());
        assert!(listed[0]["signer"].is_null());
    }
    common::write(&fleet.path("garbage"), "garbage");
    fleet.cli(&["deploy", "--envelope", fleet.path("garbage").to_str().unwrap()]).ok();
    let sent = gateway.sync(&fleet, None, 10).await.unwrap().deployment.expect("carried");
    assert_eq!(sent.as_slice(), b"garbage");

    // Without the switch the fleet goes back to what verified.
    let mut fleet = fleet;
    fleet.stop();
    fleet.extra.clear();
    fleet.run();
    assert_eq!(fleet.json(&["device", "list"])[0]["wanted"]["version"], 5);
}

#[tokio::test]
async fn only_the_right_process_of_a_known_gateway_may_ask() {
    let fleet = Fleet::start(&[]);
    let gateway = fleet.gateway("gw-1").await;
    let other = fleet.gateway("gw-2").await;
    let sync = Sync { have: None, wait_seconds: 0, report: report(), secrets: None };
    let messages = Messages { messages: vec![gateway.message(1)] };
    for (case, client) in [
        ("no certificate", fleet.stranger()),
        ("another module", gateway.client(&fleet, "analytics")),
        ("identityd", gateway.client(&fleet, "identityd")),
        ("a leaf of that name", {
            let leaf = SpiffeId::leaf(&common::domain(), &gateway.device.name, &"runtimed".parse().unwrap());
            gateway.client_as(&fleet, &leaf)
        }),
    ] {
        for refused in [
            post::<_, serde_json::Value>(&client, "/v1/gateway/sync", &sync).await,
            post::<_, serde_json::Value>(&client, "/v1/gateway/messages", &messages).await,
        ] {
            assert_eq!(refused.unwrap_err(), Reason::PeerUnauthorized, "{case}");
        }
    }
    let client = gateway.client(&fleet, "gatewayd");
    let swapped = post::<_, serde_json::Value>(&client, "/v1/gateway/sync", &sync).await;
    assert_eq!(swapped.unwrap_err(), Reason::PeerUnauthorized, "gatewayd asks for runtimed's");
    let client = gateway.client(&fleet, "runtimed");
    let swapped = post::<_, serde_json::Value>(&client, "/v1/gateway/messages", &messages).await;
    assert_eq!(swapped.unwrap_err(), Reason::PeerUnauthorized, "runtimed asks for gatewayd's");
    // In the name of another gateway: its own certificate, the other's message.
    assert_eq!(other.send(&fleet, vec![gateway.message(1)]).await.unwrap_err(), Reason::PeerUnauthorized);

    // A removed gateway's certificates still verify, and are good for nothing, also after another one took the name.
    fleet.cli(&["device", "remove", "gw-1"]).ok();
    assert_eq!(gateway.sync(&fleet, None, 0).await.unwrap_err(), Reason::AttestRequired);
    let successor = fleet.gateway("gw-1").await;
    successor.sync(&fleet, None, 0).await.unwrap();
    assert_eq!(gateway.sync(&fleet, None, 0).await.unwrap_err(), Reason::PeerUnauthorized);
    assert_eq!(gateway.send(&fleet, vec![gateway.message(1)]).await.unwrap_err(), Reason::PeerUnauthorized);
}

#[tokio::test]
async fn a_certificate_of_another_fleet_is_refused() {
    let (fleet, other) = (Fleet::start(&[]), Fleet::start(&[]));
    // The same trust domain name and the same gateway name, another root.
    let foreign = other.gateway("gw-1").await;
    let _ours = fleet.gateway("gw-1").await;
    let sync = Sync { have: None, wait_seconds: 0, report: report(), secrets: None };
    let client = foreign.client(&fleet, "runtimed");
    let refused =
        client.post_json::<_, serde_json::Value>("/v1/gateway/sync", &sync, 1024, common::DEADLINE).await;
    assert!(
        !matches!(refused, Ok(_) | Err(edgewarden_transport::http::HttpError::Refused(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn messages_are_kept_once_and_shown() {
    let fleet = Fleet::start(&[]);
    let gateway = fleet.gateway("gw-1").await;
    let batch = |range: std::ops::RangeInclusive<u64>| range.map(|n| gateway.message(n)).collect::<Vec<_>>();
    assert_eq!(gateway.send(&fleet, Vec::new()).await, Ok(0));
    assert_eq!(gateway.send(&fleet, batch(1..=10)).await, Ok(10));
    assert_eq!(gateway.send(&fleet, batch(5..=12)).await, Ok(12));
    assert_eq!(gateway.send(&fleet, batch(1..=3)).await, Ok(12));
    let listed = fleet.json(&["message", "list", "--gateway", "gw-1", "--last", "100"]);
    let sequences: Vec<u64> =
        listed.as_array().unwrap().iter().map(|m| m["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, (1..=12).collect::<Vec<_>>());
    // A new queue counts anew.
    let mut fresh = gateway.message(1);
    fresh.queue = "0b".repeat(16);
    assert_eq!(gateway.send(&fleet, vec![fresh]).await, Ok(1));
    let text = fleet.cli(&["message", "list", "--gateway", "gw-1"]).ok();
    assert!(text.contains("clinic/summary") && text.contains("{\"n\":12}"), "{text}");
}

/// A gateway whose older copy went on: nothing of it is taken for a repetition, and both sides say so.
#[tokio::test]
async fn another_message_under_a_known_number_is_told_and_taken_under_a_new_epoch() {
    let fleet = Fleet::start(&[]);
    let gateway = fleet.gateway("gw-1").await;
    let client = gateway.client(&fleet, "gatewayd");
    let batch = |payload: &str, range: std::ops::RangeInclusive<u64>| {
        let mut messages: Vec<_> = range.map(|n| gateway.message(n)).collect();
        for message in &mut messages {
            message.payload = payload.as_bytes().to_vec().into();
        }
        messages
    };
    let send = async |messages: Vec<Message>| -> MessagesReply {
        post(&client, "/v1/gateway/messages", &Messages { messages }).await.unwrap()
    };
    let first = batch("first", 1..=10);
    assert_eq!(send(first.clone()).await, MessagesReply { stored: 10, conflict: None });
    assert_eq!(send(first[4..].to_vec()).await, MessagesReply { stored: 10, conflict: None });
    let mut resumed = first[..5].to_vec();
    resumed.extend(batch("resumed", 6..=12));
    assert_eq!(send(resumed.clone()).await, MessagesReply { stored: 5, conflict: Some(6) });
    assert_eq!(fleet.json(&["message", "list", "--gateway", "gw-1"]).as_array().unwrap().len(), 10);
    let mut renamed = resumed[5..].to_vec();
    for message in &mut renamed {
        message.queue = "0b".repeat(16);
    }
    assert_eq!(send(renamed).await, MessagesReply { stored: 12, conflict: None });
    let listed = fleet.json(&["message", "list", "--gateway", "gw-1", "--last", "100"]);
    assert_eq!(listed.as_array().unwrap().len(), 17);
    let shown = fleet.json(&["device", "show", "gw-1"]);
    let told = shown["events"].as_array().unwrap().iter().any(|event| event["reason"] == "queue.conflict");
    assert!(told, "{shown}");
}

#[tokio::test]
async fn messages_are_refused() {
    let fleet = Fleet::start(&[]);
    let gateway = fleet.gateway("gw-1").await;
    let message = |change: &dyn Fn(&mut Message)| {
        let mut message = gateway.message(2);
        change(&mut message);
        vec![gateway.message(1), message]
    };
    let foreign = TrustDomain::parse("other.example").unwrap();
    for (case, messages, reason) in [
        ("the same number twice", message(&|m| m.sequence = 1), Reason::RequestInvalid),
        ("descending", message(&|m| m.sequence = 0), Reason::RequestInvalid),
        ("two queues", message(&|m| m.queue = "0c".repeat(16)), Reason::RequestInvalid),
        ("number too high", message(&|m| m.sequence = u64::MAX), Reason::RequestInvalid),
        (
            "queue name",
            vec![{
                let mut bad = gateway.message(1);
                bad.queue = "../../etc".into();
                bad
            }],
            Reason::RequestInvalid,
        ),
        ("topic", message(&|m| m.topic = "a\0b".into()), Reason::TopicInvalid),
        (
            "another trust domain",
            message(&|m| {
                m.from = SpiffeId::module(&foreign, &gateway.device.name, &"a".parse().unwrap());
            }),
            Reason::PeerUnauthorized,
        ),
        ("the gateway's whole fleet", message(&|m| m.from = common::domain().id()), Reason::PeerUnauthorized),
        ("too many", (1..=1001).map(|n| gateway.message(n)).collect(), Reason::RequestTooLarge),
        ("too large", message(&|m| m.payload = vec![0; 4 * 1024 * 1024].into()), Reason::RequestTooLarge),
        ("far too large", message(&|m| m.payload = vec![0; 8 * 1024 * 1024].into()), Reason::RequestTooLarge),
    ] {
        assert_eq!(gateway.send(&fleet, messages).await, Err(reason), "{case}");
    }
    assert_eq!(fleet.json(&["message", "list", "--gateway", "gw-1"]), serde_json::json!([]));
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let mut fleet = Fleet::start(&[]);
    let gateway: Gateway = fleet.gateway("gw-1").await;
    let mut acknowledged = 0;
    for round in 0..8_u64 {
        let client = gateway.client(&fleet, "gatewayd");
        // The server dies somewhere within this loop, at a moment that differs from round to round.
        let dies = tokio::spawn(tokio::time::sleep(Duration::from_millis(3 + round * 17)));
        while !dies.is_finished() {
            let messages = (acknowledged + 1..=acknowledged + 20).map(|n| gateway.message(n)).collect();
            let request = Messages { messages };
            let sending = client.post_json::<_, MessagesReply>(
                "/v1/gateway/messages",
                &request,
                1024,
                common::DEADLINE,
            );
            tokio::select! {
                sent = sending => acknowledged = sent.unwrap().stored,
                () = async { while !dies.is_finished() { tokio::time::sleep(Duration::from_millis(1)).await } } => {}
            }
        }
        fleet.kill();
        fleet.run();
        let listed = fleet.json(&["message", "list", "--gateway", "gw-1", "--last", "1000"]);
        let newest = listed.as_array().unwrap().last().map_or(0, |m| m["sequence"].as_u64().unwrap());
        assert!(newest >= acknowledged, "acknowledged {acknowledged}, kept {newest}");
    }
    assert!(acknowledged > 0);
    let shown = fleet.json(&["device", "show", "gw-1"]);
    assert!(shown["messages"]["kept"].as_u64().unwrap() >= acknowledged);
    assert_eq!(shown["device"]["verdict"], "fresh");
}
