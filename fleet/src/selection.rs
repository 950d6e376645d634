//! Choice of the deployment for a gateway, and admission of deployments to the store. Pure.
//!
//! Not a wall: a gateway verifies signature, selector and version itself. It keeps honest mistakes away from gateways.

use std::collections::BTreeMap;

use edgewarden_names::{Digest, Reason, Refusal};

/// Labels of a gateway, or the selector of a deployment. [`check_labels`] has the limits.
pub type Labels = BTreeMap<String, String>;

/// Most labels of a gateway.
pub const LABELS_MAX: usize = 32;
const LABEL_BYTES_MAX: usize = 128;

/// Says what is wrong with the labels of a gateway.
pub fn check_labels(labels: &Labels) -> Result<(), String> {
    if labels.len() > LABELS_MAX {
        return Err(format!("a gateway has at most {LABELS_MAX} labels"));
    }
    for text in labels.iter().flat_map(|(key, value)| [key, value]) {
        if text.is_empty() || text.len() > LABEL_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(format!("a label is text of 1 to {LABEL_BYTES_MAX} bytes"));
        }
    }
    Ok(())
}

/// A stored deployment without its envelope: the facts that the choice needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Rises with each deployment that is stored.
    pub id: i64,
    pub digest: Digest,
    pub name: String,
    pub version: u64,
    pub selector: Labels,
    /// The operator key that signed it; absent when it was carried unverified.
    pub signer: Option<String>,
}

/// The server's treatment of signatures and versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carry {
    Verified,
    /// Whatever came last, checked or not. The gateways refuse it themselves, which is what this shows.
    DangerousUnverified,
}

/// True when `labels` has every pair of `selector`.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The deployment for a gateway with these labels: the highest version that selects it, the newest of equals.
pub fn choose<'a>(candidates: &'a [Candidate], labels: &Labels, carry: Carry) -> Option<&'a Candidate> {
    let matching = candidates.iter().filter(|candidate| selects(&candidate.selector, labels));
    match carry {
        Carry::Verified => {
            matching.filter(|c| c.signer.is_some()).max_by_key(|candidate| (candidate.version, candidate.id))
        }
        Carry::DangerousUnverified => matching.max_by_key(|candidate| candidate.id),
    }
}

/// Refuses a version that some gateway, or the deployment's own name, is already past.
pub fn admit<'a>(
    name: &str,
    version: u64,
    selector: &Labels,
    candidates: &[Candidate],
    fleet: impl Iterator<Item = &'a Labels>,
) -> Result<(), Refusal> {
    let rollback = |past: &Candidate| {
        let rule = format!(
            "version {version} is not above version {} of `{}`, which the fleet has already",
            past.version, past.name
        );
        Refusal::new(Reason::DeploymentRollback, name, rule)
    };
    let verified = || candidates.iter().filter(|candidate| candidate.signer.is_some());
    if let Some(past) = verified().filter(|c| c.name == name).max_by_key(|c| c.version)
        && past.version >= version
    {
        return Err(rollback(past));
    }
    for labels in fleet.filter(|labels| selects(selector, labels)) {
        if let Some(past) = choose(candidates, labels, Carry::Verified)
            && past.version >= version
        {
            return Err(rollback(past));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn candidate(id: i64, name: &str, version: u64, selector: &[(&str, &str)], signed: bool) -> Candidate {
        Candidate {
            id,
            digest: Digest::from_sha256(&[u8::try_from(id).unwrap(); 32]),
            name: name.into(),
            version,
            selector: labels(selector),
            signer: signed.then(|| "operator".into()),
        }
    }

    #[test]
    fn a_gateway_gets_the_highest_version_that_selects_it() {
        let stored = [
            candidate(1, "all", 1, &[], true),
            candidate(2, "clinic", 5, &[("site", "clinic")], true),
            candidate(3, "clinic-north", 4, &[("site", "clinic"), ("ward", "north")], true),
            candidate(4, "forged", 9, &[("site", "clinic")], false),
        ];
        for (of, carry, expected) in [
            (&[][..], Carry::Verified, Some(1)),
            (&[("site", "plant")], Carry::Verified, Some(1)),
            (&[("site", "clinic")], Carry::Verified, Some(2)),
            (&[("site", "clinic"), ("ward", "north")], Carry::Verified, Some(2)),
            (&[("site", "clinic")], Carry::DangerousUnverified, Some(4)),
            (&[], Carry::DangerousUnverified, Some(1)),
        ] {
            let chosen = choose(&stored, &labels(of), carry);
            assert_eq!(chosen.map(|candidate| candidate.id), expected, "{of:?} {carry:?}");
        }
        assert_eq!(choose(&stored[1..], &labels(&[]), Carry::Verified), None);
    }

    #[test]
    fn a_version_only_rises() {
        let stored = [
            candidate(1, "clinic", 5, &[("site", "clinic")], true),
            candidate(2, "clinic", 9, &[("site", "clinic")], false),
        ];
        let fleet = [labels(&[("site", "clinic")]), labels(&[("site", "plant")])];
        for (name, version, selector, allowed) in [
            ("clinic", 6, &[("site", "clinic")][..], true),
            ("clinic", 5, &[("site", "clinic")], false),
            ("clinic", 4, &[("site", "clinic")], false),
            ("clinic", 4, &[("site", "plant")], false),
            ("other", 5, &[("site", "clinic")], false),
            ("other", 5, &[], false),
            ("other", 1, &[("site", "plant")], true),
            ("other", 1, &[("site", "nowhere")], true),
        ] {
            let admitted = admit(name, version, &labels(selector), &stored, fleet.iter());
            assert_eq!(admitted.is_ok(), allowed, "{name} {version} {selector:?}");
            if let Err(refusal) = admitted {
                assert_eq!(refusal.reason, Reason::DeploymentRollback);
            }
        }
    }
}
