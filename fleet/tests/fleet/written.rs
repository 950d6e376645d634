//! A deployment as people write it has every field of the one that is signed.

use crate::common;

use std::collections::BTreeSet;

use common::Fleet;
use edgewarden_protocol::container::{ConfigFile, Cpu, Stop, TemporaryFolder, Volume};
use edgewarden_protocol::deployment::{Deployment, Leaf, Module, Port, Route, Topic};
use edgewarden_protocol::federation::Endpoint;
use edgewarden_protocol::messages::{Messages, Receiver};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The fields that serde reads of a type, by its own word about one that is not there.
fn fields<T: DeserializeOwned>() -> BTreeSet<String> {
    let Err(error) = serde_json::from_value::<T>(json!({ "no such field": 1 })) else { panic!() };
    let error = error.to_string();
    assert!(error.contains("unknown field"), "{error}");
    let named = error.split('`').skip(3).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    assert!(!named.is_empty(), "{error}");
    named
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

/// The examples of the page, one after the other.
fn document() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/deployments.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_field_of_the_signed_deployment_can_be_written() {
    let fleet = Fleet::start(&[]);
    // Any certificate will do as a CA.
    let root = std::fs::read_to_string(fleet.data().join("root.pem")).unwrap();
    std::fs::write(fleet.path("ca.pem"), root).unwrap();
    let file = fleet.path("all.toml");
    std::fs::write(&file, document()).unwrap();
    let (out, key) = (fleet.path("envelope.json"), fleet.path("operator.key"));
    let [file_path, key, out_path] = [&file, &key, &out].map(|path| path.to_str().unwrap());
    let sign = ["deploy", file_path, "--skip-images", "--key", key, "--out", out_path];
    fleet.cli(&sign).ok();
    let envelope: edgewarden_protocol::dsse::Envelope =
        serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    Deployment::parse(envelope.payload.as_slice()).unwrap();
    let signed: Value = serde_json::from_slice(envelope.payload.as_slice()).unwrap();

    // What was written came through, and nothing that can be said was left out of the document above.
    assert_eq!(keys(&signed), fields::<Deployment>());
    let modules: BTreeSet<String> = signed["modules"].as_array().unwrap().iter().flat_map(keys).collect();
    assert_eq!(modules, fields::<Module>());
    assert_eq!(signed["modules"][0]["svid_key"], "resident");
    assert_eq!(keys(&signed["modules"][0]["ports"][0]), fields::<Port>());
    let module = &signed["modules"][0];
    let all = |list: &Value| list.as_array().unwrap().iter().flat_map(keys).collect::<BTreeSet<_>>();
    assert_eq!(all(&module["volumes"]), fields::<Volume>());
    assert_eq!(all(&module["temporary"]), fields::<TemporaryFolder>());
    assert_eq!(all(&module["files"]), fields::<ConfigFile>());
    assert_eq!(keys(&module["cpu"]), fields::<Cpu>());
    assert_eq!(keys(&module["stop"]), fields::<Stop>());
    assert_eq!(keys(&signed["leaves"][0]), fields::<Leaf>());
    assert_eq!(keys(&signed["topics"][0]), fields::<Topic>());
    assert_eq!(keys(&signed["routes"][0]), fields::<Route>());
    assert_eq!(keys(&signed["federation"][0]), fields::<Endpoint>());
    assert_eq!(keys(&signed["messages"]), fields::<Messages>());
    assert_eq!(keys(&signed["messages"]["modules"]["historian"]), fields::<Receiver>());

    // What is no field is refused, at every level, with the place.
    for (from, to, says) in [
        ("policy = \"\"", "policy = \"\"\npriority = 1", "priority"),
        ("pids_max = 100", "pids_max = 100\nprivileged = true", "module `historian`"),
        ("groups =", "roles =", "roles"),
        ("filter = \"glucose", "qos = 1\nfilter = \"glucose", "qos"),
        ("name = \"release\"", "name = \"release\"\ntype = \"rsa\"", "type"),
        ("svid_key = \"resident\"", "svid_key = \"tpm\"", "module `historian`"),
        ("public_key_file", "public_key = \"x\"\npublic_key_file", "public_key"),
        ("[[leaves]]", "[leaves]", "leaves"),
    ] {
        let bad = document().replace(from, to);
        assert_ne!(bad, document());
        std::fs::write(&file, bad).unwrap();
        let answer = fleet.cli(&sign);
        assert_eq!(answer.code(), 1, "{to}: {}", answer.errors());
        assert!(answer.errors().contains(says), "{to}: {}", answer.errors());
    }
}
