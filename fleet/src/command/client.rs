//! The command line's connection to the server: TLS with the fleet's pinned root, and the admin token. On the server's own
//! machine it goes by the operators' socket, which nobody on the network can crowd.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use edgewarden_transport::http::Client;
use edgewarden_transport::tls::{fleet_id, only, pinned_client_config};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::exit::Stop;
use crate::admin_api::PREFIX;
use crate::data_dir::DataDir;

const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
const DEADLINE: Duration = Duration::from_secs(60);

/// HTTPS client of the administration API, with the fleet's root and the admin token.
#[derive(Debug)]
pub struct Admin(Client);

impl Admin {
    /// `server` is `https://host:port`; where the server listens on this machine when absent.
    pub fn connect(data: &DataDir, server: Option<&str>) -> Result<Self, Stop> {
        let settings = data.settings().map_err(Stop::failed)?;
        let root = data.root_certificate().map_err(Stop::failed)?;
        let url = match server {
            Some(url) => url.to_owned(),
            None => match data.address().map_err(Stop::failed)? {
                Some(address) if address.ip().is_unspecified() => {
                    format!("https://localhost:{}", address.port())
                }
                Some(address) => format!("https://{address}"),
                None => {
                    return Err(Stop::Failed(
                        "the fleet has never run\nhint: start it with `edgewarden-fleet serve`".into(),
                    ));
                }
            },
        };
        let tls = pinned_client_config(
            &root.as_slice().into(),
            &settings.trust_domain,
            only(fleet_id(&settings.trust_domain)),
        )
        .map_err(Stop::failed)?;
        let token = data.admin_token().map_err(Stop::failed)?;
        let socket = data.socket();
        // A folder on another machine's disk has a socket that leads nowhere.
        let client = if server.is_none() && UnixStream::connect(&socket).is_ok() {
            Client::by_socket(&socket, &url, tls)?
        } else {
            Client::new(&url, tls)?
        };
        Ok(Self(client.with_bearer(&token)?))
    }

    /// `GET` of a path beneath [`PREFIX`], its answer parsed from JSON.
    pub async fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, Stop> {
        Ok(self.0.get_json(&format!("{PREFIX}{path}"), REPLY_BYTES_MAX, DEADLINE).await?)
    }

    /// `POST` of JSON to a path beneath [`PREFIX`], its answer parsed from JSON.
    pub async fn post<T: Serialize + Sync, R: DeserializeOwned>(
        &self,
        path: &str,
        request: &T,
    ) -> Result<R, Stop> {
        Ok(self.0.post_json(&format!("{PREFIX}{path}"), request, REPLY_BYTES_MAX, DEADLINE).await?)
    }
}
