//! From a certificate up to a trusted vendor: certification paths are built (RFC 4158) and validated (RFC 5280
//! section 6.1).
//!
//! Trusts the anchors' names, keys and constraints. Distrusts everything else. Each step upward has checked a signature
//! before, and there are at most [`SIGNATURES_MAX`] of those, so that no set of certificates makes the search long.

use edgewarden_names::UnixTime;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::certificate::Certificate;
use super::constraints::Constraints;
use super::fault::{Fault, Kind};
use super::policies::Policies;
use super::roots::VendorRoots;
use super::signature::{self, SignatureFault};

/// Certificates between a leaf and its anchor. Makers use up to five.
const AUTHORITIES_MAX: usize = 10;
/// Signatures that one search checks.
pub(super) const SIGNATURES_MAX: usize = 100;

/// A path as it is built: upward from the leaf.
#[derive(Debug, Clone, Copy)]
struct Node<'n> {
    certificate: &'n Certificate<'n>,
    below: Option<&'n Node<'n>>,
    /// Certificates from here down to the leaf.
    length: usize,
}

impl<'n> Node<'n> {
    /// From here down to the leaf.
    fn downward(&'n self) -> impl Iterator<Item = &'n Node<'n>> {
        std::iter::successors(Some(self), |node| node.below)
    }
}

pub(super) struct Search<'s> {
    pub(super) roots: &'s VendorRoots,
    /// The certificates that the device sent, in DER.
    pub(super) sent: &'s [&'s [u8]],
    pub(super) now: UnixTime,
    signatures: usize,
    /// The failure that says most, with how far it came.
    worst: Option<(Kind, usize, Fault)>,
}

impl<'s> Search<'s> {
    pub(super) fn new(roots: &'s VendorRoots, sent: &'s [&'s [u8]], now: UnixTime) -> Self {
        Self { roots, sent, now, signatures: 0, worst: None }
    }

    pub(super) fn run(mut self, leaf: &Certificate<'_>) -> Result<(), Fault> {
        let found = self.climb(&Node { certificate: leaf, below: None, length: 1 });
        if found {
            return Ok(());
        }
        let (_, _, fault) =
            self.worst.unwrap_or_else(|| (Kind::Untrusted, 0, self.roots.unknown_issuer(leaf)));
        Err(fault)
    }

    /// True when a path through `node` is good.
    fn climb(&mut self, node: &Node<'_>) -> bool {
        let certificate = node.certificate;
        let mut known = false;
        for der in self.roots.anchors_of(certificate) {
            let Ok(anchor) = Certificate::parse(der) else { continue };
            known = true;
            if self.is_exhausted(node) {
                return false;
            }
            if self.is_signed_by(node, &anchor, anchor.parsed.public_key()) {
                match validate(node, &anchor, self.now) {
                    Ok(()) => return true,
                    Err(fault) => self.note(node.length + 1, fault),
                }
            }
        }
        if node.length > AUTHORITIES_MAX {
            let text = format!("over {AUTHORITIES_MAX} authorities stand between it and a vendor");
            self.note(node.length, Fault::new(Kind::Untrusted, text));
            return false;
        }
        let sent = self.sent.iter().copied();
        let authorities: Vec<&[u8]> = self.roots.authorities_of(certificate).chain(sent).collect();
        for der in authorities {
            // Whatever else the device sent is nothing to this path.
            let Ok(authority) = Certificate::read(der) else { continue };
            if authority.subject != certificate.issuer {
                continue;
            }
            if let Err(fault) = authority.check() {
                known = true;
                self.note(node.length, fault);
                continue;
            }
            let key = authority.parsed.public_key();
            let is_loop = node.downward().any(|below| {
                below.certificate.subject == authority.subject
                    && below.certificate.parsed.public_key().raw == key.raw
            });
            if is_loop {
                continue;
            }
            known = true;
            if self.is_exhausted(node) {
                return false;
            }
            if self.is_signed_by(node, &authority, key)
                && self.climb(&Node { certificate: &authority, below: Some(node), length: node.length + 1 })
            {
                return true;
            }
        }
        if !known {
            self.note(node.length, self.roots.unknown_issuer(certificate));
        }
        false
    }

    fn is_exhausted(&mut self, node: &Node<'_>) -> bool {
        let exhausted = self.signatures >= SIGNATURES_MAX;
        if exhausted {
            let text =
                format!("too many certificates could have issued it: {SIGNATURES_MAX} signatures were tried");
            // It says more than the last signature that was wrong.
            self.note(node.length + 1, Fault::new(Kind::Untrusted, text));
        }
        exhausted
    }

    fn is_signed_by(
        &mut self,
        node: &Node<'_>,
        issuer: &Certificate<'_>,
        key: &SubjectPublicKeyInfo<'_>,
    ) -> bool {
        self.signatures += 1;
        let called = node.certificate.called();
        match signature::check(node.certificate, key) {
            Ok(()) => return true,
            Err(SignatureFault::Wrong) => {
                let text = format!(
                    "{called} is not signed by the key of {}: another authority of that name issued it, or it is damaged",
                    issuer.called()
                );
                self.note(node.length, Fault::new(Kind::Untrusted, text));
            }
            Err(SignatureFault::Unsupported(what)) => {
                let text = format!("the signature of {called} cannot be checked: {what}");
                self.note(node.length, Fault::new(Kind::Unsupported, text));
            }
        }
        false
    }

    /// Keeps the failure of the path that came farthest; of two that came as far, the one that says more.
    fn note(&mut self, length: usize, fault: Fault) {
        let says_more = self.worst.as_ref().is_none_or(|(kind, far, _)| (length, fault.kind) > (*far, *kind));
        if says_more {
            self.worst = Some((fault.kind, length, fault));
        }
    }
}

/// Section 6.1, from the certificate that the anchor issued down to the leaf. Signatures and the chain of names have
/// been checked on the way up.
fn validate(top: &Node<'_>, anchor: &Certificate<'_>, now: UnixTime) -> Result<(), Fault> {
    let length = u32::try_from(top.length).unwrap_or(u32::MAX);
    let mut policies = Policies::new(length);
    let mut names = Constraints::default();
    // What an anchor's own certificate limits is obeyed too (RFC 5937); its time is not asked for, since the operator
    // trusts the key.
    if let Some(constraints) = anchor.name_constraints() {
        names.add(constraints);
    }
    let mut authorities_left = anchor.basic_constraints().1.unwrap_or(length).min(length);
    for node in top.downward() {
        let certificate = node.certificate;
        let is_last = node.below.is_none();
        certificate.check_time(now)?;
        if is_last || !certificate.is_self_issued() {
            names.check(certificate)?;
        }
        policies.process(certificate, is_last)?;
        if is_last {
            policies.wrap_up(certificate)?;
            continue;
        }
        policies.prepare(certificate)?;
        if let Some(constraints) = certificate.name_constraints() {
            names.add(constraints);
        }
        certificate.check_authority()?;
        if !certificate.is_self_issued() {
            authorities_left = authorities_left.checked_sub(1).ok_or_else(|| {
                Fault::invalid(format!(
                    "more authorities than allowed stand above {} (pathLenConstraint)",
                    certificate.called()
                ))
            })?;
        }
        authorities_left =
            certificate.basic_constraints().1.unwrap_or(authorities_left).min(authorities_left);
        certificate.check_authority_usage()?;
    }
    Ok(())
}
