//! Images that are signed as cosign signs them.

use edgewarden_image_trust::sign::{SigningKey, sign};
use edgewarden_names::{Digest, ModuleName};
use edgewarden_protocol::control::{ImageEvidence, SignatureEvidence};
use edgewarden_protocol::deployment::ImageReference;
use serde_json::{Value, json};

fn digest(bytes: &[u8]) -> Digest {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    Digest::from_sha256(&sha256)
}

/// An image as a registry has it, and the signatures that were put beside it.
#[derive(Debug)]
pub struct Image {
    pub reference: ImageReference,
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub signatures: Vec<SignatureEvidence>,
}

impl Image {
    /// An image whose content is told apart by `salt`.
    pub fn new(module: &str, salt: &str) -> Self {
        let layer = digest(salt.as_bytes());
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/app"]},
            "rootfs": {"type": "layers", "diff_ids": [layer]}})
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar",
                        "digest": layer, "size": salt.len()}],
        })
        .to_string()
        .into_bytes();
        let text = format!("127.0.0.1:5000/clinic/{module}:1@{}", digest(&manifest));
        let reference = ImageReference::parse(&text).unwrap();
        Self { reference, manifest, config, signatures: Vec::new() }
    }

    /// The image with one more signature, beside those that it has.
    #[must_use]
    pub fn signed(mut self, key: &SigningKey) -> Self {
        let signed = sign(&self.reference, key).unwrap();
        self.signatures.push(SignatureEvidence {
            manifest: signed.manifest.into(),
            payloads: vec![signed.payload.into()],
        });
        self
    }

    /// Evidence of this image for `module`, as `runtimed` shows it to `identityd`.
    pub fn evidence(&self, module: &str) -> ImageEvidence {
        ImageEvidence {
            module: ModuleName::parse(module).unwrap(),
            image: self.reference.clone(),
            manifest: self.manifest.clone().into(),
            config: self.config.clone().into(),
            signatures: self.signatures.clone(),
        }
    }
}

/// A deployment without images.
pub fn document(version: u64) -> Value {
    json!({
        "name": "glucose",
        "version": version,
        "trust_domain": "plant.example",
        "image_keys": [],
        "modules": [],
        "leaves": [{"name": "sensor-1", "groups": ["glucose-sensors"]}],
        "topics": [],
        "routes": [],
        "policy": "",
    })
}

/// A deployment of modules with their images.
pub fn document_with(version: u64, key: &SigningKey, modules: &[(&str, &Image)]) -> Value {
    let mut document = document(version);
    document["image_keys"] = json!([{"name": "ci", "public_key": key.public_pem()}]);
    document["modules"] = modules
        .iter()
        .map(|(name, image)| json!({"name": name, "image": image.reference.to_string()}))
        .collect();
    document
}
