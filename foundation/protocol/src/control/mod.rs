//! Requests of the other processes to `identityd`, on its control socket, one frame each way (crate `exchange`).
//!
//! A connection carries any number of requests, one after the other. The caller's user decides what it may ask:
//! root (`runtimed`, the command line) anything, `ew-gateway` only what [`Request::for_gateway`] says.
//!
//! `requests.rs` is the table of questions with their answers; each other file has what one subject of it carries.

mod audit;
mod deployment;
mod image;
mod keys;
mod leaf;
mod origin;
mod quote;
mod requests;
mod snapshot;
mod starts;
mod status;
mod time;
mod topic_size;

pub use audit::{AuditEntry, AuditKey};
pub use deployment::DeploymentInForce;
pub use image::{
    ImageEvidence, Layer, MANIFEST_BYTES_MAX, SIGNATURE_PAYLOAD_BYTES_MAX, SIGNATURES_MAX, SignatureEvidence,
};
pub use keys::{JwtStatement, KeystoreHealth, Lockout, ResidentKey, StorageKey};
pub use leaf::{Certificate, LeafAllowed};
pub use origin::{Enforcer, Origin};
pub use quote::ExportedQuote;
pub use requests::{Reply, Request, questions};
pub use snapshot::{PolicyInForce, STANDING_MAX, Snapshot, Standing, Untrusted};
pub use starts::{Prepared, StartPermit, StartRecord};
pub use status::{DiskReserve, IdentityStatus, Lease, REFUSALS_MAX, Status};
pub use time::{DoubtedTime, TimeBy, TimeStatus, ToldTime};
pub use topic_size::TopicSize;
