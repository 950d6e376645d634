//! The JWT profile, asked once.

use std::collections::BTreeMap;
use std::path::Path;

use edgewarden_names::{SpiffeId, TrustDomain};
use edgewarden_svid::JwtSvid;
use edgewarden_svid::jwt::JwtKeys;
use edgewarden_workload_wire::workloadapi::{JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest};
use zeroize::Zeroizing;

use crate::socket::{FetchError, client, secured};

/// A token of the socket's default identity for these audiences.
pub async fn fetch_jwt_svid(socket: &Path, audience: &[String]) -> Result<JwtSvid, FetchError> {
    fetch_jwt_svid_of(socket, audience, None).await
}

/// A token for these audiences: of the identity `id`, or of the default one.
pub async fn fetch_jwt_svid_of(
    socket: &Path,
    audience: &[String],
    id: Option<&SpiffeId>,
) -> Result<JwtSvid, FetchError> {
    let spiffe_id = id.map(ToString::to_string).unwrap_or_default();
    let message = JwtsvidRequest { audience: audience.to_vec(), spiffe_id };
    let answer = client(socket).await?.fetch_jwtsvid(secured(message)).await?.into_inner();
    let svid = answer.svids.into_iter().next().ok_or(FetchError::Empty)?;
    let token = Zeroizing::new(svid.svid);
    // Compact serialization has no other characters (RFC 7515 section 7.1), and a terminal may be shown it.
    let is_of_token = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if token.is_empty() || !token.bytes().all(is_of_token) {
        return Err(FetchError::Empty);
    }
    Ok(JwtSvid { id: SpiffeId::parse(&svid.spiffe_id)?, token })
}

/// Subject of a token, if the socket's server says that it may be believed by this audience.
pub async fn validate_jwt_svid(socket: &Path, audience: &str, token: &str) -> Result<SpiffeId, FetchError> {
    let message = ValidateJwtsvidRequest { audience: audience.into(), svid: token.into() };
    let answer = client(socket).await?.validate_jwtsvid(secured(message)).await?.into_inner();
    Ok(SpiffeId::parse(&answer.spiffe_id)?)
}

/// The JWT keys of each trust domain that the socket's identity may check others of.
pub async fn fetch_jwt_bundles(socket: &Path) -> Result<BTreeMap<TrustDomain, JwtKeys>, FetchError> {
    let mut stream =
        client(socket).await?.fetch_jwt_bundles(secured(JwtBundlesRequest {})).await?.into_inner();
    let message = stream.message().await?.ok_or(FetchError::Ended)?;
    let one = |(id, keys): (String, prost::bytes::Bytes)| {
        Ok((SpiffeId::parse(&id)?.trust_domain(), JwtKeys::parse(&keys)?))
    };
    message.bundles.into_iter().map(one).collect()
}
