//! Certificates from a site's own CA by Enrollment over Secure Transport (RFC 7030, RFC 8951): requests made, answers
//! judged.
//!
//! * [`EnrolledChain`]: the proof that a certificate is ours, chains to the site's root and is valid
//! * [`Renewal`]: when to ask for the next one
//! * [`SignedRequest`] → [`Enrolment`] → [`wire`], [`certs_only`], [`CsrAttributes`], [`CertificateBag`]
//! * [`TrustAnchors`]: what chains end at
//!
//! On a gateway `identityd` has this (it signs requests and judges answers), and `runtimed` has `edgewarden-est-client`,
//! which carries them.
//!
//! Trusts the anchors of the configuration, the clock, and the CA behind those anchors to name whom it likes. Distrusts
//! the server's every byte. Private keys stay where they are: requests are signed through
//! [`edgewarden_ca::CaSigner`], P-256 with SHA-256.
//!
//! Not spoken: TLS below 1.3, and so no proof-of-possession linking (RFC 7030 section 3.5 wants `tls-unique`, which
//! TLS 1.3 has not; RFC 9266 `tls-exporter` is another protocol's); `fullcmc`; `serverkeygen`, because a private key that
//! travels is not one that stays; BER where DER is meant; HTTP redirects.

mod anchors;
mod attributes;
mod certificate;
pub mod certs_only;
mod chain;
mod der;
mod enrolment;
mod error;
mod renewal;
mod request;
mod subject;
pub mod wire;

pub use anchors::{ANCHORS_BYTES_MAX, ANCHORS_MAX, TrustAnchors};
pub use attributes::{ATTRIBUTES_BYTES_MAX, ATTRIBUTES_MAX, CsrAttributes};
pub use chain::{CertificateBag, EnrolledChain, INTERMEDIATES_MAX};
pub use enrolment::{Enrolment, PENDING_ANSWERS_MAX, PENDING_SECONDS_MAX, Progress};
pub use error::{EstError, Severity};
pub use renewal::{Action, Life, RECHECK_MAX, Renewal, RenewalPolicy, Trouble};
pub use request::{Operation, SignedRequest};
pub use subject::{NAMES_MAX, Names, Profile, Subject};
