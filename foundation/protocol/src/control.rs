//! Requests of the other processes to `identityd`, on its control socket, one frame each way ([`crate::frame`]).
//!
//! A connection carries any number of requests, one after the other. The caller's user decides what it may ask:
//! root (`runtimed`, the command line) anything, `ew-gateway` only what [`Request::for_gateway`] says.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use edgewarden_names::{
    Digest, Epoch, GatewayName, Generation, KeyName, LeafName, ModuleName, Refusal, SpiffeId, TrustDomain,
    UnixTime,
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Bytes;
use crate::ask::{replies, requests};
use crate::deployment::{Deployment, ImageReference, Module, WhenUntrusted};
use crate::enrol::{Challenge, DeviceKeys, Enrolled, Proof, Verdict};
use crate::est::{EstReply, EstRequest, EstStatus};
use crate::federation::Federated;
use crate::secret::{AgreementKey, SecretFiles, SecretStatus};
use crate::token::LeafToken;

/// Limits of one image's evidence (docs/specification.md).
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
pub const SIGNATURES_MAX: usize = 64;
pub const SIGNATURE_PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Refusals that a status or a report shows.
pub const REFUSALS_MAX: usize = 32;

requests! {
    Request -> Reply;

    Status -> Box<Status>;
    /// The store of keys' word on itself now; asks the chip.
    KeystoreHealth -> KeystoreHealth;

    EnrolKeys -> DeviceKeys;
    /// Answers the fleet's challenge with quote, certification and CSR.
    EnrolProve(Challenge) -> Proof;
    /// Takes the fleet's answer into force after checking that it certifies our key under the pinned root.
    EnrolAccept(Box<Enrolled>) -> ();
    /// The fleet refused to renew: an `attest.*` reason fails the verdict and closes issuance.
    EnrolRefused(Refusal) -> ();
    /// Steps of an exchange that `runtimed` carries between `identityd` and a site's CA.
    Est(Box<EstRequest>) -> Box<EstReply>;

    /// A signed envelope from the fleet. Checked, stored and put in force.
    DeploymentAccept(Bytes) -> Box<DeploymentInForce>;
    /// The deployment in force.
    Deployment -> Option<Box<DeploymentInForce>>;

    /// A sealed secret, or its removal, in an operator's envelope. Checked, opened once, stored sealed.
    SecretAccept(Bytes) -> ();
    /// Names and versions of the secrets that are held, without values.
    Secrets -> Vec<SecretStatus>;
    /// The values for a live instance, by what its deployment names; None when `have` is their revision.
    /// Without `have` all must be there, else `secret.missing`.
    SecretsRelease { instance: String, have: Option<String> } -> Option<Box<SecretFiles>>;
    /// The public key that secrets for this gateway are sealed to, with its proof.
    AgreementKey -> Box<AgreementKey>;

    ImageJudge(Box<ImageEvidence>) -> Box<StartPermit>;
    /// Binds the instance's Workload API socket. Spends the permit.
    StartPrepare { permit: String } -> Prepared;
    /// The instance's first process exists and has not run yet.
    Started { instance: String, pid: i32, address: Ipv4Addr } -> ();
    Stopped { instance: String } -> ();
    /// The instance has run well for as long as an update must: what ran before it may not be started any more.
    Proven { instance: String } -> ();

    /// The state that enforcers need; answered when its revision is above `seen`, at the latest after 30 seconds.
    Watch { seen: u64 } -> Box<Snapshot>;
    /// An enforcer has this epoch in force.
    EpochEnforced { enforcer: Enforcer, epoch: Epoch } -> ();
    /// An enforcer refused something: for the audit log and the report.
    Refused { origin: Origin, refusal: Refusal } -> ();

    LeafIssue { leaf: LeafName, token: LeafToken, csr: Bytes } -> Certificate;
    /// A certificate for a device that has shown `chain`, DER, its own first.
    LeafRenew { chain: Vec<Bytes>, csr: Bytes, proof: Bytes } -> Certificate;
    /// A one-time token that lets a declared leaf enrol.
    LeafAllow { leaf: LeafName, lifetime_seconds: u32 } -> LeafAllowed;
    /// The key under which `gatewayd` encrypts its queue.
    StorageKey -> StorageKey;
    /// The key under which `runtimed` authenticates what it keeps on disk and believes later.
    RecordKey -> StorageKey;

    /// The keys of modules that stay in the keystore.
    KeysList -> Vec<ResidentKey>;
    /// Destroys one of them for good.
    KeyDelete { module: ModuleName, key: KeyName } -> ();
    /// Gives every live instance of the module (or all, or a reserved name) a new certificate now.
    Rotate { module: Option<ModuleName> } -> ();
    /// A quote for an outside verifier, over `nonce` (at most 32 bytes).
    AttestQuote { nonce: Bytes } -> Box<ExportedQuote>;
    /// The newest entries, oldest first.
    Audit { last: u32 } -> Vec<AuditEntry>;
    /// The newest entries that are about a module and not before a time, oldest first.
    AuditQuery { since: Option<UnixTime>, module: Option<ModuleName>, last: u32 } -> Vec<AuditEntry>;
    /// The public key that the signed heads of the audit log are checked with.
    AuditKey -> AuditKey;
    /// The other trust domains of the deployment: at most [`crate::federation::FEDERATION_MAX`].
    FederationList -> Vec<Federated>;
    /// A bundle that the endpoint of this configuration gave. Judged, stored and given to modules.
    FederationFetched { trust_domain: TrustDomain, endpoint: Digest, bundle: Bytes } -> ();
    /// No bundle came from that endpoint, and why. The bundle that is held stays.
    FederationFailed { trust_domain: TrustDomain, endpoint: Digest, refusal: Refusal } -> ();
    /// The fleet's time, as its server says it on a connection that its certificate vouches for: milliseconds before the
    /// time since boot.
    TimeHeard { offset_millis: i64 } -> ();
    /// The operator says that the system clock is right, and is believed.
    TimeAccept -> ();
    /// The keys of JWT-SVIDs, vouched for by the gateway CA's key ([`crate::jwt_keys`]).
    JwtKeys -> JwtStatement;
}

impl Request {
    /// True for what the user `ew-gateway` may ask.
    pub fn for_gateway(&self) -> bool {
        matches!(
            self,
            Self::Watch { .. }
                | Self::EpochEnforced { enforcer: Enforcer::Gatewayd, .. }
                | Self::Refused { .. }
                | Self::LeafIssue { .. }
                | Self::LeafRenew { .. }
                | Self::StorageKey
        )
    }
}

replies! {
    Reply of "identityd";

    Status(Box<Status>),
    KeystoreHealth(KeystoreHealth),
    DeviceKeys(DeviceKeys),
    Proof(Proof),
    Est(Box<EstReply>),
    Deployment(Box<DeploymentInForce>),
    Secrets(Vec<SecretStatus>),
    SecretFiles(Box<SecretFiles>),
    AgreementKey(Box<AgreementKey>),
    Permit(Box<StartPermit>),
    Prepared(Prepared),
    Snapshot(Box<Snapshot>),
    Certificate(Certificate),
    LeafToken(LeafAllowed),
    StorageKey(StorageKey),
    Keys(Vec<ResidentKey>),
    Quote(Box<ExportedQuote>),
    Audit(Vec<AuditEntry>),
    AuditKey(AuditKey),
    JwtKeys(JwtStatement),
    /// At most [`crate::federation::FEDERATION_MAX`].
    Federation(Vec<Federated>),
}

/// Lets one declared leaf enrol, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafAllowed {
    pub token: LeafToken,
    pub expires: UnixTime,
}

/// The keys of JWT-SVIDs in a DSSE envelope ([`crate::jwt_keys`]); `None` while there is no key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JwtStatement(pub Option<Bytes>);

/// The party whose doing a refusal is, as far as it is proven. Each origin has an allowance of its own in the audit
/// log, so that nobody's refusals keep another's out of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Origin {
    /// A peer that proved nothing. What it claims to be counts for nothing: it is named by its address.
    Stranger { address: IpAddr },
    /// A leaf device that proved who it is.
    Leaf { leaf: LeafName },
    /// A module that proved who it is, by certificate or by its place.
    Module { module: ModuleName },
    /// The enforcer itself: what it could not do.
    Enforcer,
}

/// A daemon that enforces a policy epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Enforcer {
    Runtimed,
    Gatewayd,
}

impl std::fmt::Display for Enforcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Runtimed => "runtimed",
            Self::Gatewayd => "gatewayd",
        })
    }
}

/// State of `identityd`, for the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    pub gateway: GatewayName,
    pub trust_domain: TrustDomain,
    /// `tpm (manufacturer)`, `simulated tpm (dangerous)` or `software (hardware: none)`.
    pub keystore: String,
    /// True under a setting whose name begins with `dangerous`.
    pub dangerous: bool,
    /// `None` without one: before a fleet judged, and always when a site's CA certifies ([`Status::est`]).
    pub verdict: Option<Verdict>,
    /// `None` unless a site's CA is configured.
    pub est: Option<EstStatus>,
    /// End of the gateway CA's certificate.
    pub gateway_ca_expires: Option<UnixTime>,
    pub issuing_ca_expires: Option<UnixTime>,
    pub deployment: Option<(String, u64)>,
    pub epoch: Option<Epoch>,
    pub enforced: Vec<(Enforcer, Epoch)>,
    pub identities: Vec<IdentityStatus>,
    /// The newest, oldest first: at most [`REFUSALS_MAX`] with those of strangers. No origin takes all places.
    pub refusals: Vec<(UnixTime, Refusal)>,
    /// The newest of peers that proved nothing, each named by its address.
    #[serde(default)]
    pub strangers: Vec<(UnixTime, Refusal)>,
    /// Disk space set aside for `identityd`'s state folder, and what could not be written.
    #[serde(default)]
    pub disk: Option<DiskReserve>,
    /// The PCR that carries the runtime log and how far it is, or what is wrong with it, in words for people.
    #[serde(default)]
    pub runtime_log: String,
    pub time: TimeStatus,
    /// `None` until the gateway has joined.
    pub lease: Option<Lease>,
}

/// Time for which the gateway can issue without whoever certifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The end of the gateway CA's certificate: nothing is issued afterwards.
    pub ends: UnixTime,
    /// From when on it is renewed.
    pub renewal_due: UnixTime,
    /// Its renewal is due, and has not come.
    pub overdue: bool,
}

/// The time that all daemons go by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeStatus {
    pub now: UnixTime,
    pub by: TimeBy,
    /// `None` while the system clock shows the same.
    pub doubted: Option<DoubtedTime>,
}

/// The source whose word on the time is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeBy {
    /// Nobody's: what was known before the machine was switched off.
    Floor,
    /// The system clock's alone.
    WallClock,
    /// The system clock's, and a time service keeps it.
    TimeService,
    /// The fleet's.
    Fleet,
    Operator,
    /// The machine's own clock, and the system clock.
    HardwareClock,
    /// The system clock's, after it had been doubted for a day.
    Patience,
}

impl TimeBy {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Floor => "nobody: it counts on from the latest time that was known",
            Self::WallClock => "the system clock alone",
            Self::TimeService => "a time service",
            Self::Fleet => "the fleet",
            Self::Operator => "the operator",
            Self::HardwareClock => "the machine's own clock",
            Self::Patience => "the system clock, which has shown it for a day",
        }
    }
}

/// A system clock that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoubtedTime {
    pub shows: UnixTime,
    /// The time that it will show when it is believed for want of anything better; `None`: never.
    pub believed_from: Option<UnixTime>,
}

/// The time for the other daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldTime {
    /// Time of day less time since boot (CLOCK_BOOTTIME), in milliseconds since 1970.
    pub offset_millis: i64,
    /// The fleet's word would help.
    pub unsure: bool,
}

/// Disk space that is set aside for decisions and the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskReserve {
    pub bytes: u64,
    /// As many are set aside while the disk has room.
    pub bytes_wanted: u64,
    /// Entries of the audit log that could not be written.
    pub unwritten: u64,
    /// `true` when the documents in force are not all on disk: a start would find something older.
    pub unsaved: bool,
}

impl DiskReserve {
    /// Has the disk been full?
    pub fn is_short(self) -> bool {
        self.bytes < self.bytes_wanted || self.unwritten > 0 || self.unsaved
    }
}

/// State of the keystore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeystoreHealth {
    /// As in [`Status::keystore`].
    pub keystore: String,
    /// `None` for a store that is not a TPM.
    pub lockout: Option<Lockout>,
}

/// A TPM's protection against guessing (TPM 2.0 Library Part 1, "Dictionary Attack Protection").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lockout {
    pub locked: bool,
    pub failures: u32,
    pub failures_max: u32,
    /// Seconds after which one failure is forgiven.
    pub recovery_seconds: u32,
}

/// Certificate of one live instance, and its streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityStatus {
    pub id: SpiffeId,
    pub instance: String,
    pub expires: Option<UnixTime>,
    /// Certificates that this instance has had.
    pub issued: u64,
    pub streams: u32,
    /// The module's key stays in the keystore.
    #[serde(default)]
    pub resident_key: bool,
}

/// A module's key or secret in the keystore, by what may be known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResidentKey {
    pub module: ModuleName,
    pub name: KeyName,
    /// `sign`, `encrypt` or `secret`.
    pub purpose: String,
    pub generation: u64,
    pub created: UnixTime,
    /// Since `identityd` started.
    pub uses: u64,
}

/// The deployment in force, with its envelope's digest and signer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentInForce {
    pub deployment: Deployment,
    /// SHA-256 of the envelope.
    pub envelope: Digest,
    pub signed_by: String,
    pub epoch: Epoch,
    /// Modules as they were before an update that has not proven itself: what may run until it has, and again when it
    /// fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<Module>,
}

/// An image's manifest, configuration and signatures, to be judged. `runtimed` fetches them; nothing in them is
/// trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEvidence {
    pub module: ModuleName,
    pub image: ImageReference,
    /// The image manifest, the bytes whose SHA-256 is the reference's digest.
    pub manifest: Bytes,
    /// The image configuration that the manifest names.
    pub config: Bytes,
    /// Signature manifests in cosign's layout (`sha256-<hex>.sig`) with the payload blobs that they name.
    pub signatures: Vec<SignatureEvidence>,
}

/// A signature manifest with the payload blobs that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureEvidence {
    pub manifest: Bytes,
    pub payloads: Vec<Bytes>,
}

/// `identityd`'s word that one start of one module may happen. Single use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartPermit {
    pub permit: String,
    pub module: ModuleName,
    pub generation: Generation,
    /// `<module>-<generation>`: names the container, its folder and its socket.
    pub instance: String,
    pub manifest: Digest,
    pub config: Digest,
    /// In the order in which they are applied.
    pub layers: Vec<Layer>,
    pub epoch: Epoch,
    /// The image key that signed.
    pub signed_by: String,
    /// The fingerprints of all image keys that signed (`edgewarden_image_trust::fingerprint`).
    pub vouchers: Vec<Digest>,
    pub expires: UnixTime,
}

/// One layer of an image (OCI image-spec, descriptor).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    pub digest: Digest,
    /// SHA-256 of the uncompressed layer (OCI image-spec, `rootfs.diff_ids`).
    pub diff_id: Digest,
    pub size: u64,
    pub media_type: String,
}

/// Answer to [`Request::StartPrepare`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    pub instance: String,
    /// To be mounted at `/run/edgewarden` in the container.
    pub workload_folder: PathBuf,
}

/// The only source of workload identity: which process tree is which module, by whose permit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRecord {
    pub instance: String,
    pub module: ModuleName,
    pub generation: Generation,
    pub manifest: Digest,
    pub epoch: Epoch,
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, which tells a reused pid from the one that was recorded.
    pub pid_started: u64,
    /// The container's path in the hierarchy that counts processes (`pids` on cgroup v1, the unified one on v2).
    pub cgroup: String,
    pub address: Ipv4Addr,
    pub at: UnixTime,
    /// Image keys that permitted the start, as in [`StartPermit::vouchers`]. Empty in a record of an earlier version.
    #[serde(default)]
    pub vouchers: Vec<Digest>,
}

/// An instance that runs and that the deployment in force does not vouch for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Untrusted {
    pub record: StartRecord,
    pub then: WhenUntrusted,
    /// The reason that the deployment does not vouch for it.
    pub refusal: Refusal,
}

impl Untrusted {
    /// `true` when it goes on with its identity.
    pub fn keeps_identity(&self) -> bool {
        self.then == WhenUntrusted::Report
    }
}

/// Answer to [`Request::Watch`]: all that enforcers go by, at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub revision: u64,
    pub gateway: GatewayName,
    pub trust_domain: TrustDomain,
    pub policy: Option<PolicyInForce>,
    /// Live start records of those that may have an identity.
    pub records: Vec<StartRecord>,
    /// Instances that run and are not vouched for. Of these, only those to be reported are among `records` too.
    #[serde(default)]
    pub untrusted: Vec<Untrusted>,
    /// Counts changes of secrets: when it is another number, some may be new.
    pub secrets: u64,
    /// False when the verdict forbids issuing: enforcers close what depends on it.
    pub trusted: bool,
    pub time: ToldTime,
    /// Problems that stay until somebody does something; at most [`STANDING_MAX`]. As it was when the answer was made:
    /// a change makes no revision.
    #[serde(default)]
    pub standing: Vec<Standing>,
}

/// Standing problems that a snapshot tells of.
pub const STANDING_MAX: usize = 8;

/// A problem that stands until it is mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    pub refusal: Refusal,
    /// Time at which it becomes an outage, where that is known.
    pub expires: Option<UnixTime>,
}

/// A compiled policy with what the deployment says beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyInForce {
    pub epoch: Epoch,
    /// `edgewarden_policy::CompiledEpoch` as JSON.
    pub compiled: Bytes,
    /// The routes of the deployment that the policy came with.
    pub routes: Vec<crate::deployment::Route>,
    /// The table `messages` of that deployment.
    #[serde(default)]
    pub messages: crate::messages::Messages,
    /// Its topics that say how large a payload may be.
    #[serde(default)]
    pub sizes: Vec<TopicSize>,
}

/// Largest payload on the topics of one filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicSize {
    /// As the deployment has it, with `{leaf}`.
    pub filter: String,
    pub bytes_max: u32,
}

impl TopicSize {
    /// The sizes of those topics that name one.
    pub fn of(topics: &[crate::deployment::Topic]) -> Vec<Self> {
        let size = |topic: &crate::deployment::Topic| {
            topic.bytes_max.map(|bytes_max| Self { filter: topic.filter.clone(), bytes_max })
        };
        topics.iter().filter_map(size).collect()
    }

    /// An MQTT filter that matches what this does, and more where `{leaf}` is a part of a level.
    pub fn wide_filter(&self) -> String {
        let level = |level| if str::contains(level, LEAF_PLACEHOLDER) { "+" } else { level };
        self.filter.split('/').map(level).collect::<Vec<_>>().join("/")
    }

    /// Of a topic that [`Self::wide_filter`] matches: whether there is a leaf's name, the same one everywhere, that `{leaf}`
    /// stands for.
    pub fn names_a_leaf(&self, topic: &str) -> bool {
        let mut leaf: Option<&str> = None;
        self.filter.split('/').zip(topic.split('/')).all(|(pattern, level)| {
            let Some((before, _)) = pattern.split_once(LEAF_PLACEHOLDER) else { return true };
            let times = pattern.matches(LEAF_PLACEHOLDER).count();
            let fixed = pattern.len().saturating_sub(times.saturating_mul(LEAF_PLACEHOLDER.len()));
            // As long as it must be for the level to have its length.
            let Some(length) = level.len().saturating_sub(fixed).checked_div(times) else { return false };
            let Some(name) = level.get(before.len()..before.len().saturating_add(length)) else {
                return false;
            };
            *leaf.get_or_insert(name) == name
                && pattern.replace(LEAF_PLACEHOLDER, name) == level
                && LeafName::parse(name).is_ok()
        })
    }
}

const LEAF_PLACEHOLDER: &str = "{leaf}";

/// A certificate with its issuers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// DER, the leaf first, then its issuers without the root.
    pub chain: Vec<Bytes>,
    /// The root, DER.
    pub root: Bytes,
}

/// 32 bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct StorageKey(Vec<u8>);

impl StorageKey {
    /// A key of 256 bits.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(bytes.to_vec())
    }
    /// The key, for the one cipher that uses it.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StorageKey(..)")
    }
}

/// A quote in the files that `tpm2_checkquote` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedQuote {
    /// TPMS_ATTEST.
    pub message: Bytes,
    /// TPMT_SIGNATURE.
    pub signature: Bytes,
    /// PEM, SubjectPublicKeyInfo.
    pub ak_public: String,
    /// Index and SHA-256 value, ascending.
    pub pcrs: Vec<(u8, Bytes)>,
    pub event_log: Bytes,
    /// The PCR of the runtime log, and the log as it was when the quote was made (`edgewarden_evidence::runtime_log`).
    #[serde(default)]
    pub runtime_pcr: Option<u8>,
    #[serde(default)]
    pub runtime_log: Bytes,
}

/// The gateway CA's key, which signs the heads of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditKey {
    /// P-256, uncompressed point.
    pub point: Bytes,
    /// Its certificate, DER, once the gateway has joined.
    pub certificate: Option<Bytes>,
}

/// One entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditEntry {
    pub sequence: u64,
    pub at: UnixTime,
    /// Kind of the event, such as `svid.issued`, `image.permitted`, `refused`.
    pub event: String,
    pub subject: String,
    pub detail: String,
    /// SHA-256 over the previous entry's hash and this entry, hexadecimal.
    pub hash: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::{Ask, NoAnswer, answer};
    use crate::est::questions as est;
    use edgewarden_names::Reason;
    use serde_json::json;

    fn domain() -> TrustDomain {
        TrustDomain::parse("other.example").unwrap()
    }

    fn digest() -> Digest {
        Digest::from_sha256(&[0xaa; 32])
    }

    /// Programs of two versions meet on the socket while one is replaced by the other.
    #[test]
    fn each_kind_of_question_has_its_form_on_the_wire() {
        let endpoint = digest();
        let name = endpoint.to_string();
        let handshake = est::Handshake { transcript_hash: vec![7; 3].into() }.into_request();
        let refusal = Refusal::new(Reason::Busy, "x", "y");
        for (request, wire) in [
            (questions::Status.into_request(), json!("status")),
            (questions::TimeAccept.into(), json!("time-accept")),
            (questions::DeploymentAccept(vec![1, 2, 3].into()).into(), json!({"deployment-accept": "AQID"})),
            (questions::Watch { seen: 7 }.into(), json!({"watch": {"seen": 7}})),
            (questions::Rotate { module: None }.into(), json!({"rotate": {"module": null}})),
            (
                questions::SecretsRelease { instance: "alerts-1".into(), have: None }.into(),
                json!({"secrets-release": {"instance": "alerts-1", "have": null}}),
            ),
            (
                questions::EpochEnforced { enforcer: Enforcer::Gatewayd, epoch: Epoch(3) }.into(),
                json!({"epoch-enforced": {"enforcer": "gatewayd", "epoch": 3}}),
            ),
            (questions::Est(Box::new(est::State.into())).into(), json!({"est": "state"})),
            (
                questions::Est(Box::new(handshake)).into(),
                json!({"est": {"handshake": {"transcript_hash": "BwcH"}}}),
            ),
            (questions::FederationList.into(), json!("federation-list")),
            (
                questions::FederationFetched {
                    trust_domain: domain(),
                    endpoint: digest(),
                    bundle: vec![1, 2, 3].into(),
                }
                .into(),
                json!({"federation-fetched": {"trust_domain": "other.example", "endpoint": name, "bundle": "AQID"}}),
            ),
            (
                questions::FederationFailed { trust_domain: domain(), endpoint, refusal: refusal.clone() }
                    .into(),
                json!({"federation-failed": {"trust_domain": "other.example", "endpoint": name, "refusal": refusal}}),
            ),
        ] {
            assert_eq!(serde_json::to_value(&request).unwrap(), wire);
            assert_eq!(serde_json::from_value::<Request>(wire).unwrap(), request);
        }
        for (reply, wire) in [
            (Reply::Done, json!("done")),
            (Reply::JwtKeys(JwtStatement(None)), json!({"jwt-keys": null})),
            (Reply::JwtKeys(JwtStatement(Some(vec![1, 2, 3].into()))), json!({"jwt-keys": "AQID"})),
            (
                Reply::LeafToken(LeafAllowed { token: "abc".into(), expires: UnixTime(9) }),
                json!({"leaf-token": {"token": "abc", "expires": 9}}),
            ),
        ] {
            assert_eq!(serde_json::to_value(&reply).unwrap(), wire);
            assert_eq!(serde_json::from_value::<Reply>(wire).unwrap(), reply);
        }
        for unknown in [
            json!("state"),
            json!({"watch": {"seen": 7, "for": "ever"}}),
            json!({"status": {}, "watch": {"seen": 7}}),
            json!({"federation-list": {"all": true}}),
        ] {
            assert!(serde_json::from_value::<Request>(unknown.clone()).is_err(), "{unknown}");
        }
    }

    #[test]
    fn an_answer_is_that_of_its_question_or_none() {
        let kind = |none: NoAnswer<Refusal>| match none {
            NoAnswer::Other(kind) => Some(kind),
            NoAnswer::Refused(_) => None,
        };
        let key = || Reply::StorageKey(StorageKey::new(&[1; 32]));
        assert_eq!(answer::<questions::StorageKey>(key()).unwrap(), StorageKey::new(&[1; 32]));
        assert_eq!(answer::<questions::RecordKey>(key()).unwrap(), StorageKey::new(&[1; 32]));
        assert_eq!(answer::<questions::StorageKey>(Reply::Done).err().and_then(kind), Some("Done"));
        assert_eq!(answer::<questions::TimeAccept>(key()).err().and_then(kind), Some("StorageKey"));
        assert_eq!(answer::<questions::KeysList>(Reply::Audit(vec![])).err().and_then(kind), Some("Audit"));
        // None, where a question may have that answer.
        assert!(answer::<questions::Deployment>(Reply::Done).unwrap().is_none());
        let release = answer::<questions::SecretsRelease>;
        assert!(release(Reply::Done).unwrap().is_none());
        assert_eq!(release(Reply::Secrets(vec![])).err().and_then(kind), Some("Secrets"));
        let refusal = Refusal::new(Reason::Busy, "identityd", "it is stopping");
        for refused in [
            answer::<questions::TimeAccept>(Reply::Refused(refusal.clone())).err(),
            answer::<questions::StorageKey>(Reply::Refused(refusal.clone())).err(),
            answer::<questions::Deployment>(Reply::Refused(refusal.clone())).err(),
        ] {
            assert!(matches!(refused, Some(NoAnswer::Refused(why)) if why == refusal));
        }
    }
}
