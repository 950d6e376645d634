//! Asks a socket for the deployment secrets of the module that this process belongs to.

use std::path::Path;

use edgewarden_names::SecretName;
use edgewarden_workload_wire::secrets::Secret;
use edgewarden_workload_wire::secrets_v1::secrets_client::SecretsClient;
use edgewarden_workload_wire::secrets_v1::{self as wire, GetRequest, WatchRequest, WatchResponse};
use tonic::codec::Streaming;
use zeroize::Zeroizing;

use crate::socket::{FetchError, connect, secured};

/// All secrets of one module, and room for their names.
const REPLY_BYTES_MAX: usize = 2 * 1024 * 1024;

fn parse(secret: &wire::Secret) -> Result<Secret, FetchError> {
    let name = SecretName::parse(&secret.name).map_err(|_| FetchError::Empty)?;
    Ok(Secret { name, version: secret.version, value: Zeroizing::new(secret.value.to_vec()) })
}

/// One secret, once.
pub async fn get(socket: &Path, name: &str) -> Result<Secret, FetchError> {
    let mut client = SecretsClient::new(connect(socket).await?).max_decoding_message_size(REPLY_BYTES_MAX);
    parse(client.get(secured(GetRequest { name: name.to_owned() })).await?.get_ref())
}

/// All secrets, now and whenever one has changed.
#[derive(Debug)]
pub struct Watch(Streaming<WatchResponse>);

/// Begins to watch the secrets of the socket's instance.
pub async fn watch(socket: &Path) -> Result<Watch, FetchError> {
    let mut client = SecretsClient::new(connect(socket).await?).max_decoding_message_size(REPLY_BYTES_MAX);
    Ok(Watch(client.watch(secured(WatchRequest {})).await?.into_inner()))
}

impl Watch {
    /// The next complete set: what it does not name is no more.
    pub async fn next(&mut self) -> Result<Vec<Secret>, FetchError> {
        let message = self.0.message().await?.ok_or(FetchError::Ended)?;
        message.secrets.iter().map(parse).collect()
    }
}
