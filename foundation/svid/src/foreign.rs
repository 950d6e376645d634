//! The chain that the bundle endpoint of another trust domain shows (SPIFFE Federation, section 5.2.2).
//!
//! A trust domain of others has its own order of CAs, so that our rules about gateways ([`crate::peer`]) do not hold here.

use edgewarden_names::{Reason, Refusal, SpiffeId};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};

use crate::certificate::{no_path, parse, refuse, spiffe_id};
use crate::peer::check_leaf;
use crate::roots::ALGORITHMS;

/// Most issuers between an SVID and an authority.
const INTERMEDIATES_MAX: usize = 8;

/// Checks that a server's chain leads to these authorities and is that of exactly `expected` (SPIFFE X.509-SVID,
/// section 5: a path, one URI SAN, a leaf that signs no certificates). Fails with `federation.untrusted`.
pub fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: &[TrustAnchor<'_>],
    expected: &SpiffeId,
    now: UnixTime,
) -> Result<(), Refusal> {
    verify_chain(leaf, intermediates, authorities, expected, now)
        .map_err(|refusal| Refusal { reason: Reason::FederationUntrusted, ..refusal })
}

fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authorities: &[TrustAnchor<'_>],
    expected: &SpiffeId,
    now: UnixTime,
) -> Result<(), Refusal> {
    if intermediates.len() > INTERMEDIATES_MAX {
        return Err(refuse("peer", format_args!("a chain has at most {INTERMEDIATES_MAX} issuers")));
    }
    let parsed = parse(leaf)?;
    // Only for the words of a refusal until the path has been verified.
    let id = spiffe_id(&parsed)?;
    let usage = webpki::KeyUsage::server_auth();
    webpki::EndEntityCert::try_from(leaf)
        .and_then(|leaf| {
            leaf.verify_for_usage(ALGORITHMS, authorities, intermediates, now, usage, None, None).map(drop)
        })
        .map_err(|error| no_path(&id, &error))?;
    check_leaf(&parsed, &id, &expected.trust_domain())?;
    if id != *expected {
        return Err(refuse(&id, format_args!("the endpoint must be `{expected}`")));
    }
    Ok(())
}
