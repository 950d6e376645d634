//! The worked example: what its three programs share.
//!
//! * [`reading`]: what they say to each other · [`monitor`]: which readings are dangerous
//! * [`trace`]: recorded readings, for a sensor that is none
//! * [`leaf`], [`sensor`]: the leaf device · [`link`], [`outbox`]: how the module `analytics` speaks to others
//! * [`mtls`]: TLS between SPIFFE IDs, with nothing of Edgewarden but the certificates it gives
//!
//! The modules know nothing of Edgewarden: they use the stock `spiffe` crate, MQTT and TCP.

pub mod leaf;
pub mod link;
pub mod monitor;
pub mod mtls;
pub mod outbox;
pub mod reading;
pub mod sensor;
pub mod trace;
