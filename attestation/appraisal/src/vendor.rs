//! The certificate authorities of TPM vendors.

/// Roots (and intermediates) that EK certificates may chain to.
#[derive(Debug, Clone, Default)]
pub struct VendorRoots {
    certificates: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VendorRootsError {
    #[error("the bundle of vendor roots is not PEM with certificates")]
    Pem,
}

impl VendorRoots {
    /// No vendor at all: every TPM is refused.
    pub fn none() -> Self {
        Self::default()
    }

    /// From a bundle of PEM certificates. Self-signed ones are roots, the others help to build the chain.
    pub fn from_pem(_bundle: &[u8]) -> Result<Self, VendorRootsError> {
        Err(VendorRootsError::Pem)
    }

    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }
}
