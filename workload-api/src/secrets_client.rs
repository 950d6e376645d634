//! Asks a socket for the deployment secrets of the module that this process belongs to.

use std::path::Path;

use edgewarden_names::SecretName;
use tonic::Request;
use tonic::codec::Streaming;
use tonic::metadata::MetadataValue;
use zeroize::Zeroizing;

use super::Secret;
use super::wire::secrets_client::SecretsClient;
use super::wire::{self, GetRequest, WatchRequest, WatchResponse};
use crate::SECURITY_HEADER;
use crate::client::{FetchError, connect};

/// All secrets of one module, and room for their names.
const REPLY_BYTES_MAX: usize = 2 * 1024 * 1024;

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

fn parse(secret: &wire::Secret) -> Result<Secret, FetchError> {
    let name = SecretName::parse(&secret.name).map_err(|_| FetchError::Empty)?;
    Ok(Secret { name, version: secret.version, value: Zeroizing::new(secret.value.to_vec()) })
}

/// One secret, once.
pub async fn get(socket: &Path, name: &str) -> Result<Secret, FetchError> {
    let mut client = SecretsClient::new(connect(socket).await?).max_decoding_message_size(REPLY_BYTES_MAX);
    parse(client.get(request(GetRequest { name: name.to_owned() })).await?.get_ref())
}

/// All secrets, now and whenever one has changed.
#[derive(Debug)]
pub struct Watch(Streaming<WatchResponse>);

pub async fn watch(socket: &Path) -> Result<Watch, FetchError> {
    let mut client = SecretsClient::new(connect(socket).await?).max_decoding_message_size(REPLY_BYTES_MAX);
    Ok(Watch(client.watch(request(WatchRequest {})).await?.into_inner()))
}

impl Watch {
    /// The next complete set: what it does not name is no more.
    pub async fn next(&mut self) -> Result<Vec<Secret>, FetchError> {
        let message = self.0.message().await?.ok_or(FetchError::Ended)?;
        message.secrets.iter().map(parse).collect()
    }
}
