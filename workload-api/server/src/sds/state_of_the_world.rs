//! The form of the protocol in which each response has everything that the stream is subscribed to (xDS protocol,
//! "State of the World"). Without I/O.
//!
//! A response is due when the client asks for something that it did not ask for before, and when a secret that it is
//! subscribed to has become another. Never because a response was rejected: the same again would be rejected again.
//! There is no word for a secret that is gone, so a subscription to what the module does not have ends the stream: its
//! client says so in its log and tries again later.

use std::hash::{DefaultHasher, Hash, Hasher};

use edgewarden_names::Refusal;
use edgewarden_workload_wire::envoy::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use prost_types::Any;

use super::names::Wanted;
use super::resource::{Known, SECRET_TYPE, check_type, note_rejection};
use super::secrets::{Holdings, unknown};
use super::stream::Protocol;
use super::validator::Validator;

#[derive(Default)]
pub(super) struct StateOfTheWorld {
    wanted: Option<Wanted>,
    /// Of the last request that said who sends it: clients may leave it out of all but the first.
    validator: Option<Validator>,
    /// Responses on this stream so far. The last one's nonce.
    sent: u64,
    /// Version of the last response. `None` when a response is due, whatever it holds.
    version: Option<u64>,
}

impl Protocol for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn take(&mut self, request: DiscoveryRequest) -> Result<bool, Refusal> {
        check_type(&request.type_url)?;
        note_rejection(request.error_detail.as_ref());
        // The client had not seen the last response when it sent this. It will answer that one too, with all that it
        // wants by then.
        let nonce = &request.response_nonce;
        if self.sent > 0 && !nonce.is_empty() && *nonce != self.sent.to_string() {
            return Ok(false);
        }
        if let Some(node) = &request.node {
            self.validator = Some(Validator::for_node(node));
        }
        let wanted = Wanted::of(request.resource_names, self.wanted.as_ref())?;
        let due = self.wanted.as_ref().is_none_or(|before| wanted.is_more_than(before));
        if due {
            self.version = None;
        }
        self.wanted = Some(wanted);
        Ok(due)
    }

    fn answer(&mut self, known: &Known) -> Result<Option<DiscoveryResponse>, Refusal> {
        let Some(wanted) = &self.wanted else { return Ok(None) };
        let (version, resources) = collect(wanted, &Holdings::of(known), self.validator(), self.version)?;
        if self.version == Some(version) {
            return Ok(None);
        }
        self.version = Some(version);
        self.sent = self.sent.saturating_add(1);
        Ok(Some(DiscoveryResponse {
            version_info: format!("{version:016x}"),
            resources,
            type_url: SECRET_TYPE.to_owned(),
            nonce: self.sent.to_string(),
        }))
    }
}

impl StateOfTheWorld {
    fn validator(&self) -> Validator {
        self.validator.unwrap_or(Validator::PlainRoots)
    }
}

/// The version of everything that is wanted, and all of it, unless the version is the one that the client `had`.
fn collect(
    wanted: &Wanted,
    holdings: &Holdings<'_>,
    validator: Validator,
    had: Option<u64>,
) -> Result<(u64, Vec<Any>), Refusal> {
    let mut names = wanted.names.clone();
    if wanted.all {
        names.extend(holdings.names());
    }
    let mut hasher = DefaultHasher::new();
    let mut found = Vec::with_capacity(names.len());
    for name in &names {
        let secret = holdings.find(name).ok_or_else(|| unknown(name))?;
        name.hash(&mut hasher);
        holdings.version(secret).hash(&mut hasher);
        found.push((name, secret));
    }
    let version = hasher.finish();
    if had == Some(version) {
        return Ok((version, Vec::new()));
    }
    let secrets: Result<_, _> =
        found.into_iter().map(|(name, secret)| holdings.secret(name, secret, validator)).collect();
    Ok((version, secrets?))
}

/// One response outside of a stream.
pub(super) fn once(request: DiscoveryRequest, known: &Known) -> Result<DiscoveryResponse, Refusal> {
    check_type(&request.type_url)?;
    let validator = request.node.as_ref().map_or(Validator::PlainRoots, Validator::for_node);
    let wanted = Wanted::of(request.resource_names, None)?;
    let (version, resources) = collect(&wanted, &Holdings::of(known), validator, None)?;
    Ok(DiscoveryResponse {
        version_info: format!("{version:016x}"),
        resources,
        type_url: SECRET_TYPE.to_owned(),
        nonce: String::new(),
    })
}
