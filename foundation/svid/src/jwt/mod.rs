//! JWT-SVIDs (SPIFFE JWT-SVID specification): making them, and judging them.
//!
//! * [`Audience`]: whom a token is for, as it is asked for · [`SigningKey`]: makes tokens, ES256 only
//! * [`jws`], [`json`]: a token's text, taken apart · [`validate`]: whether it may be believed
//! * [`JwtKeys`]: the keys of one trust domain, and their JWK Set (SPIFFE Trust Domain and Bundle, section 4)
//!
//! No I/O and no clock. Trusts the keys that it is given and the caller's time; distrusts every byte of a token and of
//! a JWK Set. A token's header says which key and algorithm to use and nothing else: the algorithm must be of the
//! allow-list *and* the one kind that the key has, so that no token can choose how it is checked.

mod algorithm;
mod audience;
mod base64url;
pub mod json;
pub(crate) mod jwk;
pub mod jws;
mod keys;
mod signing;
mod validate;

pub use algorithm::Algorithm;
pub use audience::{AUDIENCE_BYTES_MAX, AUDIENCES_BYTES_MAX, AUDIENCES_MAX, Audience, AudienceError};
pub use jwk::{JWKS_BYTES_MAX, JwksError, KEYS_MAX};
pub use keys::{JwtKey, JwtKeys, PublicKey, thumbprint};
pub use signing::{SigningError, SigningKey};
pub use validate::{CLOCK_SKEW, Invalid, Validated, validate};
