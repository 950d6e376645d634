//! A gateway's world: its fleet's answers, its operator's deployments, a signed image.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use edgewarden_ca::RootCa;
use edgewarden_image_trust::sign::SigningKey;
use edgewarden_names::UnixTime;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::dsse::VerifyingKey;
use edgewarden_protocol::enrol::{Enrolled, Verdict, VerdictState};
use edgewarden_protocol::layout::Layout;
use edgewarden_testkit::{Key, Operator, domain, gateway, image};

use crate::authority::Context;
use crate::deployments::Target;
use crate::enrolment::Expected;

pub const START: UnixTime = UnixTime(1_800_000_000);
const DAY: Duration = Duration::from_secs(86400);
const VERSIONS: u64 = 6;
/// More than one life uses up.
const ANSWERS: u32 = 100;

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
        let (domain, gateway, operator) = (domain(), gateway(), Operator::new());
        let point = Key::generate().point();
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
            operator.sign(&image::document_with(version, &key, modules))
        };
        let envelopes = (1..=VERSIONS).map(envelope).collect();
        let operators = vec![VerifyingKey { name: "operator".into(), point: operator.point() }];
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
