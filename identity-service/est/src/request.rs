//! PKCS#10 requests (RFC 2986) signed by a key that may be in any keystore.
//!
//! Written by hand rather than with a builder because a renewal repeats the subject and the alternative names of the
//! certificate it renews byte by byte (RFC 7030 section 4.2.2).

use edgewarden_ca::{CaError, CaSigner, public_point, spki};
use edgewarden_names::{Reason, Refusal};

use crate::chain::{EnrolledChain, Expected};
use crate::der::{BIT_STRING, BOOLEAN, CONTEXT_0, INTEGER, OCTET_STRING, OID, SEQUENCE, SET, element};
use crate::subject::{Profile, Subject};
use crate::{CsrAttributes, EstError};

/// AlgorithmIdentifier of ecdsa-with-SHA256 (RFC 5758 section 3.2).
const ECDSA_WITH_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// id-extensionRequest (RFC 2985 section 5.4.2).
const EXTENSION_REQUEST: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];
const KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x0f];
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];
const EXTENDED_KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x25];
/// OBJECT IDENTIFIERs id-kp-serverAuth and id-kp-clientAuth.
const SERVER_AUTH: [u8; 10] = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: [u8; 10] = [0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// Operation path of the server that a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `simpleenroll`
    Enroll,
    /// `simplereenroll`
    Reenroll,
}

/// A request whose signature is by its own key, and what its answer will be compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRequest {
    pub(crate) operation: Operation,
    pub(crate) der: Vec<u8>,
    pub(crate) point: Vec<u8>,
    pub(crate) alternatives: Vec<u8>,
    pub(crate) profile: Profile,
}

impl SignedRequest {
    /// A request for a first certificate. The key signs nothing when the CA's wishes cannot be met.
    pub fn enroll(subject: &Subject, wishes: &CsrAttributes, key: &dyn CaSigner) -> Result<Self, EstError> {
        Self::sign(Operation::Enroll, subject, wishes, key)
    }

    /// A request to renew a certificate: same names, and either the same key or another (RFC 7030 section 4.2.2).
    pub fn reenroll(
        current: &EnrolledChain,
        wishes: &CsrAttributes,
        key: &dyn CaSigner,
    ) -> Result<Self, EstError> {
        Self::sign(Operation::Reenroll, &current.subject(), wishes, key)
    }

    /// The same, with the names of a certificate that is kept elsewhere ([`EnrolledChain::subject`]).
    pub fn renew(subject: &Subject, wishes: &CsrAttributes, key: &dyn CaSigner) -> Result<Self, EstError> {
        Self::sign(Operation::Reenroll, subject, wishes, key)
    }

    /// A request that was kept: the CA knows it by its bytes. Refused when it is not signed by this key.
    pub fn resume(
        operation: Operation,
        subject: &Subject,
        der: &[u8],
        point: &[u8],
    ) -> Result<Self, EstError> {
        if public_point(der).ok().as_deref() != Some(point) {
            let rule = "the request that was kept is for another key";
            return Err(Refusal::new(Reason::IdentityUnavailable, "request", rule).into());
        }
        let (alternatives, profile) = (subject.alternatives.clone(), subject.profile);
        Ok(Self { operation, der: der.to_vec(), point: point.to_vec(), alternatives, profile })
    }

    fn sign(
        operation: Operation,
        subject: &Subject,
        wishes: &CsrAttributes,
        key: &dyn CaSigner,
    ) -> Result<Self, EstError> {
        wishes.check()?;
        let unusable = |error: CaError| {
            EstError::transient(
                Refusal::new(Reason::IdentityUnavailable, "request", "the key did not sign the request"),
                None,
            )
            .because(error)
        };
        let point = key.public_point().map_err(|error| unusable(CaError::Signer(error)))?;
        let spki = spki::der(&point).map_err(unusable)?;
        let attributes = element(CONTEXT_0, &[&extension_request(subject)]);
        let info = element(SEQUENCE, &[&element(INTEGER, &[&[0]]), &subject.name, &spki, &attributes]);
        let signature = key.sign(&info).map_err(|error| unusable(CaError::Signer(error)))?;
        let der = element(SEQUENCE, &[&info, &ECDSA_WITH_SHA256, &element(BIT_STRING, &[&[0], &signature])]);
        // The second opinion on a key that lives elsewhere: it must have signed as the point that it showed.
        if public_point(&der).map_err(unusable)? != point {
            return Err(unusable(CaError::Key("the request carries another key")));
        }
        let (alternatives, profile) = (subject.alternatives.clone(), subject.profile);
        Ok(Self { operation, der, point, alternatives, profile })
    }

    /// What a certificate must have to be the answer.
    pub(crate) fn expected(&self) -> Expected<'_> {
        Expected { point: &self.point, profile: self.profile, alternatives: &self.alternatives }
    }

    /// PKCS#10, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Operation that the request is for.
    pub fn operation(&self) -> Operation {
        self.operation
    }
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { element(BOOLEAN, &[&[0xff]]) } else { Vec::new() };
    element(SEQUENCE, &[&element(OID, &[oid]), &critical, &element(OCTET_STRING, &[value])])
}

/// The attribute that asks for what the profile needs.
fn extension_request(subject: &Subject) -> Vec<u8> {
    let mut extensions = Vec::new();
    if !subject.alternatives.is_empty() {
        let names = element(SEQUENCE, &[&subject.alternatives]);
        extensions.extend(extension(&SUBJECT_ALT_NAME, false, &names));
    }
    match subject.profile {
        Profile::EndEntity => {
            // digitalSignature
            extensions.extend(extension(&KEY_USAGE, true, &element(BIT_STRING, &[&[7, 0x80]])));
            let usages = element(SEQUENCE, &[&SERVER_AUTH, &CLIENT_AUTH]);
            extensions.extend(extension(&EXTENDED_KEY_USAGE, false, &usages));
        }
        Profile::CertificateAuthority { path_length } => {
            let length = element(INTEGER, &[&[path_length & 0x7f]]);
            let constraints = element(SEQUENCE, &[&element(BOOLEAN, &[&[0xff]]), &length]);
            extensions.extend(extension(&BASIC_CONSTRAINTS, true, &constraints));
            // digitalSignature (to renew itself over TLS), keyCertSign, cRLSign
            extensions.extend(extension(&KEY_USAGE, true, &element(BIT_STRING, &[&[1, 0x86]])));
        }
    }
    let values = element(SET, &[&element(SEQUENCE, &[&extensions])]);
    element(SEQUENCE, &[&element(OID, &[&EXTENSION_REQUEST]), &values])
}
