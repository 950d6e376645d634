//! Signatures in cosign's keyed layout: a manifest whose layers are payloads, each with its signature in an annotation.
//! <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>
//!
//! The order is the point: hash, decode, verify, and only then parse the payload.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgewarden_names::{Digest, Reason};
use edgewarden_protocol::control::SignatureEvidence;
use edgewarden_protocol::deployment::ImageReference;
use serde::{Deserialize, Serialize};

use crate::key::PinnedKey;
use crate::limits::{SIGNATURE_BYTES_MAX, SIGNATURES_MAX};
use crate::shown;

pub(crate) const PAYLOAD_MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub(crate) const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
pub(crate) const PAYLOAD_TYPE: &str = "cosign container image signature";
pub(crate) const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SignatureManifest {
    pub(crate) schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The payload that is signed ("simple signing"). Every field must be understood.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payload {
    pub(crate) critical: Critical,
    /// The signer's annotations. Nothing here depends on them.
    pub(crate) optional: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Critical {
    pub(crate) identity: Identity,
    pub(crate) image: Image,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    #[serde(rename = "docker-reference")]
    pub(crate) docker_reference: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Image {
    #[serde(rename = "docker-manifest-digest")]
    pub(crate) docker_manifest_digest: String,
}

/// Nearness of a candidate to being a signature of this image. The nearest one gives the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nearness {
    Nothing,
    MalformedManifest,
    NoPayload,
    NotVerified,
    MalformedPayload,
    OtherDigest,
    OtherRepository,
}

impl Nearness {
    fn reason(self) -> Reason {
        match self {
            Self::Nothing => Reason::ImageUnsigned,
            Self::NoPayload => Reason::ImageContent,
            Self::NotVerified => Reason::ImageSignature,
            Self::MalformedManifest | Self::MalformedPayload => Reason::ImageInvalid,
            Self::OtherDigest => Reason::ImageDigestMismatch,
            Self::OtherRepository => Reason::ImageRepositoryMismatch,
        }
    }
}

pub(crate) type Miss = (Nearness, String);

/// The keys that signed this image in this repository, each once, in the order of their signatures. Never none.
pub(crate) fn find_signers<'k, 'a>(
    image: &ImageReference,
    signatures: &[SignatureEvidence],
    keys: &'k [PinnedKey<'a>],
) -> Result<Vec<&'k PinnedKey<'a>>, (Reason, String)> {
    let mut signers: Vec<&PinnedKey<'a>> = Vec::new();
    let mut nearest: Miss = (Nearness::Nothing, "it has no signature".into());
    let mut candidates = 0;
    for evidence in signatures {
        let manifest: SignatureManifest = match parse_manifest(evidence.manifest.as_slice()) {
            Ok(manifest) => manifest,
            Err(miss) => {
                nearest = nearer(nearest, miss);
                continue;
            }
        };
        let payloads: HashMap<Digest, &[u8]> = evidence
            .payloads
            .iter()
            .map(|payload| (Digest::of(payload.as_slice()), payload.as_slice()))
            .collect();
        for layer in manifest.layers.iter().filter(|layer| layer.media_type == PAYLOAD_MEDIA_TYPE) {
            candidates += 1;
            if candidates > SIGNATURES_MAX && !signers.is_empty() {
                return Ok(signers);
            }
            if candidates > SIGNATURES_MAX {
                return Err((Reason::ImageTooLarge, format!("it has more than {SIGNATURES_MAX} signatures")));
            }
            match judge_candidate(image, layer, &payloads, keys) {
                Ok(key) if signers.iter().any(|known| known.fingerprint == key.fingerprint) => {}
                Ok(key) => signers.push(key),
                Err(miss) => nearest = nearer(nearest, miss),
            }
        }
    }
    if !signers.is_empty() {
        return Ok(signers);
    }
    let (nearness, rule) = nearest;
    Err((nearness.reason(), rule))
}

fn nearer(one: Miss, other: Miss) -> Miss {
    if other.0 > one.0 { other } else { one }
}

pub(crate) fn parse_manifest(bytes: &[u8]) -> Result<SignatureManifest, Miss> {
    let miss = |rule: String| (Nearness::MalformedManifest, format!("a signature's manifest {rule}"));
    let manifest: SignatureManifest =
        crate::json::parse(bytes).map_err(|error| miss(format!("is malformed: {error}")))?;
    if manifest.schema_version != 2 {
        return Err(miss("is not of schema version 2".into()));
    }
    if manifest.media_type.as_ref().is_some_and(|kind| kind != MANIFEST_MEDIA_TYPE) {
        return Err(miss("is not an OCI image manifest".into()));
    }
    Ok(manifest)
}

fn judge_candidate<'k, 'a>(
    image: &ImageReference,
    layer: &Descriptor,
    payloads: &HashMap<Digest, &[u8]>,
    keys: &'k [PinnedKey<'a>],
) -> Result<&'k PinnedKey<'a>, Miss> {
    let payload = payloads
        .get(&layer.digest)
        .copied()
        .filter(|payload| payload.len() as u64 == layer.size)
        .ok_or_else(|| {
        (Nearness::NoPayload, format!("the signed payload {} is not there", layer.digest))
    })?;
    let not_verified = |rule: &str| (Nearness::NotVerified, rule.to_owned());
    let text = layer
        .annotations
        .get(SIGNATURE_ANNOTATION)
        .filter(|text| !text.is_empty() && text.len() <= SIGNATURE_BYTES_MAX)
        .ok_or_else(|| not_verified("a signature is missing, empty or too long"))?;
    let signature = STANDARD.decode(text).map_err(|_| not_verified("a signature is not base64"))?;
    let key = keys
        .iter()
        .find(|key| key.verifies(payload, &signature))
        .ok_or_else(|| not_verified("none of the deployment's image keys made a signature of it"))?;
    check_payload(image, payload)?;
    Ok(key)
}

/// Called with a payload that a pinned key signed: what does it say?
fn check_payload(image: &ImageReference, payload: &[u8]) -> Result<(), Miss> {
    let malformed = |rule: String| (Nearness::MalformedPayload, rule);
    let payload: Payload = crate::json::parse(payload)
        .map_err(|error| malformed(format!("the signed payload is malformed: {error}")))?;
    let critical = payload.critical;
    if critical.kind != PAYLOAD_TYPE {
        return Err(malformed(format!("the signed payload is a `{}`", shown(&critical.kind))));
    }
    let signed = &critical.image.docker_manifest_digest;
    if signed != image.digest().as_str() {
        return Err((Nearness::OtherDigest, format!("the signature is for `{}`", shown(signed))));
    }
    let reference = &critical.identity.docker_reference;
    let (name, digest) = split_reference(reference);
    if digest.is_some_and(|digest| digest != image.digest().as_str()) {
        return Err((Nearness::OtherDigest, format!("the signature is for `{}`", shown(reference))));
    }
    if docker_hub(name) != docker_hub(&image.name()) {
        return Err((Nearness::OtherRepository, format!("the signature is for `{}`", shown(reference))));
    }
    Ok(())
}

/// `name[:tag][@digest]` → name and digest. The tag is for people.
fn split_reference(reference: &str) -> (&str, Option<&str>) {
    let (name, digest) =
        reference.split_once('@').map_or((reference, None), |(name, digest)| (name, Some(digest)));
    // A colon before the last slash belongs to the registry's port.
    let name = match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') && before.contains('/') => before,
        _ => name,
    };
    (name, digest)
}

/// cosign writes Docker Hub as `index.docker.io`; people write `docker.io`.
fn docker_hub(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", repository)) => ("docker.io", repository),
        Some(parts) => parts,
        None => ("", name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_split() {
        for (reference, name, digest) in [
            ("reg:5000/a/b", "reg:5000/a/b", None),
            ("reg:5000/a/b:1", "reg:5000/a/b", None),
            ("reg:5000/a/b@sha256:00", "reg:5000/a/b", Some("sha256:00")),
            ("reg/a:1@sha256:00", "reg/a", Some("sha256:00")),
            ("reg:5000", "reg:5000", None),
            ("", "", None),
        ] {
            assert_eq!(split_reference(reference), (name, digest), "{reference}");
        }
        assert_eq!(docker_hub("index.docker.io/library/x"), docker_hub("docker.io/library/x"));
        assert_ne!(docker_hub("a/x"), docker_hub("b/x"));
    }
}
