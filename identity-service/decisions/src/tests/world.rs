//! A gateway's world: its fleet's answers, its operator's deployments, a signed image.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use edgewarden_ca::RootCa;
use edgewarden_image_trust::sign::SigningKey;
use edgewarden_names::{GatewayName, TrustDomain, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::deployment::PAYLOAD_TYPE;
use edgewarden_protocol::dsse::{Envelope, Signature, VerifyingKey, pre_authentication_encoding};
use edgewarden_protocol::enrol::{Enrolled, Verdict, VerdictState};
use edgewarden_protocol::layout::Layout;
use serde_json::{Value, json};

use crate::authority::Context;
use crate::deployments::Target;
use crate::enrolment::Expected;

#[path = "../../../identityd/tests/identityd/common/image.rs"]
#[allow(dead_code, reason = "shared with the tests of identityd")]
mod image;

pub const START: UnixTime = UnixTime(1_800_000_000);
const DAY: Duration = Duration::from_secs(86400);
const VERSIONS: u64 = 6;
/// More than one life uses up.
const ANSWERS: u32 = 100;

fn document(version: u64) -> Value {
    json!({"name": "clinic", "version": version, "trust_domain": "plant.example", "image_keys": [],
           "modules": [], "leaves": [{"name": "sensor-1"}], "policy": ""})
}

/// Keys and signatures that are made once, because they take time.
pub struct World {
    pub context: Arc<Context>,
    pub image: image::Image,
    /// By version less one: an even one deploys `alerts`, an odd one nothing.
    pub envelopes: Vec<Bytes>,
    /// The fleet's answers, each newer than the one before.
    pub enrolled: Vec<Enrolled>,
}

pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let domain = TrustDomain::parse("plant.example").unwrap();
        let gateway = GatewayName::parse("gw-1").unwrap();
        let pair = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let (operator, ca) = (pair(), pair());
        let point = ca.public_key().as_ref().to_vec();
        let root = RootCa::create(&domain, 3650 * DAY, START).unwrap();
        let enrolled = (0..ANSWERS)
            .map(|n| {
                let at = START.plus(Duration::from_secs(u64::from(n)));
                let issued = root.certify_gateway_ca(&point, &gateway, 30 * DAY, at).unwrap();
                Enrolled {
                    gateway_ca: issued.chain_der[0].clone().into(),
                    root: root.certificate_der().into(),
                    verdict: Verdict {
                        state: VerdictState::Fresh,
                        hardware: "none".into(),
                        reference: None,
                        checks: Vec::new(),
                        at,
                        expires: at.plus(DAY),
                    },
                }
            })
            .collect();
        let key = SigningKey::generate().unwrap();
        let image = image::Image::new("alerts", "one").signed(&key);
        let envelope = |version: u64| {
            let modules = [("alerts", &image)];
            let modules = if version.is_multiple_of(2) { &modules[..] } else { &[] };
            let payload = image::document_with(version, &key, modules).to_string().into_bytes();
            let signed = pre_authentication_encoding(PAYLOAD_TYPE, &payload);
            let sig = operator.sign(&SystemRandom::new(), &signed).unwrap().as_ref().to_vec().into();
            let envelope = Envelope {
                payload_type: PAYLOAD_TYPE.into(),
                payload: payload.into(),
                signatures: vec![Signature { keyid: String::new(), sig }],
            };
            serde_json::to_vec(&envelope).unwrap().into()
        };
        let envelopes = (1..=VERSIONS).map(envelope).collect();
        let operators =
            vec![VerifyingKey { name: "operator".into(), point: operator.public_key().as_ref().to_vec() }];
        let expected = Expected {
            gateway: gateway.clone(),
            trust_domain: domain.clone(),
            root: root.certificate_der().to_vec(),
            ca_public: point,
        };
        let context = Arc::new(Context {
            layout: Layout::new("/nowhere"),
            target: Target {
                gateway,
                trust_domain: domain,
                labels: std::collections::BTreeMap::default(),
                operators,
            },
            expected: Some(expected),
            site: None,
            own_cgroup: "/daemons/identityd".into(),
            boot: String::new(),
            measured_boot: crate::boot::Measured::default(),
        });
        World { context, image, envelopes, enrolled }
    })
}
