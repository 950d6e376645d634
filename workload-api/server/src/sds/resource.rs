//! The one resource type, the limits of requests for it, and the values that it is made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use edgewarden_names::{Reason, Refusal, TrustDomain};
use edgewarden_svid::X509Context;
use edgewarden_workload_wire::envoy::google::rpc::Status;

/// Largest request. Envoy names all of its extensions in the first one: 61 KB in version 1.40.
pub const REQUEST_BYTES_MAX: usize = 128 * 1024;
/// Most names that one stream is subscribed to. A module has six, and one for each trust domain it federates with.
pub const NAMES_MAX: usize = 16;
/// Longest name: a SPIFFE ID (SPIFFE ID section 2.3).
pub const NAME_BYTES_MAX: usize = 2048;
/// Most requests on a stream in a row that need no answer. An honest client sends one for each answer.
pub const UNANSWERED_MAX: u32 = 64;

/// The one type of resource here.
pub(super) const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The values that secrets are made of: the module's identity, and the roots of other trust domains.
pub(super) struct Known {
    pub(super) context: Arc<X509Context>,
    pub(super) foreign: Arc<BTreeMap<TrustDomain, Vec<Vec<u8>>>>,
}

/// The type is implied where a service has only one (xDS protocol, "Resource types").
pub(super) fn check_type(type_url: &str) -> Result<(), Refusal> {
    if type_url.is_empty() || type_url == SECRET_TYPE {
        return Ok(());
    }
    Err(Refusal::new(Reason::RequestInvalid, "type_url", "this service has secrets and nothing else"))
}

/// The client could not use what it got (NACK). It says so in its own log; what it says here is its own word.
pub(super) fn note_rejection(detail: Option<&Status>) {
    const SHOWN_CHARACTERS_MAX: usize = 200;
    if let Some(detail) = detail {
        let message: String = detail.message.chars().take(SHOWN_CHARACTERS_MAX).collect();
        tracing::debug!(code = detail.code, message, "a client of secret discovery rejected what it got");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use edgewarden_names::SpiffeId;
    use zeroize::Zeroizing;

    pub(in crate::sds) const FOREIGN: &str = "spiffe://other.example";

    /// An identity, and the roots of these trust domains.
    pub(in crate::sds) fn known(foreign: &[&str]) -> Known {
        let id = SpiffeId::parse("spiffe://plant.example/gateway/gw-1/module/analytics").unwrap();
        let context = X509Context {
            trust_domain: id.trust_domain(),
            id,
            chain_der: vec![b"leaf".to_vec()],
            key_pkcs8: Zeroizing::new(b"key".to_vec()),
            bundle_der: vec![b"own root".to_vec()],
        };
        let domains = foreign.iter().map(|id| SpiffeId::parse(id).unwrap().trust_domain());
        let foreign = domains.map(|domain| (domain.clone(), vec![format!("root of {domain}").into_bytes()]));
        Known { context: Arc::new(context), foreign: Arc::new(foreign.collect()) }
    }
}
