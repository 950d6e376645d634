//! The administration API: requests of the command line and the server's answers, over TLS with the fleet's pinned root
//! and a bearer token.
//!
//! `GET` or `POST` beneath [`PREFIX`]; a refusal is HTTP 4xx with a [`Refusal`] as body.

use std::collections::BTreeMap;

use edgewarden_names::{Architecture, Digest, Epoch, GatewayName, ModuleName, Refusal, SecretName, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::enrol::{Check, VerdictState};
use edgewarden_protocol::token::JoinToken;
use edgewarden_protocol::uplink::{DeploymentReport, ModuleReport, RefusalReport};
use serde::{Deserialize, Serialize};

pub use crate::lease::CertificateState;
pub use crate::store::events::Event;
pub use crate::store::messages::{MessageCount, StoredMessage};
pub use crate::store::trust::{ReferenceSummary, Trusted, VendorRoot};

/// Path beneath which all requests of the administration API are.
pub const PREFIX: &str = "/v1/admin";

/// Request for a join token, `POST /token`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    pub gateway: GatewayName,
    pub expires_seconds: u64,
    /// Let a device without a TPM use it.
    #[serde(default)]
    pub allow_software: bool,
    /// The labels that the gateway gets by joining.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Answer to [`TokenRequest`]: the join token in plain text, which the database does not hold.
#[derive(Debug, Serialize, Deserialize)]
pub struct Token {
    pub gateway: GatewayName,
    pub token: JoinToken,
    pub expires: UnixTime,
    pub allow_software: bool,
    pub labels: BTreeMap<String, String>,
}

/// Change of a gateway's labels, `POST /devices/{name}/labels`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelRequest {
    pub set: BTreeMap<String, String>,
    /// Keys of labels to take away; first.
    pub remove: Vec<String>,
}

/// Answer to [`LabelRequest`]: all labels that the gateway has then.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeviceLabels {
    pub gateway: GatewayName,
    pub labels: BTreeMap<String, String>,
}

/// Event log of a boot to trust, `POST /references`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceRequest {
    pub name: String,
    /// The TCG2 event log of a good boot.
    pub event_log: Bytes,
}

/// Acceptance of the boot that a gateway proved and was refused for, `POST /references/accept`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptRequest {
    pub gateway: GatewayName,
    /// Name of the new reference; made up from gateway and time when absent.
    pub name: Option<String>,
}

/// TPM vendor's CA certificates to trust, `POST /vendor-roots`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VendorRequest {
    /// A file of CA certificates as a maker publishes it: PEM with any text, DER, PKCS #7.
    pub bundle: Bytes,
}

/// Outcome of adding a file of vendors' certificates.
#[derive(Debug, Serialize, Deserialize)]
pub struct VendorAdded {
    /// All that are trusted now.
    pub roots: Vec<VendorRoot>,
    pub added: usize,
    /// Certificates of the file that were there before.
    pub known: usize,
    /// Parts of the file that were left out, each with its place and the reason.
    pub left_out: Vec<VendorPart>,
    /// Further parts that were left out.
    pub left_out_more: usize,
    /// Certificates that were added and vouch for nothing yet, mostly because their root is not there.
    pub useless: Vec<VendorPart>,
}

/// Certificate or part of a vendor's file, by its place or subject, and the reason why it does not count.
#[derive(Debug, Serialize, Deserialize)]
pub struct VendorPart {
    pub what: String,
    pub why: String,
}

/// Operator's key to pin, `POST /operator-keys`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorKeyRequest {
    pub name: String,
    /// PEM, SubjectPublicKeyInfo, P-256.
    pub public_key: String,
}

/// Answer to [`OperatorKeyRequest`], and an element of `GET /operator-keys`. The key is PEM, SubjectPublicKeyInfo,
/// P-256.
#[derive(Debug, Serialize, Deserialize)]
pub struct OperatorKey {
    pub name: String,
    pub public_key: String,
}

/// Reference, vendor's certificate or operator's key to trust no longer, `POST /trust/remove`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveTrust {
    pub what: Trusted,
    /// Name of a reference or an operator's key; digest of a vendor's CA certificate.
    pub name: String,
}

/// Signed deployment to carry, `POST /deployments`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentRequest {
    /// The signed envelope, byte for byte.
    pub envelope: Bytes,
    /// Keep it although no gateway has the labels yet.
    #[serde(default)]
    pub allow_empty: bool,
}

/// Unsigned deployment to judge as `POST /deployments` would, `POST /deployments/check`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// The document, as it would be signed.
    pub document: Bytes,
    #[serde(default)]
    pub allow_empty: bool,
}

/// Question for the processors of the gateways that a selector names, `POST /deployments/machines`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachinesRequest {
    pub selector: BTreeMap<String, String>,
}

/// Counts of gateways by processor, as they reported it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machines {
    pub architectures: BTreeMap<Architecture, usize>,
    /// Those that have not said it.
    pub unknown: usize,
}

/// Gateways that are meant: how many, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meant {
    pub count: usize,
    /// At most [`SAMPLE_MAX`], by name.
    pub sample: Vec<GatewayName>,
}

/// Most names in [`Meant::sample`].
pub const SAMPLE_MAX: usize = 10;

impl Meant {
    /// Counts a gateway; its name is kept while there is room in the sample.
    pub fn add(&mut self, gateway: GatewayName) {
        self.count += 1;
        if self.sample.len() < SAMPLE_MAX {
            self.sample.push(gateway);
        }
    }
}

/// One line of the table of deployments, `GET /deployments`, and answer to [`DeploymentRequest`].
#[derive(Debug, Serialize, Deserialize)]
pub struct DeploymentView {
    pub name: String,
    pub version: u64,
    pub digest: Digest,
    pub selector: BTreeMap<String, String>,
    /// The operator key that signed it; absent when it is carried unverified.
    pub signer: Option<String>,
    /// The gateways that should run it now.
    pub gateways: Meant,
}

/// Sealed and signed secret to carry, `POST /secrets`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRequest {
    /// The signed envelope, byte for byte.
    pub envelope: Bytes,
}

/// One line of the table of secrets, `GET /secrets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretView {
    pub gateway: GatewayName,
    pub module: ModuleName,
    pub name: SecretName,
    pub version: u64,
    /// True when this version takes the secret away.
    pub removed: bool,
    pub signer: String,
    pub stored: UnixTime,
    pub state: SecretState,
    /// The version that the gateway has.
    pub held: Option<u64>,
}

/// State of the newest version of a secret on its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretState {
    /// The gateway has not been there since, or does not take secrets.
    Waiting,
    Held,
    /// The gateway refused it: its refusals say why.
    Refused,
}

impl SecretState {
    /// The same word as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::Refused => "refused",
        }
    }
}

/// State of a gateway, the worst first: of several that are true the worst is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// Its last appraisal failed.
    Failed,
    /// Its certificate has ended: its modules and leaf devices get none.
    Expired,
    /// It refused a module.
    Refused,
    /// The renewal of its certificate is overdue.
    Expiring,
    /// It has said nothing for a while, or never.
    NotSeen,
    /// A module does not run.
    Down,
    /// It has to prove itself again.
    Stale,
    /// It does not run what it should.
    Behind,
    Good,
}

impl DeviceState {
    /// Every state, the worst first.
    pub const ALL: [Self; 9] = [
        Self::Failed,
        Self::Expired,
        Self::Refused,
        Self::Expiring,
        Self::NotSeen,
        Self::Down,
        Self::Stale,
        Self::Behind,
        Self::Good,
    ];

    /// The state in words for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "attestation failed",
            Self::Expired => "identity expired",
            Self::Refused => "module refused",
            Self::Expiring => "identity expiring",
            Self::NotSeen => "not seen",
            Self::Down => "module down",
            Self::Stale => "attestation stale",
            Self::Behind => "not on the wanted deployment",
            Self::Good => "good",
        }
    }
}

/// One page of the table of gateways, by name: answer to `GET /devices?after=NAME&limit=NUMBER`.
#[derive(Debug, Serialize, Deserialize)]
pub struct DevicePage {
    pub devices: Vec<DeviceView>,
    /// Value of `after` for the next page; absent on the last.
    pub next: Option<GatewayName>,
}

/// One line of the table of gateways.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceView {
    pub name: GatewayName,
    pub state: DeviceState,
    pub labels: BTreeMap<String, String>,
    pub hardware: String,
    pub verdict: VerdictState,
    pub verdict_at: UnixTime,
    pub verdict_expires: UnixTime,
    pub reference: Option<String>,
    /// Reason for the verdict `failed`.
    pub refusal: Option<Refusal>,
    pub wanted: Option<DeploymentReport>,
    pub running: Option<DeploymentReport>,
    pub modules_running: usize,
    pub modules_refused: usize,
    pub modules_total: usize,
    pub software_version: Option<String>,
    pub architecture: Option<Architecture>,
    pub enrolled: UnixTime,
    pub seen: Option<UnixTime>,
    /// Absent when the fleet does not know how long it lasts.
    pub certificate: Option<CertificateView>,
}

/// Validity of a gateway's certificate: the time that a gateway goes on without its fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    pub state: CertificateState,
    /// Time from which on its renewal is overdue.
    pub overdue: UnixTime,
    pub ends: UnixTime,
}

impl DeviceView {
    /// State of the certificate alone; [`CertificateState::Good`] when its validity is not known.
    pub fn certificate_state(&self) -> CertificateState {
        self.certificate.map_or(CertificateState::Good, |certificate| certificate.state)
    }
}

/// Answer to `GET /devices/{name}`: one gateway with its last report, its newest events and the count of its messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceDetail {
    pub device: DeviceView,
    pub checks: Vec<Check>,
    pub modules: Vec<ModuleReport>,
    pub policy_epoch: Option<Epoch>,
    /// The newest first.
    pub refusals: Vec<RefusalReport>,
    pub events: Vec<Event>,
    pub messages: MessageCount,
}

/// Address of the dashboard: answer to `GET /web`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Web {
    /// With its access token; absent when the server was started without `--web`.
    pub url: Option<String>,
}

/// Answer to a request that has nothing to give back; `done` is always true.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    pub done: bool,
}
