//! Identity of the other end of a connection, and the requests that it permits.
//!
//! The handshake has verified the chain to the fleet's root; here its names are compared with what is asked.

use std::net::IpAddr;

use edgewarden_ca::chain;
use edgewarden_names::{Digest, GatewayName, IdKind, Reason, Refusal, SpiffeId, TrustDomain, UnixTime};
use edgewarden_svid::{peer_expiry, peer_id};
use rustls::pki_types::CertificateDer;

/// The path length that only the fleet's root gives, and only to a gateway CA.
const GATEWAY_CA_PATH_LENGTH: Option<u32> = Some(1);

/// The other end of one connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub source: IpAddr,
    /// Absent when no client certificate was shown.
    pub client: Option<Client>,
}

/// Names and keys in a client's certificate chain, which the handshake has verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub id: SpiffeId,
    pub expires: UnixTime,
    /// The hashes of all gateway CA keys in the chain. A valid chain has one; a chain that was padded may have more,
    /// and then each of them must be known.
    pub ca_keys: Vec<Digest>,
    /// Those keys.
    pub ca_points: Vec<Vec<u8>>,
}

impl Client {
    /// Reads a chain that the handshake has verified.
    pub fn read(certificates: &[CertificateDer<'_>]) -> Result<Self, Refusal> {
        let (mut ca_keys, mut ca_points) = (Vec::new(), Vec::new());
        for certificate in certificates {
            let facts = chain::facts(certificate).map_err(|error| error.refusal("client certificate"))?;
            if facts.is_ca && facts.path_length == GATEWAY_CA_PATH_LENGTH {
                ca_keys.push(Digest::of(&facts.point));
                ca_points.push(facts.point);
            }
        }
        Ok(Self { id: peer_id(certificates)?, expires: peer_expiry(certificates)?, ca_keys, ca_points })
    }
}

impl Peer {
    /// The gateway whose `module` this is. A connection outlives no certificate.
    pub fn gateway(
        &self,
        domain: &TrustDomain,
        module: &str,
        now: UnixTime,
    ) -> Result<(GatewayName, &Client), Refusal> {
        let refused = |subject: &dyn std::fmt::Display, rule: &str| {
            Err(Refusal::new(Reason::PeerUnauthorized, subject, rule))
        };
        let Some(client) = &self.client else {
            return refused(&"client", "this needs a gateway's certificate");
        };
        if client.expires <= now {
            return refused(&client.id, "the certificate has expired; connect again");
        }
        if client.id.trust_domain() != *domain {
            return refused(&client.id, "the certificate is of another trust domain");
        }
        match client.id.kind() {
            IdKind::Module(gateway, name) if name.as_str() == module && !client.ca_keys.is_empty() => {
                Ok((gateway, client))
            }
            _ => Err(Refusal::new(
                Reason::PeerUnauthorized,
                &client.id,
                format!("only a gateway's `{module}` may ask this"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_module_of_a_gateway_with_a_good_certificate_is_let_in() {
        let domain = TrustDomain::parse("plant.example").unwrap();
        let client = |id: &str| Client {
            id: SpiffeId::parse(&format!("spiffe://{id}")).unwrap(),
            expires: UnixTime(1001),
            ca_keys: vec![Digest::of(b"gateway CA")],
            ca_points: Vec::new(),
        };
        let good = client("plant.example/gateway/gw-1/module/runtimed");
        for (case, client, allowed) in [
            ("good", Some(good.clone()), true),
            ("none", None, false),
            ("expired", Some(Client { expires: UnixTime(1000), ..good.clone() }), false),
            ("no gateway CA", Some(Client { ca_keys: Vec::new(), ..good }), false),
            ("another module", Some(client("plant.example/gateway/gw-1/module/gatewayd")), false),
            ("another trust domain", Some(client("other.example/gateway/gw-1/module/runtimed")), false),
            ("a leaf", Some(client("plant.example/gateway/gw-1/leaf/runtimed")), false),
            ("a gateway", Some(client("plant.example/gateway/gw-1")), false),
            ("the fleet", Some(client("plant.example/fleet")), false),
            ("deeper", Some(client("plant.example/gateway/gw-1/module/runtimed/x")), false),
        ] {
            let peer = Peer { source: IpAddr::from([127, 0, 0, 1]), client };
            let asked = peer.gateway(&domain, "runtimed", UnixTime(1000));
            assert_eq!(asked.is_ok(), allowed, "{case}");
            if let Err(refusal) = asked {
                assert_eq!(refusal.reason, Reason::PeerUnauthorized, "{case}");
            }
        }
    }
}
