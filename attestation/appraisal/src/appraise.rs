//! The second half: the answer is judged.

use edgewarden_names::{Digest, Reason, Refusal, UnixTime};
use edgewarden_protocol::enrol::{Proof, Verdict, VerdictState};

use crate::{Pending, ReferenceValues};

/// Proof that a device answered its challenge and is what it should be. Only [`appraise`] makes one.
#[derive(Debug, Clone)]
pub struct Appraised {
    verdict: Verdict,
    ca_public_point: Vec<u8>,
    device: Digest,
}

impl Appraised {
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The proven gateway CA key: P-256, uncompressed point, 65 bytes. The CSR carries the same key.
    pub fn ca_public_point(&self) -> &[u8] {
        &self.ca_public_point
    }

    /// The same value as [`Pending::device`].
    pub fn device(&self) -> &Digest {
        &self.device
    }
}

/// Why the device was not accepted, and the verdict to keep about it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{refusal}")]
pub struct Failure {
    pub refusal: Refusal,
    pub verdict: Verdict,
}

/// Judges the answer to a challenge. The caller spends `pending` whatever the result.
pub fn appraise(
    pending: &Pending,
    _proof: &Proof,
    _references: &[ReferenceValues],
    now: UnixTime,
) -> Result<Appraised, Box<Failure>> {
    Err(Box::new(Failure {
        refusal: Refusal::new(Reason::AttestNonce, "gateway", "not yet"),
        verdict: Verdict {
            state: VerdictState::Failed,
            hardware: pending.hardware().to_owned(),
            reference: None,
            checks: Vec::new(),
            at: now,
            expires: now,
        },
    }))
}
