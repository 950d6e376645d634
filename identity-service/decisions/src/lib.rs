//! Decisions of `identityd`, without I/O: no file, no socket, no clock and no random number but those that it is given.
//!
//! * [`authority`]: the state machine, one input after the other · `starts`, `standing`: from a signed image to a live
//!   instance, and whether it may go on
//! * what it decides over: [`enrolment`], [`site`], [`boot`] · [`deployments`] · [`permits`], [`records`] · [`leaves`] ·
//!   [`secrets`] · [`jwt_keys`] · [`federation`]; all that is on disk: [`documents`]
//! * [`clock`]: what time is believed · [`renewal`]: when a certificate is made anew
//!
//! Trusts the pinned root, the pinned operator keys, and what its user read from the kernel. Distrusts every byte of
//! every document that somebody carried here.

pub mod authority;
pub mod boot;
pub mod clock;
pub mod deployments;
pub mod documents;
pub mod enrolment;
pub mod federation;
pub mod jwt_keys;
pub mod leaves;
pub mod permits;
pub mod records;
pub mod renewal;
pub mod secrets;
pub mod site;
mod standing;
mod starts;
#[cfg(test)]
mod tests;
