//! A site's own CA with its EST server (RFC 7030), made of openssl, rustls and hyper.

mod clients;
mod server;
mod site;

pub use server::{Asked, Server, Told, standard};
pub use site::{Site, certs_only};
