//! The certificate of the gateway CA, from the fleet or a site's own CA ([`crate::site`]), the root it hangs from, and
//! the fleet's verdict.
//!
//! Trusts the root that the configuration pins and the keystore's word on its own key. Distrusts what the fleet's answer
//! says, because `runtimed` carries it: every property of the certificate that issuance relies on is checked here.

use std::time::Duration;

use edgewarden_names::{GatewayName, Reason, Refusal, TrustDomain, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::Lease;
use edgewarden_protocol::document::Document;
use edgewarden_protocol::enrol::{Enrolled, Verdict, VerdictState};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::boot::Measured;

const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
const CHECKS_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 4096;
/// Longest lease that fleets give without a word of their operator's, and a day.
const ORDINARY_LEASE: Duration = Duration::from_secs(31 * 86_400);
/// Percentage of a certificate's life after which a site's CA is asked again (`edgewarden_est::RenewalPolicy`).
const SITE_RENEWAL_PERCENT: u32 = 66;

/// The enrolment in force, if there is one (`enrolment.json`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    pub accepted: Option<Accepted>,
}

/// The ground of issuance: chain, root and verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    pub gateway_ca: Bytes,
    /// End of the chain.
    pub root: Bytes,
    /// The fleet's. `None` when a site's CA certified, which judges no boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Facts that there are with a site's CA only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteChain>,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    /// The boot that the fleet judged ([`crate::boot`]). `None` without a TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Bytes>,
    /// Under a long lease: this boot is another than that one.
    #[serde(skip)]
    pub other_boot: bool,
}

/// Part of [`Accepted`] that a site's CA adds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteChain {
    /// The site's CAs between the gateway CA and the root, DER, upwards.
    pub above: Vec<Bytes>,
    /// All roots of the site, DER: the bundle of the modules.
    pub roots: Vec<Bytes>,
}

impl Accepted {
    /// The lease: its end, and the time from which a renewal is late. A fleet is asked again after the first third of a
    /// life, so that most of it is left to mend what keeps the fleet away; a site's CA after two.
    pub fn lease(&self, now: UnixTime) -> Lease {
        let life = self.not_after.after(self.not_before);
        let (due, grace) = match self.site {
            None => (life / 3, life / 100),
            Some(_) => (life / 100 * SITE_RENEWAL_PERCENT, life / 20),
        };
        // A boot that nobody has judged is a reason to ask at once.
        let due = if self.other_boot { Duration::ZERO } else { due };
        let renewal_due = self.not_before.plus(due);
        Lease { ends: self.not_after, renewal_due, overdue: renewal_due.plus(grace) <= now }
    }

    /// `true` when a boot may do what this certificate allows. Offline for as long as is ordinary, a gateway stays good
    /// by its last verdict; for longer, only as the machine that was judged.
    pub fn is_of_boot(&self, boot: &Measured) -> bool {
        let long = self.not_after.after(self.not_before) > ORDINARY_LEASE;
        // A site's CA judges no boot.
        let bound = long && self.site.is_none();
        !bound || boot.is(self.boot.as_ref())
    }

    /// The CAs between the gateway CA and the root.
    pub fn above(&self) -> impl Iterator<Item = &[u8]> {
        self.site.iter().flat_map(|site| site.above.iter().map(Bytes::as_slice))
    }

    /// The bundle of trust, first the root that the chain ends at.
    pub fn bundle(&self) -> Vec<Vec<u8>> {
        let others = self.site.iter().flat_map(|site| &site.roots).filter(|root| **root != self.root);
        std::iter::once(&self.root).chain(others).map(|root| root.0.clone()).collect()
    }
}

impl Document for Enrolment {
    const FILE: &'static str = "enrolment.json";
}

/// Properties that the certificate must have.
#[derive(Debug, Clone)]
pub struct Expected {
    pub gateway: GatewayName,
    pub trust_domain: TrustDomain,
    /// The pinned root, DER.
    pub root: Vec<u8>,
    /// The keystore's gateway CA key, uncompressed point.
    pub ca_public: Vec<u8>,
}

impl Enrolment {
    /// May certificates be issued now?
    pub fn may_issue(&self, now: UnixTime) -> Result<&Accepted, Refusal> {
        let accepted = self.trusted()?;
        if accepted.not_after <= now {
            let rule = format!(
                "the gateway CA's certificate expired at {}; its renewal brings a new one",
                accepted.not_after
            );
            return Err(Refusal::new(Reason::IdentityUnavailable, "gateway CA", rule));
        }
        Ok(accepted)
    }

    /// Is the gateway enrolled, and its verdict not failed? An old verdict still counts: it heals by renewal.
    ///
    /// A gateway that a site's CA certified has no verdict. That is enough where the configuration names that CA, by
    /// `[est]`, and only there: what another configuration left behind is set aside at start.
    pub fn trusted(&self) -> Result<&Accepted, Refusal> {
        let accepted = self.accepted.as_ref().ok_or_else(|| {
            Refusal::new(
                Reason::AttestRequired,
                "gateway",
                "neither a fleet nor a site's CA has certified the gateway",
            )
        })?;
        let unjudged =
            || Err(Refusal::new(Reason::AttestRequired, "gateway", "the fleet has not judged the gateway"));
        if accepted.other_boot {
            let rule = "this boot is measured otherwise than the one that the fleet judged, and the lease is long: it must be judged first";
            return Err(Refusal::new(Reason::AttestFailed, "gateway", rule));
        }
        match (&accepted.verdict, &accepted.site) {
            (None, Some(_)) => Ok(accepted),
            (Some(verdict), None) => match verdict.state {
                VerdictState::Fresh | VerdictState::Stale => Ok(accepted),
                VerdictState::Failed => {
                    Err(Refusal::new(Reason::AttestFailed, "gateway", failed_check(verdict)))
                }
                VerdictState::Unknown => unjudged(),
            },
            // Nothing that we write.
            (None, None) | (Some(_), Some(_)) => unjudged(),
        }
    }

    /// The verdict as it is now: a fresh one ages.
    pub fn verdict(&self, now: UnixTime) -> Option<Verdict> {
        let mut verdict = self.accepted.as_ref()?.verdict.clone()?;
        if verdict.state == VerdictState::Fresh && verdict.expires <= now {
            verdict.state = VerdictState::Stale;
        }
        Some(verdict)
    }

    /// The enrolment after the fleet refused to renew it, or `None` when that says nothing about the device.
    pub fn refused(&self, refusal: &Refusal, now: UnixTime) -> Option<Self> {
        // A nonce grows old by a slow link alone.
        let about_the_device =
            refusal.reason.code().starts_with("attest.") && refusal.reason != Reason::AttestNonce;
        let mut next = self.clone();
        let accepted = next.accepted.as_mut().filter(|_| about_the_device)?;
        let verdict = accepted.verdict.as_mut()?;
        verdict.state = VerdictState::Failed;
        verdict.at = now;
        verdict.checks.retain(|check| check.passed);
        verdict.checks.truncate(CHECKS_MAX);
        verdict.checks.push(edgewarden_protocol::enrol::Check {
            name: refusal.reason.code().into(),
            passed: false,
            detail: format!("{}: {}", refusal.subject, refusal.rule),
        });
        Some(next)
    }

    /// Checks the fleet's answer and returns the enrolment that it makes.
    pub fn accept(&self, enrolled: &Enrolled, expected: &Expected, now: UnixTime) -> Result<Self, Refusal> {
        let refuse = |reason, rule: &str| Err(Refusal::new(reason, "gateway CA certificate", rule));
        if enrolled.root.as_slice() != expected.root {
            return refuse(Reason::RequestInvalid, "its root is not the pinned root");
        }
        check_verdict(&enrolled.verdict)
            .map_err(|rule| Refusal::new(Reason::RequestInvalid, "verdict", rule))?;
        let (not_before, not_after) = check_certificate(enrolled.gateway_ca.as_slice(), expected)?;
        if now < not_before || not_after <= now {
            return refuse(Reason::RequestInvalid, "it is not valid now; check this machine's clock");
        }
        if let Some(held) = &self.accepted {
            if not_before < held.not_before {
                return refuse(Reason::RequestInvalid, "it is older than the one in use");
            }
            // The fleet signs the certificate, not the verdict. Whoever carries both could else send the old ones again.
            let failed = held.verdict.as_ref().is_some_and(|verdict| verdict.state == VerdictState::Failed);
            if failed && not_before == held.not_before {
                return refuse(Reason::AttestFailed, "a failed verdict heals only by a newer certificate");
            }
        }
        let accepted = Accepted {
            gateway_ca: enrolled.gateway_ca.clone(),
            root: enrolled.root.clone(),
            verdict: Some(enrolled.verdict.clone()),
            site: None,
            not_before,
            not_after,
            boot: None,
            other_boot: false,
        };
        Ok(Self { accepted: Some(accepted) })
    }

    /// Checks at start that what was accepted still fits the pinned root and the keystore's key.
    pub fn recheck(&self, expected: &Expected) -> Result<(), Refusal> {
        let Some(accepted) = &self.accepted else { return Ok(()) };
        if accepted.site.is_some() {
            let rule = "a site's CA certified it, and the configuration names a fleet; join it";
            return Err(Refusal::new(Reason::AttestRequired, "gateway", rule));
        }
        if accepted.root.as_slice() != expected.root {
            let rule = "the configuration pins another root than the gateway joined under; join again";
            return Err(Refusal::new(Reason::AttestRequired, "gateway", rule));
        }
        check_certificate(accepted.gateway_ca.as_slice(), expected).map(drop)
    }
}

fn failed_check(verdict: &Verdict) -> String {
    let failed = verdict.checks.iter().find(|check| !check.passed);
    failed
        .map_or_else(|| "the verdict is `failed`".into(), |check| format!("{}: {}", check.name, check.detail))
}

fn check_verdict(verdict: &Verdict) -> Result<(), &'static str> {
    let long = |text: &str| text.len() > TEXT_BYTES_MAX;
    if verdict.checks.len() > CHECKS_MAX
        || long(&verdict.hardware)
        || verdict.reference.as_deref().is_some_and(long)
        || verdict.checks.iter().any(|check| long(&check.name) || long(&check.detail))
    {
        return Err("it is too long");
    }
    // A certificate comes only with a good verdict; anything else is not what the fleet sends.
    if verdict.state != VerdictState::Fresh {
        return Err("it is not `fresh`");
    }
    Ok(())
}

/// Checks everything but the time. Returns the validity.
fn check_certificate(der: &[u8], expected: &Expected) -> Result<(UnixTime, UnixTime), Refusal> {
    let refuse = |reason, rule: &str| Refusal::new(reason, "gateway CA certificate", rule);
    let invalid = |rule: &str| refuse(Reason::RequestInvalid, rule);
    let root = parse(&expected.root).ok_or_else(|| invalid("the pinned root is not a certificate"))?;
    let certificate = parse(der).ok_or_else(|| invalid("it is not a certificate"))?;
    if certificate.issuer().as_raw() != root.subject().as_raw()
        || certificate.verify_signature(Some(root.public_key())).is_err()
    {
        return Err(invalid("the pinned root did not sign it"));
    }
    if edgewarden_ca::spki::point(certificate.public_key().raw).ok().as_ref() != Some(&expected.ca_public) {
        return Err(refuse(Reason::AttestCsr, "it is not for this gateway's CA key"));
    }
    let mut names = certificate.subject().iter_common_name();
    let name = names.next().and_then(|name| name.as_str().ok());
    if name != Some(expected.gateway.as_str()) || names.next().is_some() {
        return Err(refuse(Reason::EnrolName, "its common name is not this gateway's name"));
    }
    check_extensions(&certificate, &expected.trust_domain).map_err(invalid)?;
    let validity = certificate.validity();
    let time = |at: i64| u64::try_from(at).map(UnixTime).map_err(|_| invalid("its validity is before 1970"));
    Ok((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}

/// The SPIFFE X.509-SVID specification, section 4 (signing certificates), as decided for the gateway CA.
fn check_extensions(certificate: &X509Certificate<'_>, domain: &TrustDomain) -> Result<(), &'static str> {
    let constraints = certificate.basic_constraints().map_err(|_| "its basic constraints are malformed")?;
    if !constraints.is_some_and(|c| c.critical && c.value.ca && c.value.path_len_constraint == Some(1)) {
        return Err("it is not a CA certificate for one more CA");
    }
    let usage = certificate.key_usage().map_err(|_| "its key usage is malformed")?;
    if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err("it may not sign certificates");
    }
    let names = certificate.subject_alternative_name().map_err(|_| "its alternative names are malformed")?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    match names {
        [GeneralName::URI(uri)] if *uri == domain.id().as_str() => Ok(()),
        _ => Err("its alternative name is not the trust domain alone"),
    }
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return None;
    }
    X509Certificate::from_der(der)
        .ok()
        .filter(|(rest, _)| rest.is_empty())
        .map(|(_, certificate)| certificate)
}
