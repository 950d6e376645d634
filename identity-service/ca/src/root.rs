use std::net::IpAddr;
use std::time::Duration;

use edgewarden_names::{GatewayName, SpiffeId, TrustDomain, UnixTime};
use rcgen::Issuer;
use zeroize::Zeroizing;

use crate::key::LocalKey;
use crate::template::{self, BACKDATE_REMOTE, Validity};
use crate::{CaError, Issued, Svid, chain, spki};

/// The fleet's root: signs gateway CAs and the fleet's own server certificate, nothing else.
pub struct RootCa {
    issuer: Issuer<'static, LocalKey>,
    validity: Validity,
    domain: TrustDomain,
    certificate: Vec<u8>,
}

impl std::fmt::Debug for RootCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootCa").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl RootCa {
    /// A new root. Keep [`RootCa::key_pkcs8`] and [`RootCa::certificate_der`] to load it again.
    pub fn create(domain: &TrustDomain, lifetime: Duration, now: UnixTime) -> Result<Self, CaError> {
        let key = LocalKey::generate()?;
        let validity = Validity::own(now, lifetime)?;
        let params = template::ca(&format!("{domain} fleet root"), &domain.id(), None, validity)?;
        let certificate = params.self_signed(&key).map_err(CaError::Build)?.der().to_vec();
        Ok(Self { issuer: Issuer::new(params, key), validity, domain: domain.clone(), certificate })
    }

    /// A root that was kept. Refused when key and certificate do not belong together.
    pub fn load(key_pkcs8: &[u8], certificate_der: &[u8]) -> Result<Self, CaError> {
        let key = LocalKey::from_pkcs8(key_pkcs8)?;
        let facts = chain::facts(certificate_der)?;
        if facts.point != key.point() {
            return Err(CaError::Certificate("the root's certificate is for another key"));
        }
        if !facts.is_ca {
            return Err(CaError::Certificate("the root's certificate is not a CA's"));
        }
        let [uri] = facts.uris.as_slice() else {
            return Err(CaError::Certificate("the root's certificate does not name one trust domain"));
        };
        let domain = SpiffeId::parse(uri)
            .ok()
            .filter(|id| id.path().is_empty())
            .ok_or(CaError::Certificate("the root's certificate does not name a trust domain"))?
            .trust_domain();
        let issuer = Issuer::from_ca_cert_der(&certificate_der.into(), key).map_err(CaError::Build)?;
        let validity = Validity { not_before: facts.not_before, not_after: facts.not_after };
        Ok(Self { issuer, validity, domain, certificate: certificate_der.to_vec() })
    }

    /// The root's own certificate, DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The private key, to be kept where only the fleet reads.
    pub fn key_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, CaError> {
        self.issuer.key().to_pkcs8()
    }

    /// The trust domain whose root it is.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// End of the root's certificate.
    pub fn not_after(&self) -> UnixTime {
        self.validity.not_after
    }

    /// Certifies a gateway's CA key, given as P-256 point. Whether the key deserves it is the appraisal's business.
    pub fn certify_gateway_ca(
        &self,
        point: &[u8],
        gateway: &GatewayName,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Issued, CaError> {
        spki::check_point(point)?;
        let validity = Validity::within(self.validity, now, BACKDATE_REMOTE, lifetime)?;
        let params = template::ca(gateway.as_str(), &self.domain.id(), Some(1), validity)?;
        let certificate =
            params.signed_by(&template::Subject(point), &self.issuer).map_err(CaError::Build)?;
        Ok(Issued {
            chain_der: vec![certificate.der().to_vec()],
            not_before: validity.not_before,
            not_after: validity.not_after,
            serial: template::serial_text(&params)?,
        })
    }

    /// The certificate of the fleet's server: `spiffe://<td>/fleet`, and the names that it is reached by.
    pub fn server_certificate(
        &self,
        dns: &[String],
        addresses: &[IpAddr],
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Svid, CaError> {
        let id = SpiffeId::parse(&format!("{}/fleet", self.domain.id()))
            .map_err(|_| CaError::Request("the fleet's SPIFFE ID is too long"))?;
        let key = LocalKey::generate()?;
        let validity = Validity::within(self.validity, now, BACKDATE_REMOTE, lifetime)?;
        let params = template::leaf(&id, dns, addresses, validity)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(CaError::Build)?;
        Ok(Svid {
            id,
            chain_der: vec![certificate.der().to_vec()],
            key_pkcs8: key.to_pkcs8()?,
            not_before: validity.not_before,
            not_after: validity.not_after,
            serial: template::serial_text(&params)?,
        })
    }
}
