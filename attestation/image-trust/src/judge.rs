use edgewarden_names::{Architecture, Digest, Processor, Reason, Refusal};
use edgewarden_protocol::control::ImageEvidence;
use edgewarden_protocol::deployment::ImageKey;

use crate::image::{self, refuse};
use crate::key::PinnedKey;
use crate::limits::{
    CONFIG_BYTES_MAX, EVIDENCE_BYTES_MAX, MANIFEST_BYTES_MAX, SIGNATURE_PAYLOAD_BYTES_MAX, SIGNATURES_MAX,
};
use crate::proof::ImageProof;
use crate::signature;

/// Judges one image: its bytes are those that the reference names, one of the pinned keys signed exactly this
/// digest for exactly this repository, and it is an image that this gateway can start.
///
/// Every signature is tried; one suffices, and the proof names all keys that made one. When none does, the refusal tells of the one that came nearest.
pub fn judge(evidence: &ImageEvidence, keys: &[ImageKey]) -> Result<ImageProof, Refusal> {
    judge_on(evidence, keys, Processor::here())
}

/// Judges as [`judge`] does, for a gateway with a processor of `architecture`, of whatever variant.
pub fn judge_for(
    evidence: &ImageEvidence,
    keys: &[ImageKey],
    architecture: Architecture,
) -> Result<ImageProof, Refusal> {
    judge_on(evidence, keys, Processor::best(architecture))
}

fn judge_on(
    evidence: &ImageEvidence,
    keys: &[ImageKey],
    processor: Processor,
) -> Result<ImageProof, Refusal> {
    let image = &evidence.image;
    check_sizes(evidence).map_err(|rule| Refusal::new(Reason::ImageTooLarge, image, rule))?;
    let found = Digest::of(evidence.manifest.as_slice());
    if found != *image.digest() {
        return Err(Refusal::new(Reason::ImageContent, image, format!("the manifest is {found}")));
    }
    let keys = keys.iter().map(PinnedKey::parse).collect::<Result<Vec<_>, _>>()?;
    let signers = signature::find_signers(image, &evidence.signatures, &keys)
        .map_err(|reason| refuse(image, reason))?;
    let key_name = signers.first().map_or_else(String::new, |key| key.name.to_owned());
    let vouchers = signers.iter().map(|key| key.fingerprint.clone()).collect();
    let (config, layers) = image::read(evidence.manifest.as_slice(), evidence.config.as_slice(), processor)
        .map_err(|reason| refuse(image, reason))?;
    Ok(ImageProof {
        module: evidence.module.clone(),
        image: image.clone(),
        config,
        layers,
        key_name,
        vouchers,
    })
}

fn check_sizes(evidence: &ImageEvidence) -> Result<(), String> {
    let within = |what: &str, size: usize, max: usize| {
        if size > max { Err(format!("{what} has {size} bytes, over the limit of {max}")) } else { Ok(()) }
    };
    let mut total = evidence.manifest.0.len().saturating_add(evidence.config.0.len());
    within("the manifest", evidence.manifest.0.len(), MANIFEST_BYTES_MAX)?;
    within("the configuration", evidence.config.0.len(), CONFIG_BYTES_MAX)?;
    let mut payloads = 0;
    for signature in &evidence.signatures {
        within("a signature's manifest", signature.manifest.0.len(), MANIFEST_BYTES_MAX)?;
        total = total.saturating_add(signature.manifest.0.len());
        payloads += signature.payloads.len();
        for payload in &signature.payloads {
            within("a signed payload", payload.0.len(), SIGNATURE_PAYLOAD_BYTES_MAX)?;
            total = total.saturating_add(payload.0.len());
        }
    }
    if evidence.signatures.len() > SIGNATURES_MAX || payloads > SIGNATURES_MAX {
        return Err(format!("it has more than {SIGNATURES_MAX} signatures"));
    }
    within("the evidence", total, EVIDENCE_BYTES_MAX)
}
