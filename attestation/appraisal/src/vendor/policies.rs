//! Certificate policies (RFC 5280 sections 6.1.2 to 6.1.5), by the graph of RFC 9618: no tree that grows with the
//! product of what certificates say.
//!
//! Any policy is acceptable to a fleet, so all that counts is whether one is left when a certificate demands one.

use std::collections::{BTreeMap, BTreeSet};

use super::certificate::Certificate;
use super::fault::Fault;

/// `anyPolicy`, 2.5.29.32.0, as content octets.
const ANY: &[u8] = &[0x55, 0x1d, 0x20, 0x00];

type Policy = Vec<u8>;

/// The policies that are left at one depth, with those that the next certificate may name for each.
type Left = BTreeMap<Policy, BTreeSet<Policy>>;

#[derive(Debug)]
pub(super) struct Policies {
    /// `None` once no policy is left.
    left: Option<Left>,
    explicit_policy: u32,
    inhibit_any: u32,
    mapping: u32,
}

impl Policies {
    /// For a path of `length` certificates beneath the anchor.
    pub(super) fn new(length: u32) -> Self {
        let unlimited = length.saturating_add(1);
        let any = Left::from([(ANY.to_vec(), BTreeSet::from([ANY.to_vec()]))]);
        Self { left: Some(any), explicit_policy: unlimited, inhibit_any: unlimited, mapping: unlimited }
    }

    /// Section 6.1.3, steps d to f.
    pub(super) fn process(&mut self, certificate: &Certificate<'_>, is_last: bool) -> Result<(), Fault> {
        let any_allowed = self.inhibit_any > 0 || (!is_last && certificate.is_self_issued());
        self.left = match (self.left.take(), certificate.policies()) {
            (Some(above), Some(named)) => below(&above, &named, any_allowed),
            _ => None,
        };
        self.demand(certificate)
    }

    fn demand(&self, certificate: &Certificate<'_>) -> Result<(), Fault> {
        if self.explicit_policy == 0 && self.left.is_none() {
            return Err(Fault::invalid(format!(
                "an authority demands a certificate policy (policyConstraints), and none is left at {}",
                certificate.called()
            )));
        }
        Ok(())
    }

    /// Section 6.1.4, steps a, b and h to j.
    pub(super) fn prepare(&mut self, certificate: &Certificate<'_>) -> Result<(), Fault> {
        if let Some(mappings) = certificate.policy_mappings() {
            let mut mapped: BTreeMap<Policy, BTreeSet<Policy>> = BTreeMap::new();
            for one in &mappings.mappings {
                let (from, to) = (one.issuer_domain_policy.as_bytes(), one.subject_domain_policy.as_bytes());
                if from == ANY || to == ANY {
                    return Err(Fault::invalid(format!(
                        "{} maps `anyPolicy` (policyMappings)",
                        certificate.called()
                    )));
                }
                mapped.entry(from.to_vec()).or_default().insert(to.to_vec());
            }
            self.map(mapped);
        }
        if !certificate.is_self_issued() {
            for counter in [&mut self.explicit_policy, &mut self.mapping, &mut self.inhibit_any] {
                *counter = counter.saturating_sub(1);
            }
        }
        if let Some(constraints) = certificate.policy_constraints() {
            let lower =
                |counter: &mut u32, to: Option<u32>| *counter = to.map_or(*counter, |to| to.min(*counter));
            lower(&mut self.explicit_policy, constraints.require_explicit_policy);
            lower(&mut self.mapping, constraints.inhibit_policy_mapping);
        }
        if let Some(skip) = certificate.inhibit_any_policy() {
            self.inhibit_any = self.inhibit_any.min(skip);
        }
        Ok(())
    }

    fn map(&mut self, mapped: BTreeMap<Policy, BTreeSet<Policy>>) {
        let Some(left) = &mut self.left else { return };
        for (from, to) in mapped {
            if self.mapping == 0 {
                left.remove(&from);
            } else if left.contains_key(&from) || left.contains_key(ANY) {
                left.insert(from, to);
            }
        }
        if left.is_empty() {
            self.left = None;
        }
    }

    /// Section 6.1.5, steps a, b and g.
    pub(super) fn wrap_up(&mut self, certificate: &Certificate<'_>) -> Result<(), Fault> {
        self.explicit_policy = self.explicit_policy.saturating_sub(1);
        if certificate
            .policy_constraints()
            .is_some_and(|constraints| constraints.require_explicit_policy == Some(0))
        {
            self.explicit_policy = 0;
        }
        self.demand(certificate)
    }
}

fn below(above: &Left, named: &[Policy], any_allowed: bool) -> Option<Left> {
    let itself = |policy: &Policy| (policy.clone(), BTreeSet::from([policy.clone()]));
    let expected: BTreeSet<&Policy> = above.values().flatten().collect();
    let any_above = above.contains_key(ANY);
    let mut left: Left = named
        .iter()
        .filter(|policy| *policy != ANY && (any_above || expected.contains(policy)))
        .map(itself)
        .collect();
    if any_allowed && named.iter().any(|policy| policy == ANY) {
        for policy in expected {
            left.entry(policy.clone()).or_insert_with(|| BTreeSet::from([policy.clone()]));
        }
    }
    (!left.is_empty()).then_some(left)
}
