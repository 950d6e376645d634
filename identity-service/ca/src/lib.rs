//! Certificates: the fleet's root, a gateway's CAs, and the SVIDs that they sign.
//!
//! * [`IssuingCa`]: born in memory at each start of `identityd`, signed by the gateway CA; issues SVIDs
//! * [`RootCa`]: the fleet's; certifies gateway CAs and the fleet's own server
//! * [`CaSigner`]: a CA key that lives elsewhere, such as in a TPM · [`certificate_request`]: PKCS#10 for such a key
//! * [`spki`]: P-256 public keys · [`chain`]: what a certificate says
//! * [`gateway_ca`]: is this the gateway CA's certificate of that gateway?
//!
//! Chain: fleet root → gateway CA (pathLen 1) → issuing CA (pathLen 0) → leaf. Certificates follow the SPIFFE
//! X.509-SVID specification (sections 3 to 5) and RFC 5280. Every field is built here from parsed names: a request
//! contributes its public key and nothing else. P-256 with SHA-256 only.
//!
//! Trusts the caller for the clock and for what an applicant may be called. Distrusts every byte of a request.

pub mod chain;
mod error;
pub mod gateway_ca;
mod issuing;
mod key;
mod request;
mod root;
mod signer;
pub mod spki;
mod template;

pub use error::{CaError, SignError};
pub use issuing::{Issued, IssuingCa, Svid};
pub use request::{certificate_request, public_point};
pub use root::RootCa;
pub use signer::CaSigner;

/// Longest certificate that is read.
pub const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;
/// Most DNS names in one SVID.
pub const DNS_NAMES_MAX: usize = 16;
