//! Messages that hold private keys, tokens or secrets, without them in `Debug`.

use std::fmt;

use crate::secrets_v1::{Secret, WatchResponse};
use crate::workloadapi::{Jwtsvid, ValidateJwtsvidRequest, X509svid};

impl fmt::Debug for X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJwtsvidRequest").field("audience", &self.audience).finish_non_exhaustive()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WatchResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchResponse").field("secrets", &self.secrets).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloadapi::{JwtsvidResponse, X509svidResponse};

    #[test]
    fn no_message_with_a_key_or_a_token_shows_it() {
        let key = X509svid { x509_svid_key: b"5ec2e7".to_vec().into(), ..X509svid::default() };
        let keys = X509svidResponse { svids: vec![key], ..X509svidResponse::default() };
        let token = Jwtsvid { svid: "5ec2e7".into(), ..Jwtsvid::default() };
        let asked = ValidateJwtsvidRequest { svid: "5ec2e7".into(), ..ValidateJwtsvidRequest::default() };
        let tokens = JwtsvidResponse { svids: vec![token] };
        for shown in [format!("{keys:?}"), format!("{tokens:?}"), format!("{asked:?}")] {
            assert!(!shown.contains("5ec2"), "{shown}");
        }
    }
}
