//! State changes by another trust domain's bundle.

use std::sync::Arc;

use edgewarden_names::{Digest, Reason, Refusal, TrustDomain, UnixTime};
use edgewarden_protocol::federation::Endpoint;

use super::{Authority, Step};
use crate::federation::{Fetched, Taken, name};

impl Authority {
    /// The endpoint of a trust domain in the deployment in force, if it is still the one that `named` is the name of.
    pub fn endpoint(&self, domain: &TrustDomain, named: &Digest) -> Result<&Endpoint, Refusal> {
        let all = self.in_force().into_iter().flat_map(|in_force| &in_force.deployment().federation);
        let found = all.into_iter().find(|endpoint| endpoint.trust_domain == *domain);
        found.filter(|endpoint| name(endpoint) == *named).ok_or_else(|| {
            Refusal::new(Reason::FederationUnknown, domain, "the deployment in force says otherwise")
        })
    }

    /// Called with a deployment that takes force.
    pub(crate) fn federate(&mut self, now: UnixTime) -> Result<(), Refusal> {
        let Some(in_force) = &self.in_force else { return Ok(()) };
        let next = self.documents.federation.under(in_force.deployment(), now)?;
        if *self.documents.federation != next {
            self.documents.federation = Arc::new(next);
        }
        Ok(())
    }

    pub(crate) fn federation_fetched(&mut self, fetched: &Fetched, now: UnixTime) -> Result<Step, Refusal> {
        self.endpoint(&fetched.domain, &fetched.endpoint)?;
        let (next, taken) = self.documents.federation.take(fetched, now)?;
        if *self.documents.federation != next {
            self.documents.federation = Arc::new(next);
        }
        let (bundle, step) = (&fetched.bundle, Step::done());
        let detail = format!(
            "sequence {}, {} X.509 authorities, {} JWT keys",
            bundle.jwt.sequence,
            bundle.x509.len(),
            bundle.jwt.keys.len()
        );
        Ok(match taken {
            Taken::Same => step,
            Taken::Changed => step.event("federation.changed", &fetched.domain, detail),
        })
    }
}
