//! What a certificate chain says about who showed it. For chains that a handshake has already verified.

use edgewarden_names::{Reason, Refusal, SpiffeId, UnixTime};
use rustls::pki_types::CertificateDer;

/// Whose chain this is: the one URI SAN of the first certificate.
pub fn peer_id(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, Refusal> {
    drop(chain.first());
    Err(Refusal::new(Reason::PeerUnauthorized, "peer", "not yet"))
}

/// When the chain stops being valid: the earliest end among its certificates.
pub fn peer_expiry(chain: &[CertificateDer<'_>]) -> Result<UnixTime, Refusal> {
    drop(chain.first());
    Err(Refusal::new(Reason::PeerUnauthorized, "peer", "not yet"))
}
