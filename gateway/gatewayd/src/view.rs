//! The state in force, as one value: the policy epoch, the routes, and which module is where.
//!
//! Trusts `identityd`, whose [`Snapshot`] it is made from. Before the first snapshot, and while the verdict forbids
//! issuing, nobody may connect.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use edgewarden_mqtt::broker::{Authority, Keep, Lagging, Terms};
use edgewarden_mqtt::trie::Trie;
use edgewarden_mqtt::{TopicError, TopicFilter, TopicName};
use edgewarden_names::{Epoch, GatewayName, ModuleName, Principal, Reason, Refusal};
use edgewarden_policy::{CompiledEpoch, Decision};
use edgewarden_protocol::control::{PolicyInForce, Snapshot, TopicSize};
use edgewarden_protocol::messages::{self, Messages, Receiver};

use crate::alerts;

/// The one cloud endpoint that this process sends to: the fleet.
const UPSTREAM: &str = "upstream";

/// The listener that a connection came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The leaf network's listener.
    Leaves,
    /// The listener on the gateway's address in the module network.
    Modules,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leaves => "the leaf listener",
            Self::Modules => "the module listener",
        })
    }
}

/// Cheap to clone; one clone decides consistently.
#[derive(Debug, Clone, Default)]
pub struct View(Arc<Parts>);

#[derive(Debug, Default)]
struct Parts {
    /// False before the first snapshot.
    known: bool,
    policy: Option<Arc<CompiledEpoch>>,
    /// Filters of the routes to [`UPSTREAM`].
    uploads: Vec<TopicFilter>,
    messages: Messages,
    sizes: Sizes,
    places: HashMap<Ipv4Addr, (ModuleName, Arc<str>)>,
    trusted: bool,
}

/// Topics that say how large a payload may be.
#[derive(Debug, Default)]
struct Sizes {
    all: Vec<TopicSize>,
    /// Their filters, each under its own number.
    filters: Trie<usize, ()>,
}

/// A fault of a snapshot, which is then not put in force.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error("the compiled policy of epoch {epoch} cannot be read")]
    Policy { epoch: Epoch, source: serde_json::Error },
    #[error("it is for gateway `{0}`")]
    OtherGateway(GatewayName),
    #[error("the topic filter `{filter}` of epoch {epoch} is none")]
    Filter { epoch: Epoch, filter: String, source: TopicError },
}

impl View {
    /// The view of a snapshot, if that is for this gateway.
    pub fn of(snapshot: &Snapshot, gateway: &GatewayName) -> Result<Self, ViewError> {
        if snapshot.gateway != *gateway {
            return Err(ViewError::OtherGateway(snapshot.gateway.clone()));
        }
        let mut parts = Parts { known: true, trusted: snapshot.trusted, ..Parts::default() };
        if let Some(policy) = &snapshot.policy {
            let compiled: CompiledEpoch = serde_json::from_slice(policy.compiled.as_slice())
                .map_err(|source| ViewError::Policy { epoch: policy.epoch, source })?;
            if compiled.gateway() != gateway {
                return Err(ViewError::OtherGateway(compiled.gateway().clone()));
            }
            parts.policy = Some(Arc::new(compiled));
            parts.messages = policy.messages.clone();
            parts.sizes = Sizes::of(policy)?;
            for route in &policy.routes {
                if route.to == UPSTREAM {
                    parts.uploads.push(filter_of(policy, &route.filter, &route.filter)?);
                } else {
                    tracing::warn!(
                        filter = route.filter,
                        to = route.to,
                        "this gateway has no such cloud endpoint"
                    );
                }
            }
        }
        let records = snapshot.records.iter();
        parts.places =
            records.map(|r| (r.address, (r.module.clone(), Arc::from(r.instance.as_str())))).collect();
        Ok(Self(Arc::new(parts)))
    }

    /// Largest payload on this topic.
    fn bytes_max(&self, topic: &TopicName) -> usize {
        let bytes_max = self.0.sizes.smallest(topic).unwrap_or(self.0.messages.bytes_max);
        usize::try_from(bytes_max).unwrap_or(usize::MAX)
    }

    /// The deployment's declaration of this receiver.
    fn receiver(&self, who: &Principal) -> Option<&Receiver> {
        match who {
            Principal::Module(name) => self.0.messages.modules.get(name),
            Principal::Leaf(name) => self.0.messages.leaves.get(name),
        }
    }

    /// The policy epoch in force; `None` without a policy.
    pub fn epoch(&self) -> Option<Epoch> {
        self.0.policy.as_ref().map(|policy| policy.epoch())
    }

    /// `false` while the gateway's verdict forbids serving, and before the first snapshot.
    pub fn trusted(&self) -> bool {
        self.0.trusted
    }

    /// Refuses a key that is used at another place than its own. A module speaks from the address of its own live start
    /// record, through the modules' door; a leaf device comes through the leaves' door. Returns the instance that is
    /// there.
    pub fn place(&self, who: &Principal, door: Door, from: IpAddr) -> Result<Option<Arc<str>>, Refusal> {
        let mismatch = |rule: String| Err(Refusal::new(Reason::PlaceMismatch, who, rule));
        match (who, door) {
            (Principal::Leaf(_), Door::Leaves) => Ok(None),
            (Principal::Module(module), Door::Modules) => {
                let IpAddr::V4(address) = from else {
                    return mismatch(format!("{from} is not an address of a module"));
                };
                match self.0.places.get(&address) {
                    Some((there, instance)) if there == module => Ok(Some(Arc::clone(instance))),
                    Some((there, _)) => mismatch(format!("{address} belongs to module `{there}`")),
                    None => mismatch(format!("no module that runs has the address {address}")),
                }
            }
            _ => mismatch(format!("it must not come through {door}")),
        }
    }

    /// `Ok` when a policy is in force here by which somebody could be served; otherwise the reason.
    pub fn health(&self) -> Result<(), Reason> {
        if !self.0.known {
            return Err(Reason::Busy);
        }
        if !self.0.trusted {
            return Err(Reason::AttestFailed);
        }
        self.0.policy.as_ref().map(drop).ok_or(Reason::PolicyDenied)
    }

    /// Refuses everybody before the first snapshot, and while the verdict forbids serving.
    fn serves(&self, who: &Principal) -> Result<(), Refusal> {
        if !self.0.known {
            return Err(Refusal::new(Reason::Busy, who, "identityd has not said yet what is in force"));
        }
        if !self.0.trusted {
            return Err(Refusal::new(Reason::AttestFailed, who, "the gateway's verdict forbids it"));
        }
        Ok(())
    }

    fn policy(&self, who: &Principal) -> Result<&CompiledEpoch, Refusal> {
        let denied = |rule| Refusal::new(Reason::PolicyDenied, who, rule);
        self.0.policy.as_deref().ok_or_else(|| denied("no policy is in force"))
    }
}

/// `written`: its form in the deployment, for the error.
fn filter_of(policy: &PolicyInForce, text: &str, written: &str) -> Result<TopicFilter, ViewError> {
    let wrong = |source| ViewError::Filter { epoch: policy.epoch, filter: written.to_owned(), source };
    TopicFilter::parse(text).map_err(wrong)
}

impl Sizes {
    fn of(policy: &PolicyInForce) -> Result<Self, ViewError> {
        let mut filters = Trie::default();
        for (number, size) in policy.sizes.iter().enumerate() {
            let filter = filter_of(policy, &size.wide_filter(), &size.filter)?;
            filters.insert(&filter, number, ());
        }
        Ok(Self { all: policy.sizes.clone(), filters })
    }

    /// The smallest bound among the filters that a topic matches.
    fn smallest(&self, topic: &TopicName) -> Option<u32> {
        let mut smallest = None;
        self.filters.matches(topic, |number, ()| {
            let size = self.all.get(*number).filter(|size| size.names_a_leaf(topic.as_str()));
            smallest = smallest.into_iter().chain(size.map(|size| size.bytes_max)).min();
        });
        smallest
    }
}

fn allowed(decision: &Decision<'_>, who: &Principal, what: impl fmt::Display) -> Result<(), Refusal> {
    if decision.allowed {
        return Ok(());
    }
    let rule = format!("{} (epoch {})", decision.rule(), decision.epoch);
    Err(Refusal::new(Reason::PolicyDenied, format_args!("{who} {what}"), rule))
}

impl Authority for View {
    type Client = Principal;

    fn client_id<'a>(&self, client: &'a Principal) -> &'a str {
        match client {
            Principal::Module(name) => name.as_str(),
            Principal::Leaf(name) => name.as_str(),
        }
    }

    fn may_connect(&self, client: &Principal) -> Result<(), Refusal> {
        self.serves(client)?;
        allowed(&self.policy(client)?.may_connect(client), client, "connect")
    }

    fn may_publish(&self, client: &Principal, topic: &TopicName) -> Result<Terms, Refusal> {
        if alerts::is_own(topic) {
            return match client {
                // Nobody else can have this name.
                Principal::Module(name) if name.as_str() == alerts::OWN_NAME => {
                    Ok(Terms { keep: Keep::Local, bytes_max: alerts::BYTES_MAX })
                }
                _ => {
                    let rule = "topics beneath `$edgewarden/` are the gateway's own";
                    Err(Refusal::new(Reason::TopicReserved, format_args!("{client} publish {topic}"), rule))
                }
            };
        }
        self.serves(client)?;
        let policy = self.policy(client)?;
        allowed(&policy.may_publish(client, topic.as_str()), client, format_args!("publish {topic}"))?;
        let routed = self.0.uploads.iter().any(|filter| filter.matches(topic));
        // A route carries only what the policy lets its publisher send there; the message stays local otherwise.
        let upload = routed && policy.may_upload(client, UPSTREAM).allowed;
        let keep = if upload { Keep::Durable } else { Keep::Local };
        Ok(Terms { keep, bytes_max: self.bytes_max(topic) })
    }

    fn may_subscribe(&self, client: &Principal, filter: &TopicFilter) -> Result<(), Refusal> {
        let decision = self.policy(client)?.may_subscribe(client, filter.as_str());
        allowed(&decision, client, format_args!("subscribe {filter}"))
    }

    fn may_receive(&self, client: &Principal, topic: &TopicName) -> bool {
        self.0.trusted
            && self.policy(client).is_ok_and(|policy| policy.may_receive(client, topic.as_str()).allowed)
    }

    /// While the verdict forbids everything, nothing is removed: it may be another one tomorrow.
    fn decides(&self) -> bool {
        self.0.trusted && self.0.policy.is_some()
    }

    /// Says so only when an epoch in force does not let the client connect: while the verdict forbids everybody, or
    /// nothing is known, nobody has left.
    fn has_left(&self, client: &Principal) -> Option<Refusal> {
        let policy = self.0.policy.as_deref().filter(|_| self.0.trusted)?;
        allowed(&policy.may_connect(client), client, "keep its session").err()
    }

    fn lagging(&self, client: &Principal) -> Lagging {
        let own = self.receiver(client).and_then(|receiver| receiver.lagging);
        match own.unwrap_or(self.0.messages.lagging) {
            messages::Lagging::DropOldest => Lagging::LosesOldest,
            messages::Lagging::EndSession => Lagging::LosesSession,
        }
    }

    fn session_expiry(&self, client: &Principal) -> Duration {
        let own = self.receiver(client).and_then(|receiver| receiver.session_expiry_seconds);
        Duration::from_secs(own.unwrap_or(self.0.messages.session_expiry_seconds).into())
    }
}
