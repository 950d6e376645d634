//! The server's own certificate: made at start, made anew at half of its life. Its key is in memory only.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_ca::{CaError, RootCa};
use edgewarden_names::UnixTime;
use edgewarden_svid::X509Context;
use edgewarden_transport::Current;
use tokio::sync::watch;

use crate::data_dir::Settings;

const LIFETIME: Duration = Duration::from_secs(7 * 86400);
/// Time between two looks at the clock, which may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);

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
        let mut since = UnixTime::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = sender.closed() => return,
            }
            let now = UnixTime::now();
            if is_good(since, now) {
                continue;
            }
            match make() {
                Ok(context) => {
                    sender.send_replace(Some(context));
                    since = now;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot renew the server's certificate; keeping the current one");
                }
            }
        }
    };
    Ok((current, renew))
}

/// `true` for a certificate that is neither in its second half nor of the future; clocks may differ by [`LOOK`].
fn is_good(made: UnixTime, now: UnixTime) -> bool {
    made <= now.plus(LOOK) && now < made.plus(LIFETIME / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_leapt_and_came_back_leaves_no_certificate_of_the_future() {
        let made = UnixTime(1_000_000);
        let half = LIFETIME.as_secs() / 2;
        for (now, good) in [
            (1_000_000, true),
            (1_000_000 - 60, true),
            (1_000_000 - 61, false),
            (1_000_000 + half - 1, true),
            (1_000_000 + half, false),
            (0, false),
            (u64::MAX, false),
        ] {
            assert_eq!(is_good(made, UnixTime(now)), good, "{now}");
        }
    }
}
