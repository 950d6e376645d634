//! Certificates and policy: what needs a processor only.

use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use edgewarden_ca::{CaSigner as _, IssuingCa, RootCa};
use edgewarden_names::{Epoch, LeafName, ModuleName, Principal, SpiffeId, UnixTime};
use edgewarden_policy::compile;
use edgewarden_protocol::deployment::Deployment;
use edgewarden_svid::jwt::{Audience, SigningKey};
use edgewarden_tests::Failure;
use serde_json::{Value, json};

use crate::common::{DAY, Key, domain, failed, gateway, public_pem};
use crate::number::{Number, Target};

/// Fresh key and certificate for each, on one core, as modules get them.
pub fn certificates() -> Result<Number, Failure> {
    const BATCH: u32 = 100;
    let (domain, gateway, now) = (domain()?, gateway()?, UnixTime::now());
    let root = RootCa::create(&domain, 365 * DAY, now).map_err(failed)?;
    let key = Key(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?);
    let point = key.public_point().map_err(failed)?;
    let ca = root.certify_gateway_ca(&point, &gateway, 30 * DAY, now).map_err(failed)?;
    let ca = ca.chain_der.first().ok_or_else(|| Failure::new("no certificate"))?;
    let issuing = IssuingCa::create(&key, ca, &domain, &gateway, 8 * DAY, now).map_err(failed)?;
    let id = SpiffeId::module(&domain, &gateway, &ModuleName::parse("analytics").map_err(failed)?);
    let dns = vec!["analytics".to_owned()];
    let mut samples = Vec::new();
    for _ in 0..120 {
        let begun = Instant::now();
        for _ in 0..BATCH {
            issuing.issue_svid(&id, &dns, DAY / 24, now).map_err(failed)?;
        }
        samples.push(begun.elapsed());
    }
    let rate = |batch: Duration| f64::from(BATCH) / batch.as_secs_f64();
    Ok(Number::of("fresh P-256 certificates, one core", "1/s", Target::AtLeast(5000.0), &samples, rate))
}

/// A token for each, as a module gets one for audiences that it has not asked for lately; and the check of each.
pub fn tokens() -> Result<Vec<Number>, Failure> {
    const BATCH: u32 = 100;
    let (domain, gateway, now) = (domain()?, gateway()?, UnixTime::now());
    let id = SpiffeId::module(&domain, &gateway, &ModuleName::parse("analytics").map_err(failed)?);
    let key = SigningKey::generate().map_err(failed)?;
    let audience = Audience::parse(&["https://cloud.example/ingest".to_owned()]).map_err(failed)?;
    let expires = UnixTime(now.0.saturating_add(300));
    let mut samples = Vec::new();
    for _ in 0..120 {
        let begun = Instant::now();
        for _ in 0..BATCH {
            std::hint::black_box(key.issue(&id, &audience, now, expires).map_err(failed)?);
        }
        samples.push(begun.elapsed());
    }
    let rate = |batch: Duration| f64::from(BATCH) / batch.as_secs_f64();
    Ok(vec![Number::of("JWT-SVIDs, one core", "1/s", Target::AtLeast(5000.0), &samples, rate)])
}

const POLICY: &str = r#"
@id("broker") permit (principal, action == Action::"connect", resource);
@id("own-topics")
permit (principal in LeafGroup::"sensors", action == Action::"publish", resource in TopicFilter::"reading")
when { resource has owner && resource.owner == principal };
@id("reads")
permit (principal == Module::"analytics", action in [Action::"subscribe", Action::"receive"],
        resource == TopicFilter::"all-readings");
"#;

/// May this leaf publish on this topic? A hundred leaves, each with its own topic.
pub fn policy() -> Result<Vec<Number>, Failure> {
    const BATCH: u32 = 1000;
    let leaves: Vec<Value> =
        (0..100).map(|n| json!({"name": format!("leaf-{n}"), "groups": ["sensors"]})).collect();
    let document = json!({
        "name": "bench", "version": 1, "trust_domain": "bench.example",
        "image_keys": [{"name": "ci", "public_key": public_pem()?}],
        "modules": [{"name": "analytics", "image": format!("registry.example/a@sha256:{}", "0".repeat(64))}],
        "leaves": leaves,
        "topics": [{"name": "reading", "filter": "leaf/{leaf}/reading"}, {"name": "all-readings", "filter": "leaf/+/reading"}],
        "policy": POLICY,
    });
    let deployment = Deployment::parse(document.to_string().as_bytes()).map_err(failed)?;
    let epoch = compile(&deployment, &gateway()?, Epoch(1)).map_err(failed)?;
    let principal = Principal::Leaf(LeafName::parse("leaf-42").map_err(failed)?);
    let each = |batch: Duration| batch.as_secs_f64() * 1e9 / f64::from(BATCH);
    let mut numbers = Vec::new();
    for (name, topic, allowed) in [
        ("policy decision, allowed", "leaf/leaf-42/reading", true),
        ("policy decision, denied", "leaf/leaf-43/reading", false),
    ] {
        let mut samples = Vec::new();
        for _ in 0..500 {
            let begun = Instant::now();
            for _ in 0..BATCH {
                let decision = epoch.may_publish(&principal, std::hint::black_box(topic));
                if decision.allowed != allowed {
                    return Err(Failure::new("the policy decides wrongly"));
                }
            }
            samples.push(begun.elapsed());
        }
        numbers.push(Number::of(name, "ns", Target::None, &samples, each));
    }
    Ok(numbers)
}

/// A policy of so many rules, each for one leaf's own topic, or each for a topic of its own and a module.
fn policy_of(rules: usize, leaves: usize) -> Result<Deployment, Failure> {
    let rule = |n: usize| {
        if leaves > 0 {
            format!(
                "permit (principal == Leaf::\"leaf-{n}\", action == Action::\"publish\", \
                 resource == TopicFilter::\"reading/leaf-{n}\");\n"
            )
        } else {
            format!(
                "permit (principal == Module::\"analytics\", action in [Action::\"subscribe\", Action::\"receive\"], \
                 resource == TopicFilter::\"topic-{n}\");\n"
            )
        }
    };
    let policy: String = (0..rules).map(rule).collect();
    let topics: Vec<Value> = if leaves > 0 {
        vec![json!({"name": "reading", "filter": "leaf/{leaf}/reading"})]
    } else {
        (0..rules).map(|n| json!({"name": format!("topic-{n}"), "filter": format!("site/{n}/#")})).collect()
    };
    let document = json!({
        "name": "bench", "version": 1, "trust_domain": "bench.example",
        "image_keys": [{"name": "ci", "public_key": public_pem()?}],
        "modules": [{"name": "analytics", "image": format!("registry.example/a@sha256:{}", "0".repeat(64))}],
        "leaves": (0..leaves).map(|n| json!({"name": format!("leaf-{n}")})).collect::<Vec<_>>(),
        "topics": topics,
        "policy": policy,
    });
    Deployment::parse(document.to_string().as_bytes()).map_err(failed)
}

/// From a deployment's text to the tables that are enforced.
pub fn policy_compile() -> Result<Vec<Number>, Failure> {
    let gateway = gateway()?;
    let mut numbers = Vec::new();
    for (name, rules, leaves, target) in [
        ("policy of 100 rules, compiled", 100, 0, Target::None),
        ("policy of 1,000 rules, compiled", 1000, 0, Target::AtMost(100.0)),
        ("policy of 1,000 leaves with a rule each, compiled", 1000, 1000, Target::AtMost(100.0)),
    ] {
        let deployment = policy_of(rules, leaves)?;
        let mut samples = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            std::hint::black_box(compile(&deployment, &gateway, Epoch(1)).map_err(failed)?);
            samples.push(begun.elapsed());
        }
        numbers.push(Number::of(name, "ms", target, &samples, |sample| sample.as_secs_f64() * 1e3));
    }
    Ok(numbers)
}
