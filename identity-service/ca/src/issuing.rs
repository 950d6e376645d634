use std::time::Duration;

use edgewarden_names::{GatewayName, IdKind, SpiffeId, TrustDomain, UnixTime};
use rcgen::{Issuer, PublicKeyData};
use zeroize::Zeroizing;

use crate::key::LocalKey;
use crate::signer::RemoteKey;
use crate::template::{self, BACKDATE, Validity};
use crate::{CaError, CaSigner, chain, request, spki};

/// The CA that signs a gateway's SVIDs. Its key is made with it, is in memory only and dies with it.
pub struct IssuingCa {
    issuer: Issuer<'static, LocalKey>,
    validity: Validity,
    domain: TrustDomain,
    gateway: GatewayName,
    /// Issuing CA, gateway CA, and the site's CAs if it hangs from a site's root: what follows a leaf.
    above: Vec<Vec<u8>>,
}

/// A certificate for a key that the applicant has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// DER: leaf, issuing CA, gateway CA, a site's CAs. The root is not sent.
    pub chain_der: Vec<Vec<u8>>,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    /// Hexadecimal, lower case.
    pub serial: String,
}

/// A certificate with its key. No `Clone`, no `Debug` of the key.
pub struct Svid {
    pub id: SpiffeId,
    /// DER: leaf, issuing CA, gateway CA, a site's CAs. The root is not sent.
    pub chain_der: Vec<Vec<u8>>,
    /// PKCS#8.
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    pub not_before: UnixTime,
    pub not_after: UnixTime,
    /// Hexadecimal, lower case.
    pub serial: String,
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for IssuingCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuingCa").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

impl IssuingCa {
    /// Makes a key and has the gateway CA certify it. Refused when the gateway CA's certificate is not for this
    /// gateway and this signer, may not sign CAs, or is not valid now.
    pub fn create(
        signer: &dyn CaSigner,
        gateway_ca_der: &[u8],
        domain: &TrustDomain,
        gateway: &GatewayName,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Self, CaError> {
        let remote = RemoteKey::new(signer)?;
        let parent = chain::facts(gateway_ca_der)?;
        if parent.point != remote.point() {
            return Err(CaError::Certificate("the gateway CA's certificate is for another key"));
        }
        if !parent.is_ca || parent.path_length != Some(1) {
            return Err(CaError::Certificate("the gateway CA's certificate is not for one more CA"));
        }
        if parent.common_name.as_deref() != Some(gateway.as_str()) {
            return Err(CaError::Certificate("the gateway CA's certificate names another gateway"));
        }
        if parent.uris != [domain.id().as_str()] {
            return Err(CaError::Certificate("the gateway CA's certificate is for another trust domain"));
        }
        let parent_validity = Validity { not_before: parent.not_before, not_after: parent.not_after };
        let validity = Validity::within(parent_validity, now, BACKDATE, lifetime)?;
        let key = LocalKey::generate()?;
        let params = template::ca(&format!("{gateway} issuing"), &domain.id(), Some(0), validity)?;
        let certificate = {
            let parent = Issuer::from_ca_cert_der(&gateway_ca_der.into(), &remote).map_err(CaError::Build)?;
            params.signed_by(&key, &parent).map_err(|error| remote.explain(error))?
        };
        Ok(Self {
            issuer: Issuer::new(params, key),
            validity,
            domain: domain.clone(),
            gateway: gateway.clone(),
            above: vec![certificate.der().to_vec(), gateway_ca_der.to_vec()],
        })
    }

    /// With the CAs (DER) that stand between the gateway CA and the root, which follow each leaf too.
    #[must_use]
    pub fn beneath<'a>(mut self, site: impl IntoIterator<Item = &'a [u8]>) -> Self {
        self.above.extend(site.into_iter().map(<[u8]>::to_vec));
        self
    }

    /// End of the issuing CA; make another before.
    pub fn not_after(&self) -> UnixTime {
        self.validity.not_after
    }

    /// A key and a certificate for a module or leaf of this gateway, with DNS names that its policy grants.
    pub fn issue_svid(
        &self,
        id: &SpiffeId,
        dns: &[String],
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Svid, CaError> {
        let key = LocalKey::generate()?;
        let issued = self.issue(id, dns, &key, lifetime, now)?;
        Ok(Svid {
            id: id.clone(),
            chain_der: issued.chain_der,
            key_pkcs8: key.to_pkcs8()?,
            not_before: issued.not_before,
            not_after: issued.not_after,
            serial: issued.serial,
        })
    }

    /// A certificate for the public key in a request. Whatever else is in the request is ignored.
    pub fn issue_for_csr(
        &self,
        id: &SpiffeId,
        csr_der: &[u8],
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Issued, CaError> {
        let point = request::public_point(csr_der)?;
        self.issue(id, &[], &template::Subject(&point), lifetime, now)
    }

    /// A certificate for a key whose public point this machine's keystore told.
    pub fn issue_for_point(
        &self,
        id: &SpiffeId,
        dns: &[String],
        point: &[u8],
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Issued, CaError> {
        spki::check_point(point)?;
        self.issue(id, dns, &template::Subject(point), lifetime, now)
    }

    fn issue(
        &self,
        id: &SpiffeId,
        dns: &[String],
        subject: &impl PublicKeyData,
        lifetime: Duration,
        now: UnixTime,
    ) -> Result<Issued, CaError> {
        let ours = match id.kind() {
            IdKind::Module(gateway, _) | IdKind::Leaf(gateway, _) => gateway == self.gateway,
            IdKind::TrustDomain | IdKind::Gateway(_) | IdKind::Other => false,
        };
        if !ours || id.trust_domain() != self.domain {
            return Err(CaError::ForeignId(id.clone()));
        }
        let validity = Validity::within(self.validity, now, BACKDATE, lifetime)?;
        let params = template::leaf(id, dns, &[], validity)?;
        let certificate = params.signed_by(subject, &self.issuer).map_err(CaError::Build)?;
        let mut chain_der = vec![certificate.der().to_vec()];
        chain_der.extend(self.above.iter().cloned());
        Ok(Issued {
            chain_der,
            not_before: validity.not_before,
            not_after: validity.not_after,
            serial: template::serial_text(&params)?,
        })
    }
}
