//! The deployment in force, and the rules by which another may follow it.
//!
//! Trusts the pinned operator keys; distrusts whoever carries the envelope. The envelope, the highest version ever
//! accepted and the policy epoch are one document on disk: no crash can separate a version from what it stands for.
//! A deployment that is refused changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use edgewarden_image_trust::{check_key, fingerprint};
use edgewarden_names::{Digest, Epoch, GatewayName, ModuleName, Reason, Refusal, TrustDomain};
use edgewarden_policy::{compile, federation};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::DeploymentInForce;
use edgewarden_protocol::deployment::{Deployment, Module, PAYLOAD_TYPE};
use edgewarden_protocol::document::Document;
use edgewarden_protocol::dsse::{self, DsseError, VerifyingKey};
use serde::{Deserialize, Serialize};

/// The envelope in force, the highest version ever accepted, and the policy epoch (`deployment.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployments {
    /// The highest version ever accepted. Never falls.
    pub highest: u64,
    /// The epoch of the latest accepted deployment. Never falls.
    pub epoch: Epoch,
    /// The latest accepted envelope.
    pub envelope: Option<Bytes>,
    /// Modules as they were before an update that has not proven itself. At most one for each module of the deployment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fallbacks: BTreeMap<ModuleName, Module>,
}

impl Default for Deployments {
    fn default() -> Self {
        Self { highest: 0, epoch: Epoch(0), envelope: None, fallbacks: BTreeMap::new() }
    }
}

impl Document for Deployments {
    const FILE: &'static str = "deployment.json";
}

/// Name, labels and operators of this gateway: what a deployment must be for.
#[derive(Debug, Clone)]
pub struct Target {
    pub gateway: GatewayName,
    pub trust_domain: TrustDomain,
    pub labels: BTreeMap<String, String>,
    pub operators: Vec<VerifyingKey>,
}

/// A deployment that was verified, fits this gateway and compiles. Only the judgement here makes one.
#[derive(Debug, Clone)]
pub struct InForce {
    deployment: Deployment,
    raw: Bytes,
    envelope: Digest,
    signed_by: String,
    /// The policy, compiled, as JSON: for the enforcers.
    compiled: Bytes,
    epoch: Epoch,
    /// Fingerprints of the image keys.
    image_keys: Vec<Digest>,
}

impl InForce {
    /// Is one of these keys among the image keys?
    pub fn vouches(&self, vouchers: &[Digest]) -> bool {
        vouchers.iter().any(|voucher| self.image_keys.contains(voucher))
    }
    /// The deployment itself.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }
    /// The compiled policy (`edgewarden_policy::CompiledEpoch`), JSON.
    pub fn compiled(&self) -> &Bytes {
        &self.compiled
    }
    /// Number of its policy.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
    /// The reply about it, with the fallbacks of `kept`.
    pub fn to_reply(&self, kept: &Deployments) -> DeploymentInForce {
        DeploymentInForce {
            deployment: self.deployment.clone(),
            envelope: self.envelope.clone(),
            signed_by: self.signed_by.clone(),
            epoch: self.epoch,
            fallbacks: kept.fallbacks.values().cloned().collect(),
        }
    }
}

/// SHA-256 of an envelope's bytes.
pub fn envelope_digest(envelope: &[u8]) -> Digest {
    Digest::of(envelope)
}

/// A deployment whose origin and address were checked, without its policy and its version.
fn open(envelope: &Bytes, target: &Target) -> Result<(Deployment, String), Refusal> {
    let verified = dsse::verify(envelope.as_slice(), PAYLOAD_TYPE, &target.operators).map_err(|error| {
        let reason = match error {
            DsseError::NotSigned | DsseError::Signatures(_) => Reason::DeploymentSignature,
            DsseError::Malformed(_) | DsseError::PayloadType(_) => Reason::DeploymentInvalid,
        };
        Refusal::new(reason, "deployment", error)
    })?;
    let deployment = Deployment::parse(verified.payload())?;
    let refuse = |rule: String| Err(Refusal::new(Reason::DeploymentTarget, &deployment.name, rule));
    if deployment.trust_domain != target.trust_domain {
        return refuse(format!("it is for trust domain `{}`", deployment.trust_domain));
    }
    for (label, value) in &deployment.selector {
        if target.labels.get(label) != Some(value) {
            return refuse(format!("this gateway does not have the label `{label}` = `{value}`"));
        }
    }
    // A key that cannot be used would refuse every image later, when the good document before it is gone.
    for key in &deployment.image_keys {
        check_key(key)?;
    }
    federation::check(&deployment)?;
    Ok((deployment, verified.key_name().to_owned()))
}

fn compiled(
    deployment: Deployment,
    signed_by: String,
    raw: Bytes,
    target: &Target,
    epoch: Epoch,
) -> Result<InForce, Refusal> {
    let compiled = compile(&deployment, &target.gateway, epoch)?;
    let compiled = serde_json::to_vec(&compiled)
        .map_err(|error| Refusal::new(Reason::Internal, &deployment.name, error))?
        .into();
    let envelope = envelope_digest(raw.as_slice());
    let image_keys = deployment.image_keys.iter().map(fingerprint).collect::<Result<_, _>>()?;
    Ok(InForce { deployment, raw, envelope, signed_by, compiled, epoch, image_keys })
}

impl Deployments {
    /// Judges an envelope that arrives. `None`: it is the one in force already. Takes as long as the policy takes to
    /// compile, and changes nothing.
    pub fn judge(
        &self,
        envelope: &Bytes,
        in_force: Option<&Arc<InForce>>,
        target: &Target,
    ) -> Result<Option<InForce>, Refusal> {
        if in_force.is_some_and(|now| now.envelope == envelope_digest(envelope.as_slice())) {
            return Ok(None);
        }
        let (deployment, signed_by) = open(envelope, target)?;
        self.above(&deployment)?;
        let epoch = Epoch(self.epoch.0.saturating_add(1));
        compiled(deployment, signed_by, envelope.clone(), target, epoch).map(Some)
    }

    fn above(&self, deployment: &Deployment) -> Result<(), Refusal> {
        if deployment.version > self.highest {
            return Ok(());
        }
        let rule =
            format!("version {} is not above {}, the highest so far", deployment.version, self.highest);
        Err(Refusal::new(Reason::DeploymentRollback, &deployment.name, rule))
    }

    /// The document after a judged deployment takes force in the place of `before`.
    pub fn put(&self, judged: &InForce, before: Option<&Arc<InForce>>) -> Result<Self, Refusal> {
        self.above(&judged.deployment)?;
        if judged.epoch <= self.epoch {
            let rule = "another deployment took force meanwhile";
            return Err(Refusal::new(Reason::Busy, &judged.deployment.name, rule));
        }
        let before = before.map(|before| before.deployment.modules.as_slice()).unwrap_or_default();
        Ok(Self {
            highest: judged.deployment.version,
            epoch: judged.epoch,
            envelope: Some(judged.raw.clone()),
            fallbacks: self.fallbacks_after(before, &judged.deployment.modules),
        })
    }

    /// A module that changes falls back to what it was; when that had not proven itself either, to what was before it.
    fn fallbacks_after(&self, before: &[Module], after: &[Module]) -> BTreeMap<ModuleName, Module> {
        let old = |name: &ModuleName| {
            self.fallbacks.get(name).or_else(|| before.iter().find(|module| module.name == *name))
        };
        let changed = |module: &Module| old(&module.name).filter(|old| *old != module).cloned();
        after.iter().filter_map(|module| Some((module.name.clone(), changed(module)?))).collect()
    }

    /// The module as it was before its update, while that has not proven itself.
    pub fn fallback(&self, module: &ModuleName) -> Option<&Module> {
        self.fallbacks.get(module)
    }

    /// Without the fallback of a module whose update has proven itself.
    #[must_use]
    pub fn without_fallback(&self, module: &ModuleName) -> Self {
        let mut next = self.clone();
        next.fallbacks.remove(module);
        next
    }

    /// Judges the kept envelope at start. A key that is no longer pinned or a label that is no longer there takes the
    /// deployment out of force; the counters stay.
    pub fn recover(&self, target: &Target) -> Result<Option<InForce>, Refusal> {
        let Some(envelope) = &self.envelope else { return Ok(None) };
        let (deployment, signed_by) = open(envelope, target)?;
        compiled(deployment, signed_by, envelope.clone(), target, self.epoch).map(Some)
    }
}
