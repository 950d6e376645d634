//! The audit log: what `identityd` decided, in order, on disk before the decision takes effect.
//!
//! Lines of JSON, each with the hash of the one before (`chain`); at intervals the head of the chain is signed by the
//! gateway CA's key and the signature put into the log (`head`). Who may write the files can cut off their end, or forge
//! what follows the last signature; what a signature covers can be changed by nobody without the key, and a log that was
//! cut off shows by any later head that is known elsewhere.
//!
//! * [`Audit`]: the writer, with rotation; it takes [`edgewarden_protocol::audit::Event`]s · [`Verifier`]: judges files without a clock, a disk or a daemon
//! * [`folder`]: reads the files of a log · [`Query`]: picks entries
//!
//! JWT-SVIDs are many and short: written is each audience that an instance asks for, the first time and up to a bound,
//! and how many tokens there were when the instance ends (`identityd`'s `jwt`).
//!
//! Written are: each certificate (`svid.issued`, `leaf.enrolled`, `issuing_ca.born`), each refusal within
//! a rate (`identityd`'s `refusals`), each deployment with its policy epoch, each verdict, each start and stop, and each use of a
//! key of the keystore by its class ([`edgewarden_protocol::audit::KeyUse`]), at the end of the detail.

mod chain;
pub mod folder;
mod head;
mod log;
mod query;
#[cfg(test)]
mod tests;
mod verify;

pub use chain::{GENESIS, LINE_BYTES_MAX};
pub use head::{HEAD_EVENT, Head, HeadProblem, Keys, fingerprint, statement};
pub use log::{Audit, AuditError};
pub use query::{ENTRIES_MAX, Query};
pub use verify::{Broken, Report, Verifier};
