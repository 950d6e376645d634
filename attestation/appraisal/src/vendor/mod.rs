//! The certificate authorities of TPM vendors, and the check of an EK certificate's chain to them.
//!
//! TCG EK Credential Profile 2.6; RFC 5280 for the path. The operator's certificates are trusted; those that a device
//! sends only help to build the path.

mod bundle;
pub(crate) mod certificate;
mod constraints;
mod fault;
mod name;
mod path;
mod policies;
mod roots;
mod signature;

use edgewarden_names::{Refusal, UnixTime};

pub use bundle::{
    BUNDLE_BYTES_MAX, BUNDLE_CERTIFICATES_MAX, RefusedPart, VendorBundle, VendorBundleError,
    VendorCertificate,
};
use certificate::Certificate;
pub(crate) use fault::{Fault, Kind};
pub(crate) use name::printable;
use path::Search;
pub use roots::VendorRoots;

impl VendorRoots {
    /// The reason that this authority's certificate vouches for nothing now: mostly that its root is not among these.
    /// `None` when it does.
    pub fn why_useless(&self, authority: &[u8], now: UnixTime) -> Option<String> {
        let judged =
            Certificate::parse(authority).and_then(|authority| Search::new(self, &[], now).run(&authority));
        judged.err().map(|fault| fault.text)
    }

    /// Checks that `leaf` chains to one of the roots at `now`.
    pub(crate) fn verify(
        &self,
        leaf: &Certificate<'_>,
        sent: &[&[u8]],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        Search::new(self, sent, now).run(leaf).map_err(|fault| fault.refusal("EK certificate"))
    }
}
