//! Judges a gateway's evidence (RFC 9334: the Verifier). Pure: no I/O, no clock, no TPM.
//!
//! * [`challenge()`]: checks the device's public keys and makes what proves that they live in one TPM
//! * [`appraise()`]: judges the answer against reference values; [`Appraised`] is made by nothing else
//! * [`VendorRoots`]: whose TPMs are trusted · [`VendorBundle`]: files of makers' certificates ·
//!   [`ReferenceValues`]: which boots are
//! * [`make_credential`]: TPM2_MakeCredential in software
//!
//! Trusts the vendor roots, the reference values and the [`Pending`] that it made itself. Distrusts every byte that the
//! device sent. Never gives an [`Appraised`] without having compared the nonce.

mod appraise;
mod certify;
mod challenge;
mod checks;
mod credential;
mod crypto;
mod csr;
mod ek;
mod quote;
mod reference;
mod roca;
mod vendor;

pub use appraise::{Appraised, CHALLENGE_LIFETIME, Failure, VERDICT_LIFETIME, appraise};
pub use challenge::{AK_ATTRIBUTES, BOOT_PCRS, ChallengeParts, Pending, challenge};
pub use credential::{CredentialError, make_credential};
pub use reference::{ReferenceError, ReferenceValues};
pub use vendor::{
    BUNDLE_BYTES_MAX, BUNDLE_CERTIFICATES_MAX, RefusedPart, VendorBundle, VendorBundleError,
    VendorCertificate, VendorRoots,
};
