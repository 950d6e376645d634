use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::control::ImageEvidence;
use edgewarden_protocol::deployment::ImageKey;

use crate::proof::ImageProof;

/// Judges one image. No signature of a pinned key over exactly this image: refused.
pub fn judge(evidence: &ImageEvidence, _keys: &[ImageKey]) -> Result<ImageProof, Refusal> {
    Err(Refusal::new(Reason::ImageUnsigned, &evidence.image, "the image has no signature"))
}
