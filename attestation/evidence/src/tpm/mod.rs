//! TPM 2.0 structures (TPM 2.0 Library, Part 2), as far as attestation needs them.
//!
//! Each type has `parse` and `to_bytes`, and `parse(b)?.to_bytes() == b`: nothing that was parsed is lost, so a name
//! that is computed from a parsed value is the name of the bytes.

mod attest;
mod pcr_selection;
mod public;
mod signature;

pub use attest::{Attest, AttestKind, ClockInfo};
pub use pcr_selection::{PcrSelection, PcrSelections};
pub use public::{Attributes, Curve, Key, Public, Scheme, Symmetric};
pub use signature::Signature;

/// Largest digest (SHA-512), for TPM2B_DIGEST.
const DIGEST_BYTES_MAX: usize = 64;
/// Largest TPM2B_NAME: TPMT_HA with the largest digest (section 10.4.3).
const NAME_BYTES_MAX: usize = 2 + DIGEST_BYTES_MAX;
/// Largest TPM2B_DATA: TPMT_HA with the largest digest (section 10.4.3).
const DATA_BYTES_MAX: usize = 2 + DIGEST_BYTES_MAX;

/// TPM_ALG_NULL (section 6.3).
const ALG_NULL: u16 = 0x0010;
const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAPSS: u16 = 0x0016;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;

use crate::reader::Reader;
use crate::{HashAlg, ParseError};

fn hash_alg(reader: &mut Reader<'_>) -> Result<HashAlg, ParseError> {
    let id = reader.u16()?;
    HashAlg::from_id(id).ok_or(ParseError::Value { what: "hash algorithm", value: id.into() })
}
