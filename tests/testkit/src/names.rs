//! The gateway `gw-1` of the trust domain `plant.example`, and who is on it.

use edgewarden_names::{GatewayName, LeafName, ModuleName, SpiffeId, TrustDomain};

pub fn domain() -> TrustDomain {
    TrustDomain::parse("plant.example").unwrap()
}

pub fn gateway() -> GatewayName {
    GatewayName::parse("gw-1").unwrap()
}

pub fn module(name: &str) -> SpiffeId {
    SpiffeId::module(&domain(), &gateway(), &ModuleName::parse(name).unwrap())
}

pub fn leaf(name: &str) -> SpiffeId {
    SpiffeId::leaf(&domain(), &gateway(), &LeafName::parse(name).unwrap())
}
