//! From a bag of certificates to a chain that may be used (RFC 5280 section 6; RFC 7030 sections 3.6.1 and 4.2.3).
//!
//! Trusts the anchors and the clock. Distrusts every certificate in every bag: what the server says is a CA becomes
//! one only when a path of signatures leads from it to an anchor. Such a path also goes over the certificates of a root
//! that changes its key (RFC 4210 section 4.4): a `NewWithOld` is an intermediate like any other.
//!
//! Not looked at: certificate policies, which nobody asks for; revocation, which EST has no answer for; and for a CA of
//! ours the extended key usages above it, which bind the leaves that it issues and are judged with them.

use edgewarden_ca::spki;
use edgewarden_names::{Reason, Refusal, UnixTime};
use rustls_pki_types::{CertificateDer, UnixTime as PkiTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate::{Certificate, Malformed};
use crate::certs_only::CERTIFICATES_MAX;
use crate::der::Reader;
use crate::subject::{Profile, Subject};
use crate::{EstError, TrustAnchors};

/// Most certificates between ours and the anchor.
pub const INTERMEDIATES_MAX: usize = 6;
/// Most signatures that are checked for one chain: a bag of look-alikes cannot keep us busy.
const SIGNATURES_MAX: u32 = 256;

/// Certificates that may help to find a path, such as those of `cacerts`. None of them is believed.
#[derive(Debug, Clone, Default)]
pub struct CertificateBag {
    certificates: Vec<Certificate>,
}

impl CertificateBag {
    /// One that is not a certificate refuses the bag.
    pub fn new<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, Refusal> {
        let mut read: Vec<Certificate> = Vec::new();
        for der in certificates {
            let refuse = |rule: &str| Refusal::new(Reason::EstAnswer, "certificates", rule);
            if read.len() == CERTIFICATES_MAX {
                return Err(refuse("too many certificates"));
            }
            let certificate = Certificate::parse(der).map_err(|Malformed(rule)| refuse(rule))?;
            if read.iter().all(|known| known.der != certificate.der) {
                read.push(certificate);
            }
        }
        Ok(Self { certificates: read })
    }

    /// DER, in the order in which they came.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(|certificate| certificate.der.as_slice())
    }

    /// Those from which a valid path leads to an anchor, at `now`: what `cacerts` says that we have a reason to believe.
    pub fn trusted(&self, anchors: &TrustAnchors, now: UnixTime) -> Vec<&[u8]> {
        let is_trusted = |certificate: &&Certificate| {
            let is_anchor = anchors.certificates.iter().any(|anchor| anchor.der == certificate.der);
            let mut search = Search { anchors, helpers: &[self], now, budget: SIGNATURES_MAX };
            is_anchor
                || (certificate.is_ca
                    && search.check(certificate).is_ok()
                    && search.path(&mut vec![certificate], counted(certificate)).is_some())
        };
        self.certificates.iter().filter(is_trusted).map(|certificate| certificate.der.as_slice()).collect()
    }
}

/// A certificate whose key is ours, that chains to an anchor, fits its profile, carries the names that were asked for,
/// and was valid when it was checked. Only [`EnrolledChain::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledChain {
    certificates: Vec<Vec<u8>>,
    anchor: Vec<u8>,
    subject: Vec<u8>,
    alternatives: Vec<u8>,
    profile: Profile,
    point: Vec<u8>,
    common_name: Option<String>,
    serial: String,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl EnrolledChain {
    /// Checks a chain that was kept, ours first: after a restart, or when it came by another way.
    pub fn verify(
        certificates: &[Vec<u8>],
        point: &[u8],
        profile: Profile,
        anchors: &TrustAnchors,
        now: UnixTime,
    ) -> Result<Self, EstError> {
        let bag = CertificateBag::new(certificates.iter().map(Vec::as_slice))?;
        judge(&bag, &CertificateBag::default(), &Expected { point, profile, alternatives: &[] }, anchors, now)
    }

    /// DER, ours first, each signed by the next, without the anchor.
    pub fn certificates(&self) -> &[Vec<u8>] {
        &self.certificates
    }

    /// The trust anchor that the chain ends at, DER.
    pub fn anchor(&self) -> &[u8] {
        &self.anchor
    }

    /// Purpose of the certificate.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// The key's uncompressed P-256 point.
    pub fn point(&self) -> &[u8] {
        &self.point
    }

    /// The first common name, for people. The CA chose it.
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// Hexadecimal, lower case.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Begin of the validity of the whole chain.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// End of the validity of the first of the chain that ends.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// Subject of a renewal: the names of this certificate.
    pub fn subject(&self) -> Subject {
        Subject { name: self.subject.clone(), alternatives: self.alternatives.clone(), profile: self.profile }
    }
}

/// Key, profile and names that a certificate is compared with.
pub(crate) struct Expected<'a> {
    pub(crate) point: &'a [u8],
    pub(crate) profile: Profile,
    /// Content of GeneralNames.
    pub(crate) alternatives: &'a [u8],
}

/// Finds our certificate in `answer` and a path from it to an anchor, over `answer` and `helpers`.
pub(crate) fn judge(
    answer: &CertificateBag,
    helpers: &CertificateBag,
    expected: &Expected<'_>,
    anchors: &TrustAnchors,
    now: UnixTime,
) -> Result<EnrolledChain, EstError> {
    let refuse = |rule: &str| Refusal::new(Reason::EstCertificate, "certificate", rule);
    let spki = spki::der(expected.point).map_err(|_| refuse("our key is not a P-256 key"))?;
    let mut ours = answer.certificates.iter().filter(|certificate| certificate.spki == spki);
    let certificate = ours.next().ok_or_else(|| refuse("it is for another key"))?;
    if ours.next().is_some() {
        return Err(refuse("there is more than one for our key").into());
    }
    if now < certificate.not_before {
        // The clock of either side may be put right.
        let rule = format!("it is valid from {}, it is {now}", certificate.not_before);
        return Err(EstError::transient(refuse(&rule), None));
    }
    let beneath = fits(certificate, expected).map_err(refuse)?;
    let mut search = Search { anchors, helpers: &[answer, helpers], now, budget: SIGNATURES_MAX };
    search.check(certificate).map_err(refuse)?;
    let mut path = vec![certificate];
    let anchor = search
        .path(&mut path, beneath)
        .ok_or_else(|| refuse("no path of valid CA certificates leads from it to a trust anchor"))?;
    match expected.profile {
        Profile::EndEntity => second_opinion(&path, anchors, now).map_err(refuse)?,
        Profile::CertificateAuthority { .. } => {
            if path.iter().skip(1).any(|ca| ca.constrains_names) || anchor.constrains_names {
                return Err(refuse("a CA above it constrains names, which is not evaluated for CAs").into());
            }
        }
    }
    Ok(EnrolledChain {
        certificates: path.iter().map(|certificate| certificate.der.clone()).collect(),
        anchor: anchor.der.clone(),
        subject: certificate.subject.clone(),
        alternatives: certificate.alternatives.clone(),
        profile: expected.profile,
        point: expected.point.to_vec(),
        common_name: certificate.common_name.clone(),
        serial: certificate.serial.clone(),
        not_before: path.iter().fold(certificate.not_before, |latest, one| latest.max(one.not_before)),
        not_after: path.iter().fold(certificate.not_after, |first, one| first.min(one.not_after)),
    })
}

const MALFORMED: &str = "its alternative names are malformed";

/// The number of CAs that a CA above must allow beneath itself. Fails when the certificate is not of the profile or
/// does not carry the names.
fn fits(certificate: &Certificate, expected: &Expected<'_>) -> Result<u32, &'static str> {
    let beneath = match expected.profile {
        Profile::EndEntity => {
            if certificate.is_ca {
                return Err("it is a CA's, which was not asked for");
            }
            if certificate.may_sign == Some(false) {
                return Err("its key usage forbids signatures, so TLS cannot use it");
            }
            0
        }
        Profile::CertificateAuthority { path_length } => {
            if !certificate.is_ca {
                return Err(
                    "it is an end-entity certificate and not a CA's (CA:TRUE), which was asked for: let the site's CA issue a subordinate CA certificate",
                );
            }
            if certificate.may_sign_certificates == Some(false) {
                return Err("it is a CA's, but its key usage forbids to sign certificates");
            }
            if certificate.path_length.is_some_and(|granted| granted < u32::from(path_length)) {
                return Err("it allows fewer CAs beneath itself than were asked for");
            }
            u32::from(path_length).saturating_add(1)
        }
    };
    let (mut granted, mut names) = (Vec::new(), Reader::new(certificate.alternatives.as_slice()));
    while !names.is_empty() {
        granted.push(names.any().map_err(|_| MALFORMED)?.whole);
    }
    let mut wanted = Reader::new(expected.alternatives);
    while !wanted.is_empty() {
        if !granted.contains(&wanted.any().map_err(|_| MALFORMED)?.whole) {
            return Err("it lacks an alternative name that was asked for");
        }
    }
    Ok(beneath)
}

/// Checks that peers will make: webpki knows extended key usages and name constraints.
fn second_opinion(path: &[&Certificate], anchors: &TrustAnchors, now: UnixTime) -> Result<(), &'static str> {
    const REFUSED: &str = "TLS peers would not accept it for client authentication beneath this anchor";
    let ders: Vec<CertificateDer<'_>> =
        path.iter().map(|ca| CertificateDer::from(ca.der.as_slice())).collect();
    let (ours, intermediates) = ders.split_first().ok_or(REFUSED)?;
    EndEntityCert::try_from(ours)
        .and_then(|certificate| {
            let at = PkiTime::since_unix_epoch(std::time::Duration::from_secs(now.0));
            let algorithms = webpki::ALL_VERIFICATION_ALGS;
            let usage = KeyUsage::client_auth();
            certificate
                .verify_for_usage(algorithms, &anchors.anchors, intermediates, at, usage, None, None)
                .map(drop)
        })
        .map_err(|error| {
            tracing::warn!(%error, "the enrolled certificate is refused");
            REFUSED
        })
}

/// A depth-first search for an anchor, with a budget of signatures.
struct Search<'a> {
    anchors: &'a TrustAnchors,
    helpers: &'a [&'a CertificateBag],
    now: UnixTime,
    budget: u32,
}

impl<'a> Search<'a> {
    /// Checks that hold for every certificate of a path.
    fn check(&self, certificate: &Certificate) -> Result<(), &'static str> {
        if self.now < certificate.not_before {
            return Err("it is not valid yet");
        }
        // RFC 5280 section 4.1.2.5: the last moment belongs to it.
        if self.now > certificate.not_after {
            return Err("it has expired");
        }
        if certificate.unknown_critical {
            return Err("it has a critical extension that we do not know");
        }
        Ok(())
    }

    /// Extends `path` to an anchor. `beneath` is how many CAs the next issuer must allow beneath itself.
    fn path(&mut self, path: &mut Vec<&'a Certificate>, beneath: u32) -> Option<&'a Certificate> {
        let last = *path.last()?;
        let anchors = self.anchors;
        for anchor in &anchors.certificates {
            if anchor.subject == last.issuer && self.is_signed_by(last, anchor) && allows(anchor, beneath) {
                return Some(anchor);
            }
        }
        if path.len() > INTERMEDIATES_MAX {
            return None;
        }
        for issuer in self.helpers.iter().flat_map(|bag| &bag.certificates) {
            let known = path.iter().any(|used| used.spki == issuer.spki && used.subject == issuer.subject);
            if known
                || issuer.subject != last.issuer
                || !allows(issuer, beneath)
                || self.check(issuer).is_err()
            {
                continue;
            }
            if !self.is_signed_by(last, issuer) {
                continue;
            }
            path.push(issuer);
            if let Some(anchor) = self.path(path, beneath.saturating_add(counted(issuer))) {
                return Some(anchor);
            }
            path.pop();
        }
        None
    }

    fn is_signed_by(&mut self, certificate: &Certificate, issuer: &Certificate) -> bool {
        let Some(left) = self.budget.checked_sub(1) else { return false };
        self.budget = left;
        certificate.is_signed_by(issuer)
    }
}

/// Length that a CA adds to a path: self-issued ones, such as a root's new key, nothing (RFC 5280 section 4.2.1.9).
fn counted(ca: &Certificate) -> u32 {
    u32::from(ca.subject != ca.issuer)
}

/// `true` when a CA may have issued a certificate with so many CAs beneath the CA itself.
fn allows(ca: &Certificate, beneath: u32) -> bool {
    ca.is_ca
        && ca.may_sign_certificates != Some(false)
        && ca.path_length.is_none_or(|length| beneath <= length)
}
