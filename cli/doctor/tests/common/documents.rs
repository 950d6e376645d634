//! Contents of a healthy gateway's files, and answers of its daemons.

use std::path::Path;

use edgewarden_names::{Digest, Epoch, Generation, SpiffeId, TrustDomain, UnixTime};
use edgewarden_protocol::control::{
    DeploymentInForce, DiskReserve, Enforcer, IdentityStatus, KeystoreHealth, Lockout, Status, TimeBy,
    TimeStatus,
};
use edgewarden_protocol::deployment::Deployment;
use edgewarden_protocol::enrol::{DeviceKeys, Verdict, VerdictState};
use edgewarden_protocol::federation::{BundleStatus, Federated, ToldBy};
use edgewarden_protocol::gateway_console as gateway;
use edgewarden_protocol::runtime_console as runtime;
use edgewarden_protocol::uplink::ModuleState;

use super::DAY;
use super::servers::MANIFEST;

pub const DOMAIN: &str = "clinic.example";
pub const GATEWAY: &str = "gw-1";

/// Answers of the daemons.
pub struct Answers {
    pub status: Status,
    /// `None`: the keystore refuses.
    pub health: Option<KeystoreHealth>,
    pub keys: Option<DeviceKeys>,
    pub deployment: Option<DeploymentInForce>,
    pub federation: Vec<Federated>,
    pub runtime: runtime::Status,
    pub gateway: gateway::Status,
}

impl Answers {
    #[expect(clippy::too_many_lines, reason = "it is data")]
    pub fn healthy(fleet: &str, registry: &str, ek_certificate: &[u8]) -> Self {
        let now = UnixTime::now().0;
        let domain = TrustDomain::parse(DOMAIN).unwrap();
        let epoch = Some(Epoch(3));
        let image = format!("{registry}/clinic/alerts:1@{}", digest());
        let deployment = serde_json::json!({
            "name": "glucose", "version": 1, "trust_domain": DOMAIN, "image_keys": [], "policy": "",
            "modules": [{"name": "alerts", "image": image}],
        });
        let deployment = Deployment::parse(deployment.to_string().as_bytes()).unwrap();
        let name = deployment.modules[0].name.clone();
        let gateway_name = GATEWAY.parse().unwrap();
        Self {
            status: Status {
                runtime_log: "PCR 15, 3 lines, 0 waiting".into(),
                time: TimeStatus { now: UnixTime::now(), by: TimeBy::TimeService, doubted: None },
                lease: None,
                keystore: "tpm (IBM SW TPM)".into(),
                dangerous: false,
                verdict: Some(Verdict {
                    state: VerdictState::Fresh,
                    hardware: "tpm (IBM)".into(),
                    reference: Some("gateway-2026".into()),
                    checks: Vec::new(),
                    at: UnixTime(now - 3600),
                    expires: UnixTime(now + DAY),
                }),
                est: None,
                gateway_ca_expires: Some(UnixTime(now + 29 * DAY)),
                issuing_ca_expires: Some(UnixTime(now + 8 * DAY)),
                deployment: Some(("glucose".into(), 1)),
                epoch,
                enforced: vec![(Enforcer::Runtimed, Epoch(3)), (Enforcer::Gatewayd, Epoch(3))],
                identities: vec![IdentityStatus {
                    id: SpiffeId::module(&domain, &gateway_name, &name),
                    instance: "alerts-1".into(),
                    expires: Some(UnixTime(now + 3000)),
                    issued: 1,
                    streams: 1,
                    resident_key: false,
                }],
                refusals: Vec::new(),
                strangers: Vec::new(),
                disk: Some(DiskReserve {
                    bytes: 24 << 20,
                    bytes_wanted: 24 << 20,
                    unwritten: 0,
                    unsaved: false,
                }),
                gateway: gateway_name,
                trust_domain: domain,
            },
            health: Some(KeystoreHealth {
                keystore: "tpm (IBM SW TPM)".into(),
                lockout: Some(Lockout {
                    locked: false,
                    failures: 0,
                    failures_max: 32,
                    recovery_seconds: 7200,
                }),
            }),
            keys: Some(DeviceKeys::Tpm {
                ek_certificates: vec![ek_certificate.into()],
                ek_public: Vec::new().into(),
                ak_public: Vec::new().into(),
            }),
            runtime: runtime::Status {
                modules: vec![runtime::ModuleStatus {
                    name,
                    image,
                    state: ModuleState::Running,
                    generation: Some(Generation(1)),
                    instance: Some("alerts-1".into()),
                    pid: Some(1000),
                    address: Some([10, 77, 0, 2].into()),
                    restarts: 0,
                    reason: None,
                    update: None,
                }],
                epoch,
                fleet: runtime::FleetStatus {
                    url: Some(fleet.into()),
                    last_contact: Some(UnixTime(now - 5)),
                    error: None,
                },
                est: None,
                enforcement: runtime::EnforcementStatus::default(),
            },
            gateway: gateway_status(now, epoch),
            deployment: Some(DeploymentInForce {
                deployment,
                envelope: digest(),
                signed_by: "operator-1".into(),
                epoch: Epoch(3),
                fallbacks: Vec::new(),
            }),
            federation: vec![Federated {
                trust_domain: TrustDomain::parse("other.example").unwrap(),
                url: "https://other.example/".into(),
                told_by: ToldBy::Web { authorities: Vec::new() },
                endpoint: digest(),
                refresh_seconds: 300,
                held: Some(BundleStatus {
                    sequence: 1,
                    x509_authorities: 1,
                    jwt_keys: 1,
                    changed: UnixTime(now - 60),
                    confirmed: Some(UnixTime(now - 60)),
                }),
                trouble: None,
            }],
        }
    }
}

fn gateway_status(now: u64, epoch: Option<Epoch>) -> gateway::Status {
    gateway::Status {
        epoch,
        trusted: true,
        connections: Vec::new(),
        sessions: 1,
        waiting_messages: 0,
        retained_messages: 0,
        queue: Some(gateway::QueueStatus {
            id: "00".repeat(16),
            messages: 0,
            bytes: 4096,
            bytes_max: 64 << 20,
        }),
        journal: Some(gateway::QueueStatus {
            id: "00".repeat(16),
            messages: 0,
            bytes: 4096,
            bytes_max: 64 << 20,
        }),
        upstream: gateway::UpstreamStatus::Connected { since: UnixTime(now - 60) },
        dropped_qos0: 0,
        lost: 0,
        set_aside: 0,
        receivers: Vec::new(),
        refused: 0,
    }
}

fn digest() -> Digest {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, MANIFEST);
    Digest::from_sha256(hash.as_ref().try_into().unwrap())
}

pub fn config(
    layout: &edgewarden_protocol::layout::Layout,
    fleet: &str,
    registry: &str,
    device: &Path,
) -> toml::Table {
    let etc = layout.config_file().parent().unwrap().to_path_buf();
    let bin = device.with_file_name("bin");
    let text = format!(
        "gateway = {{ name = '{GATEWAY}', trust_domain = '{DOMAIN}' }}\n\
         fleet = {{ url = '{fleet}', root = '{0}/fleet-root.pem', operator_keys = ['{0}/operator-1.pem'] }}\n\
         keystore = {{ kind = 'tpm', device = '{1}' }}\n\
         attestation = {{ event_log = '{2}' }}\n\
         runtime = {{ oci_runtime = '{3}/runc', plain_http_registries = ['{registry}'] }}\n",
        etc.display(),
        device.display(),
        device.with_file_name("event_log").display(),
        bin.display(),
    );
    text.parse().unwrap()
}

pub fn software(file: &Path) -> toml::Value {
    let table: toml::Table =
        format!("kind = 'software'\npassphrase_file = '{}'", file.display()).parse().unwrap();
    table.into()
}

/// 0.0.0.0:8883, 0.0.0.0:8884 and 10.77.0.1:8885 listen; a connection of one of them does not.
pub const LISTENING: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 00000000:22B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000   995
   1: 00000000:22B4 00000000:0000 0A 00000000:00000000 00:00000000 00000000   995
   2: 01004D0A:22B5 00000000:0000 0A 00000000:00000000 00:00000000 00000000   995
   3: 0100007F:22B6 0100007F:1234 01 00000000:00000000 00:00000000 00000000   995
";

/// A default route, a local network, and one module.
pub const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
ew1\t02004D0A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0
";

/// One measurement, in the crypto-agile form (TCG PC Client Platform Firmware Profile, section 10.2).
pub fn event_log(sha256: bool) -> Vec<u8> {
    let (algorithm, size): (u16, u16) = if sha256 { (0x000b, 32) } else { (0x0004, 20) };
    let mut header = b"Spec ID Event03\0".to_vec();
    header.extend(0_u32.to_le_bytes());
    header.extend([0, 2, 0, 2]);
    header.extend(1_u32.to_le_bytes());
    header.extend(algorithm.to_le_bytes());
    header.extend(size.to_le_bytes());
    header.push(0);
    let mut log = Vec::new();
    log.extend(0_u32.to_le_bytes());
    log.extend(3_u32.to_le_bytes());
    log.extend([0; 20]);
    log.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
    log.extend(header);
    // EV_SEPARATOR into PCR 0.
    log.extend(0_u32.to_le_bytes());
    log.extend(4_u32.to_le_bytes());
    log.extend(1_u32.to_le_bytes());
    log.extend(algorithm.to_le_bytes());
    log.extend(vec![0x5a; size.into()]);
    log.extend(4_u32.to_le_bytes());
    log.extend([0; 4]);
    log
}
