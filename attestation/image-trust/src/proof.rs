use edgewarden_names::{Digest, ModuleName};
use edgewarden_protocol::control::Layer;
use edgewarden_protocol::deployment::ImageReference;

/// An image whose content and signature were judged. Only [`crate::judge`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageProof {
    pub(crate) module: ModuleName,
    pub(crate) image: ImageReference,
    pub(crate) config: Digest,
    pub(crate) layers: Vec<Layer>,
    pub(crate) key_name: String,
    pub(crate) vouchers: Vec<Digest>,
}

impl ImageProof {
    /// The module that the image was judged for.
    pub fn module(&self) -> &ModuleName {
        &self.module
    }
    /// The reference that was judged.
    pub fn image(&self) -> &ImageReference {
        &self.image
    }
    /// Digest of the manifest that was judged.
    pub fn manifest_digest(&self) -> &Digest {
        self.image.digest()
    }
    /// Digest of the image configuration.
    pub fn config_digest(&self) -> &Digest {
        &self.config
    }
    /// In the order in which they are applied.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }
    /// The deployment's name for the key that signed.
    pub fn key_name(&self) -> &str {
        &self.key_name
    }
    /// The fingerprints of all keys of the deployment that signed, each once.
    pub fn vouchers(&self) -> &[Digest] {
        &self.vouchers
    }
}
