//! The table of questions with their answers, and who may ask which.

use std::net::Ipv4Addr;

use edgewarden_names::{Digest, Epoch, KeyName, LeafName, ModuleName, Refusal, TrustDomain, UnixTime};

use super::audit::{AuditEntry, AuditKey};
use super::deployment::DeploymentInForce;
use super::image::ImageEvidence;
use super::keys::{JwtStatement, KeystoreHealth, ResidentKey, StorageKey};
use super::leaf::{Certificate, LeafAllowed};
use super::origin::{Enforcer, Origin};
use super::quote::ExportedQuote;
use super::snapshot::Snapshot;
use super::starts::{Prepared, StartPermit};
use super::status::Status;
use crate::Bytes;
use crate::ask::{replies, requests};
use crate::enrol::{Challenge, DeviceKeys, Enrolled, Proof};
use crate::est::{EstReply, EstRequest};
use crate::federation::Federated;
use crate::secret::{AgreementKey, SecretFiles, SecretStatus};
use crate::token::LeafToken;

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
