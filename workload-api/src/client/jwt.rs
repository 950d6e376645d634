//! The JWT profile, asked once.

use std::collections::BTreeMap;
use std::path::Path;

use edgewarden_names::{SpiffeId, TrustDomain};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use super::{FetchError, REPLY_BYTES_MAX, connect};
use crate::SECURITY_HEADER;
use crate::jwt::JwtKeys;
use crate::source::JwtSvid;
use crate::workloadapi::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::workloadapi::{JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest};

async fn client(socket: &Path) -> Result<SpiffeWorkloadApiClient<Channel>, FetchError> {
    let channel = connect(socket).await?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX))
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

/// A token of the socket's default identity for these audiences.
pub async fn fetch_jwt_svid(socket: &Path, audience: &[String]) -> Result<JwtSvid, FetchError> {
    let message = JwtsvidRequest { audience: audience.to_vec(), spiffe_id: String::new() };
    let answer = client(socket).await?.fetch_jwtsvid(request(message)).await?.into_inner();
    let svid = answer.svids.into_iter().next().ok_or(FetchError::Empty)?;
    let token = Zeroizing::new(svid.svid);
    if token.is_empty() {
        return Err(FetchError::Empty);
    }
    Ok(JwtSvid { id: SpiffeId::parse(&svid.spiffe_id)?, token })
}

/// Whose token it is, if the socket's server says that it may be believed by this audience.
pub async fn validate_jwt_svid(socket: &Path, audience: &str, token: &str) -> Result<SpiffeId, FetchError> {
    let message = ValidateJwtsvidRequest { audience: audience.into(), svid: token.into() };
    let answer = client(socket).await?.validate_jwtsvid(request(message)).await?.into_inner();
    Ok(SpiffeId::parse(&answer.spiffe_id)?)
}

/// The JWT keys of each trust domain that the socket's identity may check others of.
pub async fn fetch_jwt_bundles(socket: &Path) -> Result<BTreeMap<TrustDomain, JwtKeys>, FetchError> {
    let mut stream =
        client(socket).await?.fetch_jwt_bundles(request(JwtBundlesRequest {})).await?.into_inner();
    let message = stream.message().await?.ok_or(FetchError::Ended)?;
    let one = |(id, keys): (String, prost::bytes::Bytes)| {
        Ok((SpiffeId::parse(&id)?.trust_domain(), JwtKeys::parse(&keys)?))
    };
    message.bundles.into_iter().map(one).collect()
}
