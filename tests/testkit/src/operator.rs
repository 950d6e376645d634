//! An operator, who signs deployments.

use edgewarden_ca::spki;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::deployment::PAYLOAD_TYPE;
use edgewarden_protocol::dsse::{Envelope, Signature, pre_authentication_encoding};
use serde_json::Value;

use crate::Key;

/// An operator and the key that they sign with.
#[derive(Debug)]
pub struct Operator(Key);

impl Operator {
    /// An operator with a new key.
    #[expect(clippy::new_without_default, reason = "each has a key of its own")]
    pub fn new() -> Self {
        Self(Key::generate())
    }

    /// The public key: an uncompressed SEC1 point.
    pub fn point(&self) -> Vec<u8> {
        self.0.point()
    }

    /// The public key: PEM, SubjectPublicKeyInfo.
    pub fn public_pem(&self) -> String {
        spki::to_pem(&self.point()).unwrap()
    }

    /// A DSSE envelope around a deployment.
    pub fn sign(&self, document: &Value) -> Bytes {
        self.sign_as(PAYLOAD_TYPE, document.to_string().as_bytes())
    }

    /// A DSSE envelope, as JSON, around any payload.
    pub fn sign_as(&self, payload_type: &str, payload: &[u8]) -> Bytes {
        let sig = self.0.signature(&pre_authentication_encoding(payload_type, payload)).into();
        let signatures = vec![Signature { keyid: "operator".into(), sig }];
        let envelope = Envelope { payload_type: payload_type.into(), payload: payload.into(), signatures };
        serde_json::to_vec(&envelope).unwrap().into()
    }
}
