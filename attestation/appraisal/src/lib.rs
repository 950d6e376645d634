//! Judges a gateway's evidence (RFC 9334: the Verifier). Pure: no I/O, no clock, no TPM.
//!
//! * [`challenge`]: checks the device's public keys and makes what proves that they live in one TPM
//! * [`appraise`]: judges the answer against reference values; [`Appraised`] is made by nothing else
//! * [`VendorRoots`]: whose TPMs are trusted · [`ReferenceValues`]: which boots are
//!
//! Trusts the vendor roots and the reference values. Distrusts every byte that the device sent.

mod appraise;
mod challenge;
mod reference;
mod vendor;

pub use appraise::{Appraised, Failure, appraise};
pub use challenge::{ChallengeParts, Pending, challenge};
pub use reference::{ReferenceError, ReferenceValues};
pub use vendor::{VendorRoots, VendorRootsError};
