//! The gateway `gw-1` of the trust domain `plant.example`, and who is on it.

use edgewarden_names::{GatewayName, LeafName, ModuleName, SpiffeId, TrustDomain};

/// The trust domain `plant.example`.
pub fn domain() -> TrustDomain {
    TrustDomain::parse("plant.example").unwrap()
}

/// The gateway name `gw-1`.
pub fn gateway() -> GatewayName {
    GatewayName::parse("gw-1").unwrap()
}

/// SPIFFE ID of a module of `gw-1`.
pub fn module(name: &str) -> SpiffeId {
    SpiffeId::module(&domain(), &gateway(), &ModuleName::parse(name).unwrap())
}

/// SPIFFE ID of a leaf device of `gw-1`.
pub fn leaf(name: &str) -> SpiffeId {
    SpiffeId::leaf(&domain(), &gateway(), &LeafName::parse(name).unwrap())
}
