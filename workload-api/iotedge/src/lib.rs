//! The workload API of Azure IoT Edge, for modules that are built with Azure's SDKs: HTTP/1.1 on a Unix socket of the
//! instance's own (`IOTEDGE_WORKLOADURI`).
//!
//! Spoken as Azure's `edgelet/api/workloadVersion_*.yaml` say, api-versions 2018-06-28 to 2022-08-03, which are alike in
//! what is here: sign, encrypt, decrypt, server and identity certificate, trust bundle, list of modules. Everything
//! else is not there. What is kept and what is refused, and why, is in docs/iotedge-api.md.
//!
//! * [`ModuleApi`]: what the socket's owner (`identityd`) provides
//! * [`server`]: serves one socket for one instance
//! * [`request`], [`body`]: the strict parsers, without I/O
//!
//! Trusts the kernel's word on the caller and the [`IdentitySource`](edgewarden_workload_server::IdentitySource) that
//! judges it. Distrusts every byte of a request: which module is asked for is the socket's, and what the path says
//! must be the same.

use edgewarden_names::{Generation, ModuleName, Refusal, UnixTime};
use zeroize::Zeroizing;

pub mod body;
mod reply;
pub mod request;
pub mod server;

/// Largest body of a request.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Largest value to sign or to encrypt. What was encrypted fits into a request to decrypt it.
pub const DATA_BYTES_MAX: usize = 32 * 1024;
/// Largest value to decrypt: the largest plaintext with what encryption adds to it.
pub const CIPHERTEXT_BYTES_MAX: usize = DATA_BYTES_MAX + 256;
/// Largest initialization vector of a caller.
pub const INITIALIZATION_VECTOR_BYTES_MAX: usize = 256;

/// One of a module's two signing keys (IoT Hub gives each identity a primary and a secondary one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyId {
    Primary,
    Secondary,
}

/// The instance whose socket it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub name: String,
    pub module: ModuleName,
    pub generation: Generation,
    pub started: UnixTime,
}

/// A new key with its certificate.
pub struct Issued {
    /// PKCS#8, PEM.
    pub key_pem: Zeroizing<String>,
    /// PEM: the leaf, then its issuers without the root.
    pub chain_pem: String,
    pub expires: UnixTime,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The owner of one socket: one instance of one module. Methods may block: they are called off the async tasks, at
/// most [`server::CALLS_MAX`] at a time.
///
/// That the caller is the instance is [`IdentitySource`](edgewarden_workload_server::IdentitySource)'s to say, before and
/// after.
pub trait ModuleApi: Send + Sync + 'static {
    fn instance(&self) -> Result<Instance, Refusal>;

    /// HMAC-SHA256 under a key of the module's own.
    fn sign(&self, key: KeyId, data: &[u8]) -> Result<[u8; 32], Refusal>;

    /// At most 256 bytes longer than the plaintext. The caller's vector is authenticated, never used as a nonce.
    fn encrypt(&self, plaintext: &[u8], initialization_vector: &[u8]) -> Result<Vec<u8>, Refusal>;

    fn decrypt(&self, ciphertext: &[u8], initialization_vector: &[u8])
    -> Result<Zeroizing<Vec<u8>>, Refusal>;

    /// For a name that is granted to the module. Ends at `until` at the latest.
    fn server_certificate(&self, common_name: &str, until: Option<UnixTime>) -> Result<Issued, Refusal>;

    fn identity_certificate(&self, until: Option<UnixTime>) -> Result<Issued, Refusal>;

    /// PEM.
    fn trust_bundle(&self) -> Result<String, Refusal>;

    /// A request of one of the module's own processes was refused: for the log. Returns at once.
    fn refused(&self, refusal: &Refusal);
}
