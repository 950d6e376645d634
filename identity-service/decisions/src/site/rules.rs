//! Rules for the certificate of a gateway CA from a site's CA, and the refusals.

use edgewarden_ca::chain;
use edgewarden_est::{EnrolledChain, Names, Profile, Subject, TrustAnchors};
use edgewarden_names::{GatewayName, Reason, Refusal, TrustDomain, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_svid::peer::SITE_CAS_MAX;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::enrolment::{Accepted, SiteChain};

/// One CA beneath the gateway CA: the issuing CA.
const GATEWAY_CA: Profile = Profile::CertificateAuthority { path_length: 1 };

/// The subject that a site's CA is to certify, and the anchors that its certificates are judged by.
#[derive(Debug)]
pub struct Site {
    pub url: String,
    pub gateway: GatewayName,
    pub trust_domain: TrustDomain,
    pub anchors: TrustAnchors,
    /// The keystore's gateway CA key, uncompressed point.
    pub point: Vec<u8>,
    subject: Subject,
}

fn refuse(rule: &str) -> Refusal {
    Refusal::new(Reason::EstCertificate, "gateway CA certificate", rule)
}

impl Site {
    /// Fails with `est.config` when gateway and trust domain make no subject.
    pub fn new(
        url: String,
        anchors: TrustAnchors,
        gateway: GatewayName,
        trust_domain: TrustDomain,
        point: Vec<u8>,
    ) -> Result<Self, Refusal> {
        let names = Names {
            common_name: gateway.to_string(),
            uris: vec![trust_domain.id().to_string()],
            ..Names::default()
        };
        Ok(Self { url, subject: Subject::new(&names, GATEWAY_CA)?, anchors, gateway, trust_domain, point })
    }

    /// Subject of a first request.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The enrolment in force once a chain has passed the rules. The path to an anchor, the key and the profile are
    /// [`EnrolledChain`]'s; the rest is what issuance and our peers rely on.
    pub fn accept(&self, chain: &EnrolledChain) -> Result<Accepted, Refusal> {
        let (gateway_ca, above) =
            chain.certificates().split_first().ok_or_else(|| refuse("there is none"))?;
        if above.len() > SITE_CAS_MAX {
            let rule = format!("more than {SITE_CAS_MAX} CAs stand between it and the trust anchor");
            return Err(refuse(&rule));
        }
        let facts = chain::facts(gateway_ca).map_err(|error| refuse(&error.to_string()))?;
        if facts.common_name.as_deref() != Some(self.gateway.as_str()) {
            let rule = format!("its subject must have one common name, `{}`", self.gateway);
            return Err(refuse(&rule));
        }
        let domain = self.trust_domain.id();
        if facts.uris != [domain.as_str()] {
            let rule = format!(
                "its alternative names must have one URI, `{domain}`: let the site's CA take it over from the request"
            );
            return Err(refuse(&rule));
        }
        if facts.path_length != Some(1) {
            return Err(refuse("its basic constraints must be CA:TRUE with pathlen:1, as in the request"));
        }
        check_extensions(gateway_ca)?;
        // Peers tell the site's CAs from gateways' by this.
        for issuer in above {
            let names_uri = chain_uri(issuer)?;
            if names_uri {
                return Err(refuse("a CA above it has a URI as alternative name, as only gateways' CAs may"));
            }
        }
        let bytes = |der: &[u8]| Bytes(der.to_vec());
        Ok(Accepted {
            gateway_ca: bytes(gateway_ca),
            root: bytes(chain.anchor()),
            verdict: None,
            site: Some(SiteChain {
                above: above.iter().map(|der| bytes(der)).collect(),
                roots: self.anchors.certificates().map(bytes).collect(),
            }),
            not_before: chain.not_before(),
            not_after: chain.not_after(),
            boot: None,
            other_boot: false,
        })
    }

    /// The chain that is in force, ready to be renewed. It is judged as of its own time: that it has expired, or that
    /// the clock is wrong, does not make it another's.
    pub fn held(&self, accepted: &Accepted) -> Result<EnrolledChain, Refusal> {
        let mut certificates = vec![accepted.gateway_ca.0.clone()];
        certificates.extend(accepted.above().map(<[u8]>::to_vec));
        let at: UnixTime = accepted.not_before;
        EnrolledChain::verify(&certificates, &self.point, GATEWAY_CA, &self.anchors, at)
            .map_err(|error| error.refusal)
    }

    /// Checks at start that what was accepted fits this configuration and the keystore's key; with the bundle of today.
    pub fn recheck(&self, accepted: &Accepted) -> Result<Accepted, Refusal> {
        if accepted.site.is_none() || accepted.verdict.is_some() {
            let rule = "a fleet certified it, and the configuration names a site's CA instead";
            return Err(Refusal::new(Reason::AttestRequired, "gateway", rule));
        }
        self.accept(&self.held(accepted)?)
    }
}

/// Key usage and extended key usage, which bind everything beneath (RFC 5280 sections 4.2.1.3 and 4.2.1.12).
fn check_extensions(der: &[u8]) -> Result<(), Refusal> {
    let certificate = parse(der)?;
    let usage = certificate.key_usage().map_err(|_| refuse("its key usage is malformed"))?;
    if !usage.is_some_and(|usage| usage.critical && usage.value.key_cert_sign()) {
        return Err(refuse("its key usage must be critical and allow to sign certificates"));
    }
    let constraints =
        certificate.basic_constraints().map_err(|_| refuse("its basic constraints are malformed"))?;
    if !constraints.is_some_and(|constraints| constraints.critical) {
        return Err(refuse("its basic constraints must be critical"));
    }
    let extended =
        certificate.extended_key_usage().map_err(|_| refuse("its extended key usage is malformed"))?;
    if extended.is_some_and(|usage| !usage.value.server_auth || !usage.value.client_auth) {
        return Err(refuse(
            "its extended key usage must be absent, or allow TLS servers and clients: it binds the modules' certificates",
        ));
    }
    Ok(())
}

/// `true` when a CA of the site has a URI among its names.
fn chain_uri(der: &[u8]) -> Result<bool, Refusal> {
    let certificate = parse(der)?;
    let malformed = |_| refuse("the alternative names of a CA above it are malformed");
    let names = certificate.subject_alternative_name().map_err(malformed)?;
    let is_uri = |name: &x509_parser::extensions::GeneralName<'_>| {
        matches!(name, x509_parser::extensions::GeneralName::URI(_))
    };
    Ok(names.is_some_and(|names| names.value.general_names.iter().any(is_uri)))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(refuse("it is not a certificate")),
    }
}
