//! The form of the protocol in which each response has what has become another (xDS protocol, "Incremental xDS").
//! Without I/O.
//!
//! What a client is subscribed to and gets no more is named as removed. What it subscribes to and never had is refused,
//! and the stream ends: Envoy takes a removal for an answer without a word in its log, and would wait for a secret that
//! never comes.
//!
//! The versions that a client says it has from an earlier stream are not read: it gets what it asks for again.

use std::collections::BTreeMap;

use edgewarden_names::Refusal;
use edgewarden_workload_wire::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};

use super::names::{WILDCARD, checked, too_many};
use super::resource::{Known, NAMES_MAX, SECRET_TYPE, check_type, note_rejection};
use super::secrets::{Holdings, unknown};
use super::stream::Protocol;
use super::validator::Validator;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// Asked for since the last response: it is in the next, in whatever version.
    Not,
    Version(u64),
    /// The client was told that it is gone.
    Removed,
}

#[derive(Debug, Clone, Copy)]
struct Tracked {
    /// Asked for by its name. Otherwise it is there because the client asked for all.
    by_name: bool,
    sent: Sent,
}

#[derive(Default)]
pub(super) struct Delta {
    begun: bool,
    all: bool,
    tracked: BTreeMap<String, Tracked>,
    validator: Option<Validator>,
    /// Responses on this stream so far. The last one's nonce.
    sent: u64,
}

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<bool, Refusal> {
        check_type(&request.type_url)?;
        note_rejection(request.error_detail.as_ref());
        if let Some(node) = &request.node {
            self.validator = Some(Validator::for_node(node));
        }
        let subscribe = checked(request.resource_names_subscribe)?;
        let unsubscribe = checked(request.resource_names_unsubscribe)?;
        let asks_for_all = subscribe.contains(WILDCARD) || !self.begun && subscribe.is_empty();
        self.begun = true;
        let mut due = asks_for_all && !self.all;
        self.all |= asks_for_all;
        for name in subscribe.into_iter().filter(|name| name != WILDCARD) {
            // Also when it is there already: the client may have let go of it in between.
            self.tracked.insert(name, Tracked { by_name: true, sent: Sent::Not });
            due = true;
        }
        for name in unsubscribe {
            if name == WILDCARD {
                self.all = false;
                self.tracked.retain(|_, tracked| tracked.by_name);
            } else if self.tracked.remove(&name).is_some_and(|tracked| tracked.by_name) && self.all {
                // Whether it is among all that there is, the client cannot know: it is told.
                self.tracked.insert(name, Tracked { by_name: false, sent: Sent::Not });
                due = true;
            }
        }
        if self.tracked.values().filter(|tracked| tracked.by_name).count() > NAMES_MAX {
            return Err(too_many());
        }
        Ok(due)
    }

    fn answer(&mut self, known: &Known) -> Result<Option<DeltaDiscoveryResponse>, Refusal> {
        let holdings = Holdings::of(known);
        let validator = self.validator.unwrap_or(Validator::PlainRoots);
        let all = if self.all { holdings.names() } else { Vec::new() };
        for name in &all {
            self.tracked.entry(name.clone()).or_insert(Tracked { by_name: false, sent: Sent::Not });
        }
        let (mut resources, mut removed) = (Vec::new(), Vec::new());
        for (name, tracked) in &mut self.tracked {
            let found = holdings.find(name).filter(|_| tracked.by_name || all.contains(name));
            match found.map(|found| (found, holdings.version(found))) {
                Some((_, version)) if tracked.sent == Sent::Version(version) => {}
                Some((found, version)) => {
                    let resource = Some(holdings.secret(name, found, validator)?);
                    resources.push(Resource {
                        version: format!("{version:016x}"),
                        resource,
                        name: name.clone(),
                    });
                    tracked.sent = Sent::Version(version);
                }
                None if tracked.by_name && tracked.sent == Sent::Not => return Err(unknown(name)),
                None if tracked.sent == Sent::Removed => {}
                None => {
                    removed.push(name.clone());
                    tracked.sent = Sent::Removed;
                }
            }
        }
        self.tracked.retain(|_, tracked| tracked.by_name || tracked.sent != Sent::Removed);
        if resources.is_empty() && removed.is_empty() {
            return Ok(None);
        }
        self.sent = self.sent.saturating_add(1);
        Ok(Some(DeltaDiscoveryResponse {
            system_version_info: self.sent.to_string(),
            resources,
            type_url: SECRET_TYPE.to_owned(),
            nonce: self.sent.to_string(),
            removed_resources: removed,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sds::resource::tests::{FOREIGN, known};

    fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
        let resource_names_subscribe = names.iter().map(ToString::to_string).collect();
        DeltaDiscoveryRequest { resource_names_subscribe, ..DeltaDiscoveryRequest::default() }
    }

    fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
        response.resources.iter().map(|resource| resource.name.as_str()).collect()
    }

    #[test]
    fn a_trust_domain_that_is_withdrawn_is_removed_and_may_come_back() {
        let (with, without) = (known(&[FOREIGN]), known(&[]));
        for first in [subscribe(&[FOREIGN]), subscribe(&["*", FOREIGN]), subscribe(&[])] {
            let mut delta = Delta::default();
            assert!(delta.take(first).unwrap());
            assert!(names(&delta.answer(&with).unwrap().unwrap()).contains(&FOREIGN));
            assert!(delta.answer(&with).unwrap().is_none());
            let removed = delta.answer(&without).unwrap().unwrap();
            assert_eq!((removed.removed_resources, removed.resources.len()), (vec![FOREIGN.to_owned()], 0));
            assert!(delta.answer(&without).unwrap().is_none(), "it is said once");
            assert_eq!(names(&delta.answer(&with).unwrap().unwrap()), [FOREIGN]);
        }
    }

    #[test]
    fn subscriptions_add_up_to_a_bound() {
        let mut delta = Delta::default();
        for n in 0..NAMES_MAX {
            delta.take(subscribe(&[&format!("name-{n}")])).unwrap();
        }
        delta.take(subscribe(&["name-0"])).unwrap();
        assert!(delta.take(subscribe(&["one more"])).is_err());
    }
}
