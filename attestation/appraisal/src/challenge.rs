//! The first half: the device's public keys are checked and challenged.

use edgewarden_evidence::HashAlg;
use edgewarden_evidence::tpm::{Attributes, Key, Public, Scheme, Symmetric};
use edgewarden_names::{Digest, Reason, Refusal, UnixTime, sha256};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::enrol::{Check, Credential, DeviceKeys};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::VendorRoots;
use crate::checks::Checks;
use crate::credential::make_credential;
use crate::crypto::{is_p256_point, p256_point};
use crate::ek::Endorsement;
use crate::vendor::certificate::Certificate;

/// The PCRs that are quoted. Their whole history is in the firmware's log; 10 (IMA), 11 and 13 (what systemd extends
/// after the boot), 15 and above are not.
pub const BOOT_PCRS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14];

const CERTIFICATES_MAX: usize = 8;
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
const NONCE_BYTES: usize = 32;

/// The attestation key: it signs only what its TPM made itself (restricted), it never leaves the TPM (fixedTPM,
/// fixedParent, sensitiveDataOrigin), and power cuts cannot lock it (noDA).
pub const AK_ATTRIBUTES: Attributes = Attributes(
    Attributes::FIXED_TPM
        | Attributes::FIXED_PARENT
        | Attributes::SENSITIVE_DATA_ORIGIN
        | Attributes::USER_WITH_AUTH
        | Attributes::NO_DA
        | Attributes::RESTRICTED
        | Attributes::SIGN,
);

/// Challenge as the device is sent it: all of [`edgewarden_protocol::enrol::Challenge`] but the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeParts {
    pub nonce: Bytes,
    pub pcrs: Vec<u8>,
    /// For a TPM.
    pub credential: Option<Credential>,
}

/// The verifier's memory of a challenge until the answer comes. Kept by the fleet, shown to nobody, used once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    pub(crate) device: Digest,
    pub(crate) hardware: String,
    pub(crate) nonce: Bytes,
    pub(crate) pcrs: Vec<u8>,
    pub(crate) issued: UnixTime,
    pub(crate) keys: PendingKeys,
    pub(crate) checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "hardware", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum PendingKeys {
    Tpm {
        /// TPMT_PUBLIC, checked.
        ak_public: Bytes,
        /// SHA-256 of the secret: what is stored does not answer the challenge.
        secret_hash: Digest,
    },
    None {
        /// An uncompressed point, checked.
        device_public: Bytes,
    },
}

impl Pending {
    /// Identity of the device: the SHA-256 of the certified EK's SubjectPublicKeyInfo, or of the software device key's
    /// point. A gateway name is bound to it for good.
    pub fn device(&self) -> &Digest {
        &self.device
    }

    /// `tpm` with the manufacturer, or `none`.
    pub fn hardware(&self) -> &str {
        &self.hardware
    }

    /// Time of the challenge.
    pub fn issued(&self) -> UnixTime {
        self.issued
    }
}

/// Checks the public keys and makes the challenge.
pub fn challenge(
    keys: &DeviceKeys,
    roots: &VendorRoots,
    now: UnixTime,
) -> Result<(ChallengeParts, Pending), Refusal> {
    let mut nonce = vec![0; NONCE_BYTES];
    random(&mut nonce)?;
    let nonce = Bytes(nonce);
    let mut checks = Checks::default();
    match keys {
        DeviceKeys::Tpm { ek_certificates, ek_public, ak_public } => {
            let (ek, certificate) = check_ek(ek_certificates, ek_public.as_slice(), roots, now)?;
            checks.passed("EK certificate", format!("chains to a trusted TPM vendor; {}", certificate.maker));
            checks.passed("EK", "is the certified key, made from a TCG template");
            let ak = check_ak(ak_public.as_slice())?;
            checks.passed("AK attributes", AK_ATTRIBUTES.to_string());
            let mut secret = Zeroizing::new([0; NONCE_BYTES]);
            random(secret.as_mut())?;
            let credential = make_credential(&ek, &ak.name(), secret.as_ref())
                .map_err(|error| Refusal::new(Reason::AttestEkInvalid, "EK", error))?;
            let hardware = format!("tpm {}", certificate.maker).trim_end().to_owned();
            let secret_hash = Digest::from_sha256(&sha256(secret.as_ref()));
            let keys = PendingKeys::Tpm { ak_public: ak_public.clone(), secret_hash };
            let pcrs = BOOT_PCRS.to_vec();
            let parts =
                ChallengeParts { nonce: nonce.clone(), pcrs: pcrs.clone(), credential: Some(credential) };
            let device = certificate.device;
            Ok((
                parts,
                Pending { device, hardware, nonce, pcrs, issued: now, keys, checks: checks.into_list() },
            ))
        }
        DeviceKeys::None { device_public } => {
            if !is_p256_point(device_public.as_slice()) {
                let rule = "it is no uncompressed point on P-256";
                return Err(Refusal::new(Reason::RequestInvalid, "device key", rule));
            }
            checks.passed(
                "hardware",
                "none: nothing proves where the device key is, or that it cannot be copied",
            );
            let parts = ChallengeParts { nonce: nonce.clone(), pcrs: Vec::new(), credential: None };
            let pending = Pending {
                device: Digest::from_sha256(&sha256(device_public.as_slice())),
                hardware: "none".to_owned(),
                nonce,
                pcrs: Vec::new(),
                issued: now,
                keys: PendingKeys::None { device_public: device_public.clone() },
                checks: checks.into_list(),
            };
            Ok((parts, pending))
        }
    }
}

fn random(bytes: &mut [u8]) -> Result<(), Refusal> {
    let failed = |_| Refusal::new(Reason::Internal, "challenge", "the random number generator failed");
    aws_lc_rs::rand::fill(bytes).map_err(failed)
}

fn check_ek(
    certificates: &[Bytes],
    public: &[u8],
    roots: &VendorRoots,
    now: UnixTime,
) -> Result<(Public, Endorsement), Refusal> {
    const SUBJECT: &str = "EK certificate";
    let Some((leaf, chain)) = certificates.split_first() else {
        let rule = "the TPM has no certificate of its maker for its endorsement key, so nothing says that it is genuine";
        return Err(Refusal::new(Reason::AttestEkMissing, SUBJECT, rule));
    };
    if certificates.len() > CERTIFICATES_MAX
        || certificates.iter().any(|der| der.0.len() > CERTIFICATE_BYTES_MAX)
    {
        let rule = format!(
            "the TPM sent over {CERTIFICATES_MAX} certificates or {CERTIFICATE_BYTES_MAX} bytes in one"
        );
        return Err(Refusal::new(Reason::AttestEkInvalid, SUBJECT, rule));
    }
    let leaf = Certificate::parse(leaf.as_slice()).map_err(|fault| fault.refusal(SUBJECT))?;
    let endorsement = Endorsement::of(&leaf)?;
    let chain: Vec<&[u8]> = chain.iter().map(Bytes::as_slice).collect();
    roots.verify(&leaf, &chain, now)?;
    let public = Public::parse(public).map_err(|error| Refusal::new(Reason::AttestEkInvalid, "EK", error))?;
    endorsement.check_public(&public)?;
    Ok((public, endorsement))
}

/// An AK with other attributes could sign a forged attestation, so every bit is compared.
fn check_ak(public: &[u8]) -> Result<Public, Refusal> {
    let refuse = |rule: String| Refusal::new(Reason::AttestAkAttributes, "AK", rule);
    let public = Public::parse(public).map_err(|error| refuse(error.to_string()))?;
    if public.attributes != AK_ATTRIBUTES {
        return Err(refuse(format!("its attributes are {}, not {AK_ATTRIBUTES}", public.attributes)));
    }
    let plain = matches!(public.key, Key::Ecc { symmetric: Symmetric::Null, .. });
    // A policy is a second way to use a key, beside its attributes, and would also cover a key that the TPM was only
    // told of (TPM2_LoadExternal), if the TPM lets policies authorize those.
    if !public.auth_policy.is_empty() {
        return Err(refuse("it can be used by a policy".to_owned()));
    }
    if public.name_alg != HashAlg::Sha256
        || !plain
        || p256_point(&public, &[Scheme::Ecdsa(HashAlg::Sha256)]).is_none()
    {
        return Err(refuse("it is no P-256 key for ECDSA with SHA-256, named by SHA-256".to_owned()));
    }
    Ok(public)
}
