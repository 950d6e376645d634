//! The server's own certificate: made at start, made anew at half of its life. Its key is in memory only.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_ca::{CaError, RootCa};
use edgewarden_names::UnixTime;
use edgewarden_workload_api::source::{Current, X509Context};
use tokio::sync::watch;

use crate::data_dir::Settings;

const LIFETIME: Duration = Duration::from_secs(7 * 86400);
const RETRY: Duration = Duration::from_secs(60);

/// The identity to serve with, and the task that keeps it good. The task ends when nobody looks any more.
pub fn keep(
    root: Arc<RootCa>,
    settings: &Settings,
) -> Result<(Current, impl Future<Output = ()> + Send + 'static), CaError> {
    let (dns, addresses) = settings.names();
    let make = move || {
        let svid = root.server_certificate(&dns, &addresses, LIFETIME, UnixTime::now())?;
        Ok::<_, CaError>(Arc::new(X509Context {
            id: svid.id,
            chain_der: svid.chain_der,
            key_pkcs8: svid.key_pkcs8,
            bundle_der: vec![root.certificate_der().to_vec()],
            trust_domain: root.domain().clone(),
        }))
    };
    let (sender, current) = watch::channel(Some(make()?));
    let renew = async move {
        let mut wait = LIFETIME / 2;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = sender.closed() => return,
            }
            wait = match make() {
                Ok(context) => {
                    sender.send_replace(Some(context));
                    LIFETIME / 2
                }
                Err(error) => {
                    tracing::error!(%error, "cannot renew the server's certificate; keeping the current one");
                    RETRY
                }
            };
        }
    };
    Ok((current, renew))
}
