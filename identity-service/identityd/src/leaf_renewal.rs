//! A leaf device's certificate in the place of the one that it has: without an operator, and without a fleet.
//!
//! `gatewayd` has met the device over mutual TLS and hands its chain over. That is not believed: the chain is judged here
//! as every peer would judge it, and the certificate's key has signed that this request is its owner's. So a `gatewayd`
//! that somebody took over can have no other key certified.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use edgewarden_ca::chain::{Facts, facts};
use edgewarden_decisions::authority::Input;
use edgewarden_names::{IdKind, LeafName, Reason, Refusal, SpiffeId, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::{Certificate, Reply};
use edgewarden_protocol::deployment::LEAVES_MAX;
use edgewarden_protocol::leaf::renewal_statement;

use crate::issuance::Issuance;
use crate::ledger::Ledger;

/// A device that asks again within it has lost the answer at worst, and gets no more than the audit log can bear.
const REST: Duration = Duration::from_secs(60);

/// Time of each leaf's last renewal.
#[derive(Debug, Default)]
pub struct Renewals(Mutex<BTreeMap<LeafName, Duration>>);

impl Renewals {
    /// `true` when the leaf may have another one now, by the time since boot; takes that chance.
    fn take(&self, leaf: &LeafName, now: Duration) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, at| now.saturating_sub(*at) < REST);
        // Only leaves of a deployment get here.
        if last.contains_key(leaf) || last.len() >= LEAVES_MAX {
            return false;
        }
        last.insert(leaf.clone(), now);
        true
    }
}

/// `true` while a certificate may be renewed: from the first third of its life on, to its end.
fn is_in_window(facts: &Facts, now: UnixTime) -> bool {
    let life = facts.not_after.after(facts.not_before);
    facts.not_before.plus(life / 3) <= now && now < facts.not_after
}

/// The parts of the service that a renewal uses.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub ledger: &'a Ledger,
    pub issuance: &'a Issuance,
    pub renewals: &'a Renewals,
}

/// Renews a leaf's certificate: checks `chain` and `proof`, and issues for `csr`.
pub fn renew(parts: Parts<'_>, chain: &[Bytes], csr: &Bytes, proof: &Bytes) -> Result<Reply, Refusal> {
    // `gatewayd` reports a refusal with the peer that it met: here it would use up what is written for operators.
    let (leaf, serial, certificate) = judge_and_issue(parts, chain, csr, proof)?;
    parts.ledger.transact(Input::LeafRenewed { leaf, serial })?;
    Ok(Reply::Certificate(certificate))
}

fn judge_and_issue(
    parts: Parts<'_>,
    chain: &[Bytes],
    csr: &Bytes,
    proof: &Bytes,
) -> Result<(LeafName, String, Certificate), Refusal> {
    let now = parts.ledger.now();
    let state = parts.ledger.current();
    let target = &parts.ledger.context.target;
    let roots = state.documents().enrolment.may_issue(now)?.bundle();
    let refuse = |rule: &str| Refusal::new(Reason::LeafRenewal, "leaf device", rule);
    let own = chain.first().ok_or_else(|| refuse("no certificate was shown"))?;
    let ders: Vec<Vec<u8>> = chain.iter().map(|der| der.0.clone()).collect();
    let id = edgewarden_svid::judge_chain(&ders, &roots, &target.trust_domain, now)
        .map_err(|refusal| Refusal { reason: Reason::LeafRenewal, ..refusal })?;
    let leaf = own_leaf(parts.ledger, &id)?;
    let refuse = |rule: &str| Refusal::new(Reason::LeafRenewal, &leaf, rule);
    state.check_leaf(&leaf, now)?;
    let facts = facts(own.as_slice()).map_err(|_| refuse("its certificate is not one of this gateway"))?;
    if !is_in_window(&facts, now) {
        return Err(refuse("its certificate is not in the last two thirds of its life"));
    }
    let statement = renewal_statement(own.as_slice(), csr.as_slice());
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &facts.point)
        .verify(&statement, proof.as_slice())
        .map_err(|_| refuse("the key of its certificate has not signed this request"))?;
    if !parts.renewals.take(&leaf, parts.ledger.clock.since_boot()) {
        return Err(Refusal::new(
            Reason::Busy,
            &leaf,
            "it has had another certificate within the last minute",
        ));
    }
    let (issued, root) = parts.issuance.issue_leaf(&id, csr.as_slice(), now)?;
    let chain = issued.chain_der.into_iter().map(Bytes).collect();
    Ok((leaf, issued.serial, Certificate { chain, root: root.into() }))
}

fn own_leaf(ledger: &Ledger, id: &SpiffeId) -> Result<LeafName, Refusal> {
    match id.kind() {
        IdKind::Leaf(gateway, leaf) if gateway == ledger.context.target.gateway => Ok(leaf),
        _ => Err(Refusal::new(Reason::LeafRenewal, id, "it is no leaf device of this gateway")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_renews_once_in_a_minute_and_holds_nobody_up() {
        let renewals = Renewals::default();
        let leaf = |name: &str| LeafName::parse(name).unwrap();
        let at = Duration::from_secs;
        assert!(renewals.take(&leaf("a"), at(100)) && renewals.take(&leaf("b"), at(100)));
        assert!(!renewals.take(&leaf("a"), at(159)));
        assert!(renewals.take(&leaf("a"), at(160)));
    }
}
