//! The first half: the device's public keys are checked and challenged.

use edgewarden_names::{Digest, Reason, Refusal, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::enrol::{Credential, DeviceKeys};
use serde::{Deserialize, Serialize};

use crate::VendorRoots;

/// What the device is sent: all of [`edgewarden_protocol::enrol::Challenge`] but the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeParts {
    pub nonce: Bytes,
    pub pcrs: Vec<u8>,
    pub credential: Option<Credential>,
}

/// What the verifier remembers until the answer comes. Kept by the fleet, shown to nobody, used once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    pub(crate) device: Digest,
    pub(crate) nonce: Bytes,
    pub(crate) issued: UnixTime,
}

impl Pending {
    /// Which device this is: the SHA-256 of the EK's Name, or of the software device key.
    /// A gateway name is bound to it for good.
    pub fn device(&self) -> &Digest {
        &self.device
    }

    /// `tpm` with the manufacturer, or `none`.
    pub fn hardware(&self) -> &str {
        "none"
    }

    pub fn issued(&self) -> UnixTime {
        self.issued
    }
}

/// Checks the public keys (EK certificate chain to `roots`, attributes) and makes the challenge.
pub fn challenge(
    _keys: &DeviceKeys,
    _roots: &VendorRoots,
    _now: UnixTime,
) -> Result<(ChallengeParts, Pending), Refusal> {
    Err(Refusal::new(Reason::AttestEkUntrusted, "gateway", "not yet"))
}
