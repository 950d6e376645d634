//! OCI images: building, carrying and keeping them.
//!
//! * [`registry`]: pull and push (OCI distribution-spec 1.1), with a login, by mirrors and proxies; [`challenge`] and
//!   [`token`]: what registries say to that · [`layout`]: an image in a folder (OCI image-layout 1.0)
//! * [`build`]: an image from binaries, without a registry or a base image
//! * [`manifest`]: the documents, parsed strictly · [`store`]: verified content and root file systems on a gateway
//! * [`packing`], [`archive`]: a layer's bytes, and the tar in them, read strictly
//! * [`execution`], [`program`]: what an image would execute, as whom and where · [`records`]: records on disk that are believed later
//!
//! Nothing that comes from outside is trusted: content is accepted by its SHA-256 digest and its size only.
//! Whether an image may start is not decided here.

mod access;
pub mod archive;
pub mod build;
pub mod challenge;
mod credentials;
mod error;
pub mod execution;
mod hashing;
mod http;
pub mod layout;
mod login;
pub mod manifest;
pub mod packing;
pub mod program;
pub mod records;
pub mod registry;
mod secret;
pub mod store;
pub mod token;
pub mod tree;
mod unpack;

pub use error::OciError;
