//! No text panics the compiler, and what it makes survives its own serialization.
#![no_main]

use edgewarden_names::{Epoch, GatewayName};
use edgewarden_policy::{CompiledEpoch, compile};
use edgewarden_protocol::deployment::Deployment;

libfuzzer_sys::fuzz_target!(|policy: &str| {
    let document = serde_json::json!({
        "name": "fuzz", "version": 1, "trust_domain": "t.example", "image_keys": [], "modules": [],
        "leaves": [{"name": "a", "groups": ["g"]}, {"name": "b"}],
        "topics": [{"name": "own", "filter": "{leaf}/#"}, {"name": "all", "filter": "+/x"}],
        "policy": policy,
    });
    let deployment = Deployment::parse(document.to_string().as_bytes()).unwrap();
    if let Ok(epoch) = compile(&deployment, &GatewayName::parse("gw").unwrap(), Epoch(1)) {
        let carried: CompiledEpoch = serde_json::from_slice(&serde_json::to_vec(&epoch).unwrap()).unwrap();
        assert_eq!(carried, epoch);
    }
});
