//! The cryptography of TLS.

use rustls::crypto::CryptoProvider;

/// The one provider of cryptography, whatever the process has installed as its default.
pub(crate) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}
