//! Versions and limits, without a disk or a keystore.

use edgewarden_names::{GatewayName, TrustDomain};
use edgewarden_protocol::dsse::VerifyingKey;
use edgewarden_protocol::secret::VALUE_BYTES_MAX;
use edgewarden_testkit::Operator;
use serde_json::{Value, json};

use super::*;

struct Pinned {
    operator: Operator,
    target: Target,
}

impl Pinned {
    fn new() -> Self {
        let operator = Operator::new();
        let pinned = VerifyingKey { name: "operator".into(), point: operator.point() };
        let target = Target {
            gateway: GatewayName::parse("gw-1").unwrap(),
            trust_domain: TrustDomain::parse("plant.example").unwrap(),
            labels: BTreeMap::new(),
            operators: vec![pinned],
        };
        Self { operator, target }
    }

    fn envelope(&self, payload_type: &str, document: &Value) -> Vec<u8> {
        self.operator.sign_as(payload_type, document.to_string().as_bytes()).0
    }

    fn judged(&self, module: &str, name: &str, version: u64, bytes: Option<usize>) -> Judged {
        open(&self.envelope(PAYLOAD_TYPE, &document(module, name, version, bytes)), &self.target).unwrap()
    }
}

fn document(module: &str, name: &str, version: u64, bytes: Option<usize>) -> Value {
    let content = bytes.map_or(json!("removed"), |bytes| {
        json!({"sealed": {"recipient": format!("sha256:{}", "ab".repeat(32)),
            "encapsulated": edgewarden_protocol::Bytes(vec![4; 65]),
            "ciphertext": edgewarden_protocol::Bytes(vec![7; bytes + 16])}})
    });
    json!({"trust_domain": "plant.example", "gateway": "gw-1", "module": module, "name": name,
           "version": version, "content": content})
}

#[test]
fn only_an_operators_word_for_this_gateway_is_opened() {
    let (operator, stranger) = (Pinned::new(), Pinned::new());
    let good = document("analytics", "password", 1, Some(8));
    let refused = |envelope: &[u8]| open(envelope, &operator.target).unwrap_err().reason;
    assert!(open(&operator.envelope(PAYLOAD_TYPE, &good), &operator.target).is_ok());
    assert_eq!(refused(&stranger.envelope(PAYLOAD_TYPE, &good)), Reason::SecretSignature);
    assert_eq!(refused(&operator.envelope("another/type", &good)), Reason::RequestInvalid);
    assert_eq!(refused(b"{}"), Reason::RequestInvalid);
    assert_eq!(refused(&vec![b' '; ENVELOPE_BYTES_MAX + 1]), Reason::SecretLimit);
    for (field, other) in [("gateway", "gw-2"), ("trust_domain", "other.example")] {
        let mut bad = good.clone();
        bad[field] = json!(other);
        assert_eq!(refused(&operator.envelope(PAYLOAD_TYPE, &bad)), Reason::SecretNotForUs, "{field}");
    }
}

#[test]
fn versions_never_fall_and_a_removal_counts_as_one() {
    let operator = Pinned::new();
    let refused = |secrets: &Secrets, version, bytes| {
        secrets.with(&operator.judged("analytics", "password", version, bytes)).unwrap_err().reason
    };
    let first = Secrets::default().with(&operator.judged("analytics", "password", 5, Some(8))).unwrap();
    for version in [1, 4, 5] {
        assert_eq!(refused(&first, version, Some(8)), Reason::SecretRollback, "{version}");
        assert_eq!(refused(&first, version, None), Reason::SecretRollback, "removal {version}");
    }
    let removed = first.with(&operator.judged("analytics", "password", 6, None)).unwrap();
    assert_eq!(refused(&removed, 6, Some(8)), Reason::SecretRollback);
    assert_eq!(removed.envelopes().count(), 0);
    let again = removed.with(&operator.judged("analytics", "password", 7, Some(8))).unwrap();
    assert_eq!((again.envelopes().count(), again.changes), (1, 3));
    // Another module's secret of the same name has versions of its own.
    assert!(again.with(&operator.judged("alerts", "password", 1, Some(8))).is_ok());
    let text = serde_json::to_string(&again).unwrap();
    assert_eq!(serde_json::from_str::<Secrets>(&text).unwrap(), again);
}

#[test]
fn limits() {
    let operator = Pinned::new();
    let fill = |count: usize, bytes: usize, module: &dyn Fn(usize) -> String| {
        let mut secrets = Secrets::default();
        for number in 0..count {
            let judged = operator.judged(&module(number), &format!("s-{number}"), 1, Some(bytes));
            secrets = match secrets.with(&judged) {
                Ok(next) => next,
                Err(refusal) => {
                    assert_eq!(refusal.reason, Reason::SecretLimit);
                    return (number, secrets);
                }
            };
        }
        (count, secrets)
    };
    let one = |_: usize| "analytics".to_owned();
    assert_eq!(fill(SECRETS_MAX + 1, 1, &one).0, SECRETS_MAX, "secrets of a module");
    let most = MODULE_BYTES_MAX / VALUE_BYTES_MAX;
    let (count, secrets) = fill(most + 1, VALUE_BYTES_MAX, &one);
    assert_eq!(count, most, "bytes of a module");
    // Room is made by a removal.
    let secrets = secrets.with(&operator.judged("analytics", "s-0", 2, None)).unwrap();
    assert!(secrets.with(&operator.judged("analytics", "more", 1, Some(VALUE_BYTES_MAX))).is_ok());

    let spread = |number: usize| format!("m-{}", number / 8);
    let most = GATEWAY_BYTES_MAX / VALUE_BYTES_MAX;
    assert_eq!(fill(most + 1, VALUE_BYTES_MAX, &spread).0, most, "bytes of a gateway");
    let (count, secrets) = fill(ENTRIES_MAX + 1, 1, &spread);
    assert_eq!(count, ENTRIES_MAX, "names of a gateway");
    let unknown = secrets.with(&operator.judged("other", "name", 1, None));
    assert_eq!(unknown.unwrap_err().reason, Reason::SecretLimit, "a removal of what never was");
    assert!(secrets.with(&operator.judged("m-0", "s-0", 2, None)).is_ok());
}

#[test]
fn a_revision_names_versions_and_places() {
    let operator = Pinned::new();
    let module = ModuleName::parse("analytics").unwrap();
    let uses = |value: Value| serde_json::from_value::<Vec<SecretUse>>(value).unwrap();
    let plain = uses(json!([{"name": "password"}]));
    let empty = Secrets::default();
    let first = empty.with(&operator.judged("analytics", "password", 1, Some(8))).unwrap();
    let second = first.with(&operator.judged("analytics", "password", 2, Some(8))).unwrap();
    let other = second.with(&operator.judged("analytics", "unused", 1, Some(8))).unwrap();
    assert_eq!(second.revision(&module, &plain), other.revision(&module, &plain));
    let mut seen: Vec<String> = [&empty, &first, &second].map(|s| s.revision(&module, &plain)).into();
    for moved in [json!([{"name": "password", "file": "x"}]), json!([{"name": "password", "mode": 0o440}])] {
        seen.push(second.revision(&module, &uses(moved)));
    }
    assert!(seen.iter().all(|revision| revision.len() == 64));
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "two of them are one");
}
