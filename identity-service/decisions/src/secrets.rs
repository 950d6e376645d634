//! Secrets that a module may have, and the version of each that counts.
//!
//! Trusts the pinned operator keys; distrusts whoever carries the envelope. What is kept on disk is what was carried:
//! envelopes with sealed values, and one document with the highest version that each name has had. A value is in the
//! clear only in memory, for as long as it takes to hand it on.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use edgewarden_names::{Digest, ModuleName, Reason, Refusal, SecretName};
use edgewarden_protocol::document::Document;
use edgewarden_protocol::dsse::{self, DsseError};
use edgewarden_protocol::secret::{
    Content, ENTRIES_MAX, ENVELOPE_BYTES_MAX, GATEWAY_BYTES_MAX, MODULE_BYTES_MAX, PAYLOAD_TYPE, SECRETS_MAX,
    SecretDocument, SecretStatus, SecretUse,
};
use serde::{Deserialize, Serialize};

use crate::deployments::{Target, envelope_digest};

/// Record of every secret that there has been (`secrets.json`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// Counts what was accepted.
    pub(crate) changes: u64,
    kept: BTreeMap<ModuleName, BTreeMap<SecretName, Kept>>,
}

/// A secret, by its newest version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The highest ever accepted. Never falls.
    pub version: u64,
    signed_by: String,
    /// Absent when this version removed the secret.
    held: Option<HeldValue>,
}

/// Place and size of a secret's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldValue {
    /// Names the envelope.
    pub envelope: Digest,
    /// Bytes of the value.
    bytes: u64,
}

impl Document for Secrets {
    const FILE: &'static str = "secrets.json";

    fn check(&self) -> Result<(), String> {
        let entries = self.kept.values().map(BTreeMap::len).sum::<usize>();
        if entries > ENTRIES_MAX {
            return Err(format!("{entries} secrets are over the limit of {ENTRIES_MAX}"));
        }
        Ok(())
    }
}

/// A document whose origin and address were checked. Only [`open`] makes one.
#[derive(Debug, Clone)]
pub struct Judged {
    document: SecretDocument,
    pub(crate) signed_by: String,
    envelope: Digest,
}

impl Judged {
    pub fn document(&self) -> &SecretDocument {
        &self.document
    }

    /// Names the envelope.
    pub fn envelope(&self) -> &Digest {
        &self.envelope
    }
}

/// Checks origin and address, not the version.
pub fn open(envelope: &[u8], target: &Target) -> Result<Judged, Refusal> {
    if envelope.len() > ENVELOPE_BYTES_MAX {
        let rule = format!("{} bytes are over the limit of {ENVELOPE_BYTES_MAX}", envelope.len());
        return Err(Refusal::new(Reason::SecretLimit, "secret", rule));
    }
    let verified = dsse::verify(envelope, PAYLOAD_TYPE, &target.operators).map_err(|error| {
        let reason = match error {
            DsseError::NotSigned | DsseError::Signatures(_) => Reason::SecretSignature,
            DsseError::Malformed(_) | DsseError::PayloadType(_) => Reason::RequestInvalid,
        };
        Refusal::new(reason, "secret", error)
    })?;
    let document = SecretDocument::parse(verified.payload())?;
    let not_for_us = |rule: String| Err(Refusal::new(Reason::SecretNotForUs, document.subject(), rule));
    if document.trust_domain != target.trust_domain {
        return not_for_us(format!("it is for trust domain `{}`", document.trust_domain));
    }
    if document.gateway != target.gateway {
        return not_for_us(format!("it is for gateway `{}`", document.gateway));
    }
    let (signed_by, envelope) = (verified.key_name().to_owned(), envelope_digest(envelope));
    Ok(Judged { document, signed_by, envelope })
}

impl Secrets {
    fn kept(&self, module: &ModuleName, name: &SecretName) -> Option<&Kept> {
        self.kept.get(module)?.get(name)
    }

    /// A secret that is there.
    pub fn held(&self, module: &ModuleName, name: &SecretName) -> Option<(&Kept, &HeldValue)> {
        let kept = self.kept(module, name)?;
        Some((kept, kept.held.as_ref()?))
    }

    /// The envelopes that count.
    pub fn envelopes(&self) -> impl Iterator<Item = &Digest> {
        self.kept
            .values()
            .flat_map(BTreeMap::values)
            .filter_map(|kept| kept.held.as_ref())
            .map(|held| &held.envelope)
    }

    /// All that there have been.
    pub fn status(&self) -> Vec<SecretStatus> {
        let one = |module: &ModuleName, name: &SecretName, kept: &Kept| SecretStatus {
            module: module.clone(),
            name: name.clone(),
            version: kept.version,
            removed: kept.held.is_none(),
            signed_by: kept.signed_by.clone(),
        };
        let of = |(module, names): (&_, &BTreeMap<_, _>)| {
            names.iter().map(|(name, kept)| one(module, name, kept)).collect::<Vec<_>>()
        };
        self.kept.iter().flat_map(of).collect()
    }

    pub(crate) fn above(&self, document: &SecretDocument) -> Result<(), Refusal> {
        match self.kept(&document.module, &document.name) {
            Some(kept) if document.version <= kept.version => {
                let rule = format!("the version is not above {}, the highest so far", kept.version);
                Err(Refusal::new(Reason::SecretRollback, document.subject(), rule))
            }
            _ => Ok(()),
        }
    }

    /// With what was judged in the place of its earlier version.
    pub(crate) fn with(&self, judged: &Judged) -> Result<Self, Refusal> {
        let Judged { document, signed_by, envelope } = judged;
        self.above(document)?;
        let held = match &document.content {
            Content::Removed => None,
            Content::Sealed(sealed) => Some(HeldValue {
                envelope: envelope.clone(),
                bytes: u64::try_from(sealed.length()).unwrap_or(u64::MAX),
            }),
        };
        let mut next = self.clone();
        next.changes = next.changes.saturating_add(1);
        let kept = Kept { version: document.version, signed_by: signed_by.clone(), held };
        next.kept.entry(document.module.clone()).or_default().insert(document.name.clone(), kept);
        // A removal is never refused for what else there is: it only makes less of it.
        if document.content != Content::Removed {
            next.within_limits(&document.module)
                .map_err(|rule| Refusal::new(Reason::SecretLimit, document.subject(), rule))?;
        } else if self.kept(&document.module, &document.name).is_none() {
            next.check().map_err(|rule| Refusal::new(Reason::SecretLimit, document.subject(), rule))?;
        }
        Ok(next)
    }

    fn within_limits(&self, module: &ModuleName) -> Result<(), String> {
        self.check()?;
        let bytes = |names: &BTreeMap<SecretName, Kept>| {
            names.values().filter_map(|kept| kept.held.as_ref()).map(|held| held.bytes).sum::<u64>()
        };
        let names = self.kept.get(module);
        let count = names.map_or(0, |names| names.values().filter(|kept| kept.held.is_some()).count());
        let of_module = names.map_or(0, bytes);
        let of_all = self.kept.values().map(bytes).sum::<u64>();
        if count > SECRETS_MAX {
            return Err(format!("the module has more than {SECRETS_MAX} secrets"));
        }
        if of_module > MODULE_BYTES_MAX as u64 {
            return Err(format!("the module's secrets are longer than {MODULE_BYTES_MAX} bytes"));
        }
        if of_all > GATEWAY_BYTES_MAX as u64 {
            return Err(format!("the gateway's secrets are longer than {GATEWAY_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    /// Refusal of a secret that is not there.
    pub fn missing(&self, module: &ModuleName, name: &SecretName) -> Refusal {
        let rule = match self.kept(module, name) {
            Some(kept) => format!("the secret `{name}` was removed by version {}", kept.version),
            None => format!("the secret `{name}` has not come to this gateway"),
        };
        Refusal::new(Reason::SecretMissing, module, rule)
    }

    /// Names the versions of what a module uses, with where each lies: 64 hexadecimal digits.
    pub fn revision(&self, module: &ModuleName, uses: &[SecretUse]) -> String {
        let mut text = String::new();
        for secret in uses {
            if let Some((kept, held)) = self.held(module, &secret.name) {
                // No part can hold what stands between them.
                let (version, mode) = (kept.version.to_string(), format!("{:o}", secret.mode));
                let parts = [secret.name.as_str(), &version, held.envelope.as_str(), secret.file(), &mode];
                text.push_str(&parts.join(" "));
                text.push('\n');
            }
        }
        hex::encode(digest(&SHA256, text.as_bytes()))
    }
}
