//! Bundles of other trust domains (SPIFFE Federation): which are held, and what takes their place.
//!
//! That the right endpoint said it is `runtimed`'s word; what it says is judged here. Nothing of it touches our own trust
//! domain: a foreign endpoint that is away, slow or lying leaves the last good bundle where it is.
//!
//! The held bundles are on disk: the fallback when an endpoint is away, over restarts too.
//!
//! A bundle stays until its operator takes the trust domain out of the deployment, or a newer one comes. Its sequence only
//! rises (SPIFFE Trust Domain and Bundle, section 4.1.1, names "update ordering/supersession"): an endpoint that shows an
//! old bundle, because it was rolled back or somebody plays an old one, would bring revoked keys back.

use std::collections::BTreeMap;
use std::time::Duration;

use edgewarden_names::{Digest, Reason, Refusal, TrustDomain, UnixTime};
use edgewarden_protocol::deployment::Deployment;
use edgewarden_protocol::document::Document;
use edgewarden_protocol::federation::{Endpoint, FEDERATION_MAX, Profile};
use edgewarden_svid::bundle::{BUNDLE_BYTES_MAX, TrustBundle};
use serde::{Deserialize, Serialize};

/// Interval at which it is written down that an endpoint still says the same: not at each poll.
const CONFIRM_EVERY: Duration = Duration::from_secs(600);

/// Most bytes of a bundle as it stands in the document, where a quote or a line's end takes two: all of them must fit into
/// it, or the next start would not read what was written.
const STORED_BYTES_MAX: usize = BUNDLE_BYTES_MAX / 2 * 3;

/// The bundle that is held of each other trust domain (`federation.json`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FederatedBundles {
    domains: BTreeMap<TrustDomain, HeldBundle>,
}

/// A bundle that is held, with the endpoint that it came from and the lowest sequence that may follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldBundle {
    /// The configuration under which it was taken.
    endpoint: Digest,
    /// As it came: JSON.
    bundle: String,
    /// No bundle below this sequence is taken from this endpoint. 0: it has not said one.
    floor: u64,
    pub changed: UnixTime,
    pub confirmed: Option<UnixTime>,
}

impl HeldBundle {
    /// It was parsed when it was taken, and when the document was read.
    pub fn parse(&self, domain: &TrustDomain) -> Option<TrustBundle> {
        TrustBundle::parse(self.bundle.as_bytes(), domain).ok()
    }
}

impl Document for FederatedBundles {
    const FILE: &'static str = "federation.json";

    fn check(&self) -> Result<(), String> {
        if self.domains.len() > FEDERATION_MAX {
            return Err(format!(
                "{} trust domains are over the limit of {FEDERATION_MAX}",
                self.domains.len()
            ));
        }
        for (domain, held) in &self.domains {
            TrustBundle::parse(held.bundle.as_bytes(), domain)
                .map_err(|error| format!("the bundle of `{domain}`: {error}"))?;
        }
        Ok(())
    }
}

/// A bundle that an endpoint gave, read. Only [`Fetched::parse`] makes one.
#[derive(Debug)]
pub struct Fetched {
    pub domain: TrustDomain,
    pub endpoint: Digest,
    text: String,
    pub bundle: TrustBundle,
}

impl Fetched {
    /// Reads what came. Pure; takes milliseconds.
    pub fn parse(domain: TrustDomain, endpoint: Digest, bytes: &[u8]) -> Result<Self, Refusal> {
        let refuse = |rule: String| Refusal::new(Reason::FederationBundle, &domain, rule);
        if bytes.len() > BUNDLE_BYTES_MAX {
            return Err(refuse(format!("it has more than {BUNDLE_BYTES_MAX} bytes")));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| refuse(error.to_string()))?.to_owned();
        let stored = serde_json::to_string(&text).map_err(|error| refuse(error.to_string()))?;
        if stored.len() > STORED_BYTES_MAX {
            return Err(refuse(format!("it takes more than {STORED_BYTES_MAX} bytes to store")));
        }
        let bundle = TrustBundle::parse(bytes, &domain).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { domain, endpoint, text, bundle })
    }
}

/// Effect of a bundle that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It says what is held already, under this sequence or a higher one.
    Same,
    Changed,
}

/// Names an endpoint as it is configured.
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "texts under fixed names are always JSON: serde_json fails for other map keys and for failing writers"
)]
pub fn name(endpoint: &Endpoint) -> Digest {
    // Its shape has no map and no float: the text is one and the same each time.
    let text = serde_json::to_vec(endpoint).expect("an endpoint is JSON");
    Digest::of(&text)
}

impl FederatedBundles {
    /// The bundle of a trust domain.
    pub fn get(&self, domain: &TrustDomain) -> Option<&HeldBundle> {
        self.domains.get(domain)
    }

    /// All bundles, by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &HeldBundle)> {
        self.domains.iter()
    }

    /// The bundles that are held under a deployment that takes force: nothing of who is not in it, and of a new
    /// endpoint its first bundle. A changed endpoint begins anew, below every sequence; without a bundle of its own it
    /// keeps what there was. Fails when a bundle in the deployment is none.
    pub fn under(&self, deployment: &Deployment, now: UnixTime) -> Result<Self, Refusal> {
        let mut domains = BTreeMap::new();
        for endpoint in &deployment.federation {
            let (domain, name) = (&endpoint.trust_domain, name(endpoint));
            let before = self.domains.get(domain);
            let held = match (before, &endpoint.profile) {
                (Some(held), _) if held.endpoint == name => held.clone(),
                (_, Profile::HttpsSpiffe { bundle, .. }) => HeldBundle {
                    floor: TrustBundle::parse(bundle.as_bytes(), domain)
                        .map_err(|error| Refusal::new(Reason::DeploymentInvalid, domain, error))?
                        .jwt
                        .sequence,
                    endpoint: name,
                    bundle: bundle.clone(),
                    changed: now,
                    confirmed: None,
                },
                (Some(held), Profile::HttpsWeb { .. }) => {
                    HeldBundle { endpoint: name, floor: 0, ..held.clone() }
                }
                (None, Profile::HttpsWeb { .. }) => continue,
            };
            domains.insert(domain.clone(), held);
        }
        Ok(Self { domains })
    }

    /// Takes a bundle, if it is not older than what is held.
    pub fn take(&self, fetched: &Fetched, now: UnixTime) -> Result<(Self, Taken), Refusal> {
        let Fetched { domain, endpoint, text, bundle } = fetched;
        let before = self.domains.get(domain);
        let sequence = bundle.jwt.sequence;
        let floor = before.map_or(0, |held| held.floor);
        let rollback = |rule: String| Err(Refusal::new(Reason::FederationRollback, domain, rule));
        if sequence < floor {
            return rollback(format!("its sequence {sequence} is below {floor}, which was there before"));
        }
        let old = before.and_then(|held| held.parse(domain));
        let same = old.as_ref().is_some_and(|old| old.same_keys(bundle));
        // Every change has a sequence of its own (section 4.1.1); without one there is no order to keep.
        if !same && sequence == floor && floor > 0 {
            return rollback(format!("it says something else under the same sequence {sequence}"));
        }
        let unchanged = old.as_ref() == Some(bundle);
        let mut next = self.clone();
        let held = match before {
            // Written down now and then.
            Some(held) if unchanged && held.confirmed.is_some_and(|at| now < at.plus(CONFIRM_EVERY)) => {
                return Ok((next, Taken::Same));
            }
            Some(held) if same => {
                HeldBundle { bundle: text.clone(), floor: sequence, confirmed: Some(now), ..held.clone() }
            }
            _ => HeldBundle {
                endpoint: endpoint.clone(),
                bundle: text.clone(),
                floor: sequence,
                changed: now,
                confirmed: Some(now),
            },
        };
        next.domains.insert(domain.clone(), held);
        Ok((next, if same { Taken::Same } else { Taken::Changed }))
    }
}

#[cfg(test)]
mod tests;
