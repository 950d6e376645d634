//! Every document and message that crosses a wall, from one Edgewarden process to another.
//!
//! * [`layout`]: where things lie on a gateway · [`config`]: `config.toml`
//! * [`ask`]: a question has the type of its answer
//! * [`control`]: what `runtimed`, `gatewayd` and the command line ask of `identityd`
//! * [`runtime_console`], [`gateway_console`]: what the command line and `doctor` ask of `runtimed` and of `gatewayd`
//! * [`enrol`]: gateway and fleet, enrolment and renewal · [`uplink`]: gateway and fleet, everything later
//! * [`est`]: a site's own CA in the fleet's place
//! * [`deployment`]: the signed document that says what runs · [`dsse`]: the signature around it
//! * [`image_key`]: whose signatures on images count · [`layer`]: kinds of layers that an image may have
//! * [`token`]: what lets a gateway or a leaf device in
//! * [`leaf`]: a leaf device that enrols · [`server_names`]: host names that a deployment grants
//! * [`jwt_keys`]: a gateway vouches for the keys of its JWT-SVIDs
//! * [`secret`]: a secret, sealed by an operator to one gateway
//! * [`audit`]: what is to be written to the audit log
//! * [`document`]: what a daemon keeps for itself and reads again after a restart
//!
//! Unknown fields are refused everywhere: a field that one side relies on is never silently dropped by the other.

pub mod ask;
pub mod audit;
mod bounds;
pub mod bytes;
pub mod config;
pub mod container;
pub mod control;
pub mod deployment;
pub mod document;
pub mod dsse;
pub mod enrol;
pub mod est;
pub mod federation;
pub mod gateway_console;
pub mod image_key;
mod image_reference;
pub mod jwt_keys;
pub mod layer;
pub mod layout;
pub mod leaf;
pub mod messages;
mod module;
pub mod registries;
pub mod runtime_console;
pub mod secret;
pub mod server_names;
pub mod token;
pub mod uplink;

pub use bytes::Bytes;
