//! The gateway's JWT keys on their way to the fleet, for the trust domain's bundle. `identityd` states them under the
//! gateway CA's key; what is carried here cannot be changed on the way.

use edgewarden_names::ErrorChain;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::{JwtStatement, questions};
use edgewarden_protocol::uplink::JwtKeysUpload;
use edgewarden_transport::http::Client as Http;

use crate::identity::Client;

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// The JWT keys as the fleet was told them last.
#[derive(Debug, Default)]
pub struct JwtKeys {
    told: Option<Bytes>,
}

impl JwtKeys {
    /// Tells the fleet what it has not heard. That this fails is no reason to do nothing else: it is tried again with the
    /// next request.
    pub async fn tell(&mut self, identityd: &Client, http: &Http) {
        let stated = match identityd.call(questions::JwtKeys).await {
            Ok(JwtStatement(Some(envelope))) => envelope,
            Ok(JwtStatement(None)) => return,
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "there is no statement of JWT keys now");
                return;
            }
        };
        if self.told.as_ref() == Some(&stated) {
            return;
        }
        let upload = JwtKeysUpload { envelope: stated.clone() };
        let told: Result<(), _> =
            http.post_json("/v1/gateway/jwt-keys", &upload, REPLY_BYTES_MAX, DEADLINE).await;
        match told {
            Ok(()) => self.told = Some(stated),
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "the fleet did not take the JWT keys");
            }
        }
    }
}
