//! The deployment: what a gateway runs, who may talk to whom, and whose signatures count.
//!
//! An operator signs it ([`crate::dsse`], payload type [`PAYLOAD_TYPE`]); the servers that carry it are not trusted
//! with it. [`Deployment::parse`] is the only way in: a value that exists keeps the limits below.

use std::collections::BTreeMap;

use edgewarden_names::{LeafName, Reason, Refusal, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::bounds::{at_most, text, unique};
use crate::federation::{Endpoint, FEDERATION_MAX};
use crate::messages::{self, Messages};

pub use crate::image_reference::ImageReference;
pub use crate::module::{Module, PORTS_MAX, Port, Restart, SvidKey};

pub const PAYLOAD_TYPE: &str = "application/vnd.edgewarden.deployment.v1+json";

pub const MODULES_MAX: usize = 128;
pub const LEAVES_MAX: usize = 1024;
pub const TOPICS_MAX: usize = 1024;
pub const IMAGE_KEYS_MAX: usize = 16;

/// The signed document that says what a gateway runs and who may talk to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    pub name: String,
    /// Rises with each change. A gateway never goes back to a lower one.
    pub version: u64,
    pub trust_domain: TrustDomain,
    /// The gateway runs this only when it has all these labels. Empty: every gateway of the trust domain.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// Public keys whose signatures on images count. One of them suffices.
    pub image_keys: Vec<ImageKey>,
    /// Fate of a module that runs when none of the keys that signed its image is in `image_keys` any more.
    #[serde(default, skip_serializing_if = "WhenUntrusted::is_stop")]
    pub untrusted: WhenUntrusted,
    pub modules: Vec<Module>,
    #[serde(default)]
    pub leaves: Vec<Leaf>,
    /// The MQTT topic filters that the policy speaks of.
    #[serde(default)]
    pub topics: Vec<Topic>,
    /// Messages that go upstream.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Limits and lifetimes of messages for those who receive them.
    #[serde(default, skip_serializing_if = "Messages::is_default")]
    pub messages: Messages,
    /// The communication policy: Cedar, in the schema of docs/policy.md.
    pub policy: String,
    /// Other trust domains, whose bundles modules may be given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub federation: Vec<Endpoint>,
}

/// Fate of a running module whose image no image key vouches for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenUntrusted {
    /// It is stopped, and starts when an image key has signed its image.
    #[default]
    Stop,
    /// It runs on without an identity, and every flow of it is closed.
    Quarantine,
    /// It goes on, and status, audit log and fleet say so.
    Report,
}

impl WhenUntrusted {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_stop(&self) -> bool {
        *self == Self::Stop
    }
}

impl std::fmt::Display for WhenUntrusted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Quarantine => "quarantine",
            Self::Report => "report",
        })
    }
}

/// A public key that signs images, with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageKey {
    pub name: String,
    /// PEM, SubjectPublicKeyInfo, P-256.
    pub public_key: String,
}

/// A leaf device, with the groups that the policy knows it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    pub name: LeafName,
    #[serde(default)]
    pub groups: Vec<String>,
}

/// An MQTT topic filter, by the name that the policy uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Name in the policy: `TopicFilter::"<name>"`. With `{leaf}` in `filter`, one for each leaf, `<name>/<leaf>`.
    pub name: String,
    /// An MQTT topic filter; `{leaf}` stands for each leaf's name in turn, who is then its `owner`.
    pub filter: String,
    /// Largest payload there. Of several that a topic matches the smallest counts; without one, `messages.bytes_max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u32>,
}

/// A way upstream for the messages of a topic filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// An MQTT topic filter. What is published there goes to `to` when the policy lets the publisher upload there.
    pub filter: String,
    /// A cloud endpoint of the policy. `upstream` is the fleet.
    pub to: String,
}

impl Deployment {
    /// Parses the payload of a verified envelope and checks every limit.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        let deployment: Self = serde_json::from_slice(payload)
            .map_err(|error| Refusal::new(Reason::DeploymentInvalid, "deployment", error))?;
        deployment.check().map_err(|rule| Refusal::new(Reason::DeploymentInvalid, &deployment.name, rule))?;
        Ok(deployment)
    }

    fn check(&self) -> Result<(), String> {
        at_most("modules", self.modules.len(), MODULES_MAX)?;
        at_most("leaves", self.leaves.len(), LEAVES_MAX)?;
        at_most("topics", self.topics.len(), TOPICS_MAX)?;
        at_most("routes", self.routes.len(), TOPICS_MAX)?;
        at_most("image_keys", self.image_keys.len(), IMAGE_KEYS_MAX)?;
        text("name", &self.name)?;
        unique("module", self.modules.iter().map(|module| module.name.as_str()))?;
        unique("leaf", self.leaves.iter().map(|leaf| leaf.name.as_str()))?;
        unique("topic", self.topics.iter().map(|topic| topic.name.as_str()))?;
        unique("image key", self.image_keys.iter().map(|key| key.name.as_str()))?;
        for key in &self.image_keys {
            // One that cannot be used would refuse every image later, when the good document before it is gone.
            key.usable().map_err(|rule| format!("image key `{}`: {rule}", key.name.escape_debug()))?;
        }
        for module in &self.modules {
            module.check().map_err(|rule| format!("module `{}`: {rule}", module.name))?;
        }
        crate::server_names::check(&self.modules)?;
        self.check_federation()?;
        for topic in &self.topics {
            text("topic name", &topic.name)?;
            text("topic filter", &topic.filter)?;
            if let Some(bytes) = topic.bytes_max {
                messages::bytes_max(bytes).map_err(|rule| format!("topic `{}`: {rule}", topic.name))?;
            }
        }
        let modules = self.modules.iter().map(|module| &module.name).collect();
        let leaves = self.leaves.iter().map(|leaf| &leaf.name).collect();
        self.messages.check(&modules, &leaves).map_err(|rule| format!("messages: {rule}"))?;
        for route in &self.routes {
            text("route filter", &route.filter)?;
            text("route target", &route.to)?;
        }
        Ok(())
    }
}

impl Deployment {
    fn check_federation(&self) -> Result<(), String> {
        at_most("entries of `federation`", self.federation.len(), FEDERATION_MAX)?;
        let domains = || self.federation.iter().map(|endpoint| endpoint.trust_domain.as_str());
        unique("trust domain of `federation`", domains())?;
        for endpoint in &self.federation {
            let name = &endpoint.trust_domain;
            endpoint.check(&self.trust_domain).map_err(|rule| format!("federation `{name}`: {rule}"))?;
        }
        for module in &self.modules {
            let name = &module.name;
            unique(
                "trust domain of `federates_with`",
                module.federates_with.iter().map(TrustDomain::as_str),
            )?;
            let unknown = |domain: &&TrustDomain| !domains().any(|known| known == domain.as_str());
            if let Some(unknown) = module.federates_with.iter().find(unknown) {
                return Err(format!(
                    "module `{name}` federates with `{unknown}`, of which `federation` says nothing"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn image() -> String {
        format!("127.0.0.1:5000/clinic/alerts:1@sha256:{}", "ab".repeat(32))
    }

    fn document() -> serde_json::Value {
        json!({"name": "glucose", "version": 1, "trust_domain": "plant.example", "image_keys": [],
               "modules": [{"name": "alerts", "image": image()}], "policy": ""})
    }

    #[test]
    fn references() {
        let reference = ImageReference::parse(&image()).unwrap();
        assert_eq!(reference.to_string(), image());
        assert_eq!(reference.name(), "127.0.0.1:5000/clinic/alerts");
        assert_eq!(reference.tag(), Some("1"));
        let digest = format!("@sha256:{}", "ab".repeat(32));
        for bad in ["alerts:1", "reg/alerts:1", "alerts", ""] {
            assert!(ImageReference::parse(bad).is_err(), "{bad}");
        }
        for bad in [
            "alerts",
            "/alerts",
            "reg/",
            "reg/../etc",
            "reg/Alerts",
            "reg/a//b",
            "reg/a:",
            "reg/a:..",
            "reg/a:-x",
            "r g/a",
        ] {
            assert!(ImageReference::parse(&format!("{bad}{digest}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_module_federates_with_what_the_deployment_names() {
        type Change = fn(&mut serde_json::Value);
        let parse = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut value = document();
            let endpoint = json!({"trust_domain": "other.example", "url": "https://h/", "profile": {"kind": "https_web", "ca": "x"}});
            value["federation"] = json!([endpoint]);
            value["modules"][0]["federates_with"] = json!(["other.example"]);
            change(&mut value);
            Deployment::parse(value.to_string().as_bytes())
        };
        assert_eq!(parse(&|_| ()).unwrap().modules[0].federates_with.len(), 1);
        let changes: [(&str, Change); 6] = [
            ("not named", |d| d["federation"] = json!([])),
            ("named twice", |d| d["federation"] = json!([d["federation"][0], d["federation"][0]])),
            ("twice in a module", |d| {
                d["modules"][0]["federates_with"] = json!(["other.example", "other.example"]);
            }),
            ("our own", |d| d["federation"][0]["trust_domain"] = json!("plant.example")),
            ("no name", |d| d["modules"][0]["federates_with"] = json!(["Other"])),
            ("too many", |d| {
                let endpoint = |n| {
                    let mut endpoint = d["federation"][0].clone();
                    endpoint["trust_domain"] = json!(format!("d{n}.example"));
                    endpoint
                };
                let many: Vec<_> = (0..=FEDERATION_MAX).map(endpoint).collect();
                d["federation"] = json!(many);
                d["modules"][0]["federates_with"] = json!([]);
            }),
        ];
        for (name, change) in changes {
            assert_eq!(parse(&change).unwrap_err().reason, Reason::DeploymentInvalid, "{name}");
        }
    }

    #[test]
    fn what_is_said_of_messages_is_in_range_and_about_somebody() {
        let parse = |messages: serde_json::Value, bytes_max: serde_json::Value| {
            let mut value = document();
            value["messages"] = messages;
            value["topics"] = json!([{"name": "t", "filter": "t/#", "bytes_max": bytes_max}]);
            Deployment::parse(value.to_string().as_bytes())
        };
        let all = json!({"bytes_max": 1000, "session_expiry_seconds": 60, "lagging": "end-session",
            "modules": {"alerts": {"lagging": "drop-oldest", "session_expiry_seconds": 3600}}});
        let parsed = parse(all, json!(messages::BYTES_MAX)).unwrap();
        assert_eq!(parsed.messages.lagging, messages::Lagging::EndSession);
        let mut topics = parsed.topics.clone();
        topics[0].filter = "leaf/x-{leaf}/#".into();
        topics.push(Topic { name: "u".into(), filter: "u".into(), bytes_max: None });
        let sizes = crate::control::TopicSize::of(&topics);
        assert_eq!((sizes.len(), sizes[0].wide_filter().as_str()), (1, "leaf/+/#"));
        for (filter, topic, expected) in [
            ("leaf/x-{leaf}/#", "leaf/x-sensor-1/a/b", true),
            ("leaf/x-{leaf}/#", "leaf/x-sensor-1", true),
            ("leaf/x-{leaf}/#", "leaf/y-sensor-1/a", false),
            ("leaf/x-{leaf}/#", "leaf/x-/a", false),
            ("leaf/x-{leaf}/#", "leaf/x-NO LEAF/a", false),
            ("leaf/{leaf}", "leaf/sensor-1", true),
            ("leaf/{leaf}", "leaf/", false),
            ("{leaf}-raw/+/{leaf}", "s1-raw/é/s1", true),
            ("{leaf}-raw/+/{leaf}", "s1-raw/é/s2", false),
            ("{leaf}-raw/+/{leaf}", "s1-RAW/é/s1", false),
            ("{leaf}.{leaf}", "ab.ab", true),
            ("{leaf}.{leaf}", "ab.ac", false),
            ("{leaf}.{leaf}", "é.é", false),
            ("{leaf}x", "é", false),
            ("plain/#", "plain/a", true),
        ] {
            let size = crate::control::TopicSize { filter: filter.into(), bytes_max: 1 };
            assert_eq!(size.names_a_leaf(topic), expected, "{filter} {topic}");
        }
        let again = serde_json::to_vec(&parsed).unwrap();
        assert_eq!(Deployment::parse(&again).unwrap(), parsed);
        let silent = Deployment::parse(document().to_string().as_bytes()).unwrap();
        assert!(!serde_json::to_string(&silent).unwrap().contains("messages"));
        for (messages, bytes_max) in [
            (json!({"bytes_max": 0}), json!(1)),
            (json!({"bytes_max": messages::BYTES_MAX + 1}), json!(1)),
            (json!({"session_expiry_seconds": 59}), json!(1)),
            (json!({"session_expiry_seconds": 31_622_401}), json!(1)),
            (json!({"lagging": "drop-newest"}), json!(1)),
            (json!({"modules": {"nobody": {}}}), json!(1)),
            (json!({"modules": {"alerts": {"session_expiry_seconds": 0}}}), json!(1)),
            (json!({"leaves": {"nobody": {}}}), json!(1)),
            (json!({"expiry": 60}), json!(1)),
            (json!({}), json!(0)),
            (json!({}), json!(messages::BYTES_MAX + 1)),
        ] {
            let refusal = parse(messages.clone(), bytes_max).unwrap_err();
            assert_eq!(refusal.reason, Reason::DeploymentInvalid, "{messages}");
        }
    }

    #[test]
    fn a_deployment_is_parsed_strictly() {
        type Change = fn(&mut serde_json::Value);
        let parse = |value: &serde_json::Value| Deployment::parse(value.to_string().as_bytes());
        assert_eq!(parse(&document()).unwrap().modules[0].memory_bytes, 64 * 1024 * 1024);
        let changes: [(&str, Change); 9] = [
            ("unknown field", |d| d["extra"] = json!(1)),
            ("a key elsewhere", |d| d["modules"][0]["svid_key"] = json!("file")),
            ("unknown module field", |d| d["modules"][0]["privileged"] = json!(true)),
            ("reserved name", |d| d["modules"][0]["name"] = json!("identityd")),
            ("two of one name", |d| d["modules"] = json!([d["modules"][0], d["modules"][0]])),
            ("no memory", |d| d["modules"][0]["memory_bytes"] = json!(1)),
            ("no processes", |d| d["modules"][0]["pids_max"] = json!(0)),
            ("image by tag", |d| d["modules"][0]["image"] = json!("reg/alerts:1")),
            ("no policy", |d| d["policy"] = json!(null)),
        ];
        for (name, change) in changes {
            let mut bad = document();
            change(&mut bad);
            assert_eq!(parse(&bad).unwrap_err().reason, Reason::DeploymentInvalid, "{name}");
        }
    }
}
