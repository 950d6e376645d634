//! Validation contexts for Envoy: the SPIFFE certificate validator, which takes the roots of the trust domain
//! that the peer's SPIFFE ID names and no others; or by a plain list of roots, for a client that cannot do the former.

use edgewarden_workload_wire::envoy::envoy::config::core::v3::Node;
use prost_types::value::Kind;

/// Envoy has the SPIFFE certificate validator since version 1.18.
const SPIFFE_SINCE: (u32, u32) = (1, 18);
/// Node metadata with which an operator says that the SPIFFE validator cannot be used. The name is SPIRE's.
const SWITCH: &str = "disable_spiffe_cert_validation";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Validator {
    Spiffe,
    PlainRoots,
}

impl Validator {
    /// The same choice as SPIRE's: a client that does not say a version gets what every client can read.
    pub(super) fn for_node(node: &Node) -> Self {
        let version = node.user_agent_build_version.as_ref().and_then(|build| build.version.as_ref());
        let version = version.map(|version| (version.major_number, version.minor_number));
        if version.is_some_and(|version| version >= SPIFFE_SINCE) && !is_switched_off(node) {
            Self::Spiffe
        } else {
            Self::PlainRoots
        }
    }
}

fn is_switched_off(node: &Node) -> bool {
    let value = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(SWITCH));
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::BoolValue(off)) => *off,
        Some(Kind::StringValue(text)) => text == "true",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_workload_wire::envoy::envoy::config::core::v3::BuildVersion;
    use edgewarden_workload_wire::envoy::envoy::r#type::v3::SemanticVersion;
    use prost_types::{Struct, Value};

    fn node(version: Option<(u32, u32)>, switch: Option<Kind>) -> Node {
        let version =
            version.map(|(major_number, minor_number)| SemanticVersion { major_number, minor_number });
        let metadata =
            switch.map(|kind| Struct { fields: [(SWITCH.to_owned(), Value { kind: Some(kind) })].into() });
        Node { metadata, user_agent_build_version: version.map(|v| BuildVersion { version: Some(v) }) }
    }

    #[test]
    fn the_choice_is_by_version_and_by_the_operator() {
        use Validator::{PlainRoots, Spiffe};
        for (version, switch, chosen) in [
            (None, None, PlainRoots),
            (Some((0, 99)), None, PlainRoots),
            (Some((1, 17)), None, PlainRoots),
            (Some((1, 18)), None, Spiffe),
            (Some((1, 40)), None, Spiffe),
            (Some((2, 0)), None, Spiffe),
            (Some((1, 40)), Some(Kind::BoolValue(true)), PlainRoots),
            (Some((1, 40)), Some(Kind::StringValue("true".into())), PlainRoots),
            (Some((1, 40)), Some(Kind::BoolValue(false)), Spiffe),
            (Some((1, 40)), Some(Kind::StringValue("yes".into())), Spiffe),
            (Some((1, 40)), Some(Kind::NumberValue(1.0)), Spiffe),
        ] {
            let chosen_now = Validator::for_node(&node(version, switch.clone()));
            assert_eq!(chosen_now, chosen, "{version:?} {switch:?}");
        }
        assert_eq!(Validator::for_node(&Node::default()), PlainRoots);
    }
}
