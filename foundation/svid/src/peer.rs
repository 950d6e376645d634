//! The SPIFFE ID of a certificate chain, and the checks before it may be believed.
//!
//! What is checked, in this order: a path to the trust domain's root (RFC 5280 section 6, by webpki); the leaf is an
//! X.509-SVID (SPIFFE X.509-SVID, section 5.2: one URI SAN, with a path, and a key for signing that signs no
//! certificates); its ID lies in the trust domain; and its issuer may speak for it. The last is our own rule, because
//! URI name constraints are poorly supported: a gateway CA carries its gateway's name as CN, and vouches only for what
//! lies beneath that gateway. Directly under the root stands only the fleet's server.
//!
//! A root without a URI SAN is that of a site's own CA, and then CAs of the site may stand between it and a gateway CA.
//! They too are told by having no URI SAN: the gateway CA is the topmost issuer that has one. No gateway can put a CA above
//! its own, so this lets no gateway speak for another; but every CA of the site may name gateways.
//!
//! Trusts the roots and the clock. Distrusts every byte of the chain.

use edgewarden_names::{GatewayName, Refusal, SpiffeId, TrustDomain, UnixTime};
use rustls_pki_types::{self as pki_types, CertificateDer};
use x509_parser::certificate::X509Certificate;

use crate::certificate::{broken, has_no_uri, no_path, parse, refuse, spiffe_id};
use crate::roots::{ALGORITHMS, Roots};

/// Issuing CA, gateway CA, the CAs of a site above them, and a root that a peer sends needlessly.
const INTERMEDIATES_MAX: usize = 3 + SITE_CAS_MAX;
/// Most CAs of a site between its root and a gateway CA.
pub const SITE_CAS_MAX: usize = 4;

/// Side of a connection that the owner of a certificate is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    Client,
    Server,
}

impl Usage {
    fn of_webpki(self) -> webpki::KeyUsage {
        match self {
            Self::Client => webpki::KeyUsage::client_auth(),
            Self::Server => webpki::KeyUsage::server_auth(),
        }
    }
}

/// SPIFFE ID of a chain: the one URI SAN of the first certificate. For chains that a handshake has verified.
pub fn peer_id(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, Refusal> {
    let leaf = chain.first().ok_or_else(|| refuse("peer", "the peer has shown no certificate"))?;
    spiffe_id(&parse(leaf)?)
}

/// End of a chain's validity: the earliest among its certificates.
pub fn peer_expiry(chain: &[CertificateDer<'_>]) -> Result<UnixTime, Refusal> {
    let mut earliest = None;
    for der in chain {
        let end = parse(der)?.validity().not_after.timestamp();
        // An end before 1970 has passed.
        let end = UnixTime(u64::try_from(end).unwrap_or(0));
        earliest = Some(earliest.map_or(end, |earliest: UnixTime| earliest.min(end)));
    }
    earliest.ok_or_else(|| refuse("peer", "the peer has shown no certificate"))
}

/// The validity of a certificate, which may be anything: not before, and not after.
pub fn life(der: &CertificateDer<'_>) -> Result<(UnixTime, UnixTime), Refusal> {
    let parsed = parse(der)?;
    let validity = parsed.validity();
    let time = |at: i64| UnixTime(u64::try_from(at).unwrap_or(0));
    Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}

/// Verifies a chain as the module says, and returns whose it is.
pub fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &Roots,
    usage: Usage,
    now: pki_types::UnixTime,
) -> Result<SpiffeId, Refusal> {
    if intermediates.len() > INTERMEDIATES_MAX {
        return Err(refuse("peer", format_args!("a chain has at most {INTERMEDIATES_MAX} issuers")));
    }
    let parsed = parse(leaf)?;
    // Only for the words of a refusal until the path has been verified.
    let id = spiffe_id(&parsed)?;
    let end_entity = webpki::EndEntityCert::try_from(leaf).map_err(|error| no_path(&id, &error))?;
    let path = end_entity
        .verify_for_usage(ALGORITHMS, &roots.anchors, intermediates, now, usage.of_webpki(), None, None)
        .map_err(|error| no_path(&id, &error))?;
    check_leaf(&parsed, &id, &roots.domain)?;
    let ders: Vec<_> = path.intermediate_certificates().map(webpki::Cert::der).collect();
    let mut issuers = ders.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let mut site_cas = 0_usize;
    let of_site = roots.is_of_site(path.anchor());
    while let Some(top) = issuers.pop_if(|top| of_site && has_no_uri(top)) {
        check_site_ca(&top)?;
        site_cas = site_cas.saturating_add(1);
    }
    if site_cas > SITE_CAS_MAX {
        return Err(refuse(
            &id,
            format_args!("at most {SITE_CAS_MAX} CAs of a site stand above a gateway's"),
        ));
    }
    for issuer in &issuers {
        check_issuer(issuer, &roots.domain)?;
    }
    // The last issuer that is left stands directly under the root, or under the site's CAs: the gateway CA.
    let gateway = issuers.last().map(common_name).transpose()?;
    match gateway {
        Some(gateway) if id.gateway_name().as_ref() == Some(&gateway) => Ok(id),
        Some(gateway) => {
            Err(refuse(&id, format_args!("gateway `{gateway}` vouches only for what lies beneath it")))
        }
        None if of_site => Err(refuse(
            &id,
            "a site's CA vouches only for CAs of gateways, which carry the trust domain's ID",
        )),
        None if id == SpiffeId::fleet(&roots.domain) => Ok(id),
        None => Err(refuse(&id, "the root itself vouches only for the fleet's server")),
    }
}

/// SPIFFE X.509-SVID, sections 2 and 4, for a leaf.
pub(crate) fn check_leaf(
    leaf: &X509Certificate<'_>,
    id: &SpiffeId,
    domain: &TrustDomain,
) -> Result<(), Refusal> {
    if id.trust_domain() != *domain {
        return Err(refuse(id, format_args!("the peer must be of the trust domain `{domain}`")));
    }
    if id.path().is_empty() {
        return Err(refuse(id, "a trust domain's own ID authenticates nobody"));
    }
    let usage = leaf.key_usage().map_err(|error| broken(id, &error))?;
    let signs_only = usage.is_some_and(|usage| {
        let value = usage.value;
        usage.critical && value.digital_signature() && !value.key_cert_sign() && !value.crl_sign()
    });
    if !signs_only {
        return Err(refuse(
            id,
            "the key usage of an SVID is critical, with digitalSignature and without keyCertSign",
        ));
    }
    Ok(())
}

/// SPIFFE X.509-SVID, sections 2 and 4, for a signing certificate: the trust domain's own ID, without a path.
fn check_issuer(issuer: &X509Certificate<'_>, domain: &TrustDomain) -> Result<(), Refusal> {
    let subject = issuer.subject();
    if spiffe_id(issuer)? != domain.id() {
        return Err(refuse(subject, format_args!("an issuer's URI SAN is `{}`", domain.id())));
    }
    let usage = issuer.key_usage().map_err(|error| broken(subject, &error))?;
    if !usage.is_some_and(|usage| usage.critical && usage.value.key_cert_sign()) {
        return Err(refuse(subject, "the key usage of an issuer is critical, with keyCertSign"));
    }
    Ok(())
}

/// RFC 5280 section 4.2.1.3; the rest is webpki's.
fn check_site_ca(issuer: &X509Certificate<'_>) -> Result<(), Refusal> {
    let subject = issuer.subject();
    let usage = issuer.key_usage().map_err(|error| broken(subject, &error))?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(refuse(subject, "the key usage of an issuer forbids to sign certificates"));
    }
    Ok(())
}

/// Verdict of every peer of ours on a chain (DER, leaf first, without the root) at `now`, as a client's and as a
/// server's: for who puts a chain into use.
pub fn judge_chain(
    chain: &[Vec<u8>],
    roots: &[Vec<u8>],
    domain: &TrustDomain,
    now: UnixTime,
) -> Result<SpiffeId, Refusal> {
    let ders: Vec<CertificateDer<'_>> =
        chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (leaf, issuers) =
        ders.split_first().ok_or_else(|| refuse("peer", "the peer has shown no certificate"))?;
    let roots = Roots::new(domain.clone(), roots).map_err(|error| broken("root", &error))?;
    let at = pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.0));
    verify(leaf, issuers, &roots, Usage::Client, at)?;
    verify(leaf, issuers, &roots, Usage::Server, at)
}

fn common_name(issuer: &X509Certificate<'_>) -> Result<GatewayName, Refusal> {
    let mut names = issuer.subject().iter_common_name();
    let name = match (names.next(), names.next()) {
        (Some(name), None) => name.as_str().ok().and_then(|name| GatewayName::parse(name).ok()),
        _ => None,
    };
    name.ok_or_else(|| refuse(issuer.subject(), "the subject of a gateway CA has one CN, the gateway's name"))
}
