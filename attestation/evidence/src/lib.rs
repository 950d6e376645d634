//! Parsers of what a device offers as evidence. No I/O, no clock, no decisions.
//!
//! * [`tpm`]: TPM structures: attestations (quote, certify), public areas, signatures, PCR selections
//! * [`event_log`]: the firmware's boot log and its replay · [`ima`]: the kernel's measurement list and its replay
//! * [`runtime_log`]: what identityd did since the boot, and its replay
//! * [`PcrValues`]: the PCRs that a log leads to
//!
//! Trusts nothing: every byte may come from an attacker. The parsers are strict (reserved bits, unknown values and
//! trailing bytes are refused), bounded by the `_MAX` constants, and never panic. Parsing proves no origin: whoever
//! calls must check signatures, nonces and digests. What a log *says* (event types, descriptions) is the attacker's
//! word even when the log replays to a quoted digest; only the digests are proven.

mod error;
pub mod event_log;
mod hash;
pub mod ima;
mod pcr;
mod reader;
pub mod runtime_log;
pub mod tpm;

pub use error::ParseError;
pub use hash::HashAlg;
pub use pcr::{PCR_COUNT, PcrValues};
