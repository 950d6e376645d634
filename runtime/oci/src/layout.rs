//! An image in a folder (OCI image-layout 1.0): `oci-layout`, `index.json`, `blobs/sha256/…`.
//!
//! It is the operator's own folder; bytes are checked against their digests all the same when they are read.

use std::path::{Path, PathBuf};

use edgewarden_names::{Architecture, Digest, Reason};
use edgewarden_platform::durable;
use edgewarden_protocol::control::MANIFEST_BYTES_MAX;

use crate::OciError;
use crate::error::refused;
use crate::manifest::{
    self, Descriptor, Document, Index, LAYER_BYTES_MAX, Manifest, OCI_INDEX, OCI_MANIFEST,
};
use crate::registry::Registry;

const MARK: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// A layout folder that holds one image, or one for each of several platforms.
#[derive(Debug, Clone)]
pub struct ImageLayout {
    path: PathBuf,
}

impl ImageLayout {
    /// Opens an existing layout.
    pub fn open(path: &Path) -> Result<Self, OciError> {
        let mark =
            durable::read(&path.join("oci-layout"), 4096).map_err(OciError::io("read `oci-layout`"))?;
        if mark.is_none_or(|mark| !String::from_utf8_lossy(&mark).contains("\"1.0.0\"")) {
            return refused(Reason::ImageInvalid, path.display(), "it is not an OCI image layout 1.0.0");
        }
        Ok(Self { path: path.into() })
    }

    /// Makes an empty layout; what an existing one points to is replaced by what is put in next.
    pub fn create(path: &Path) -> Result<Self, OciError> {
        let layout = Self { path: path.into() };
        std::fs::create_dir_all(layout.blobs())
            .map_err(OciError::io(format!("make `{}`", path.display())))?;
        durable::write(&path.join("oci-layout"), MARK, 0o644).map_err(OciError::io("write `oci-layout`"))?;
        Ok(layout)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn blobs(&self) -> PathBuf {
        self.path.join("blobs/sha256")
    }

    /// Keeps a blob.
    pub fn put(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, OciError> {
        let digest = Digest::of(bytes);
        durable::write(&self.blobs().join(digest.hex()), bytes, 0o644)
            .map_err(OciError::io(format!("write {digest}")))?;
        Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
    }

    /// A blob's bytes, which hash to `digest`.
    pub fn blob(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>, OciError> {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let read = durable::read(&self.blobs().join(digest.hex()), bytes_max);
        match read.map_err(OciError::io(format!("read {digest}")))? {
            None => refused(Reason::ImageUnavailable, digest, "the layout has no such blob"),
            Some(bytes) if Digest::of(&bytes) != *digest => {
                refused(Reason::ImageContent, digest, "the layout holds other content than the digest names")
            }
            Some(bytes) => Ok(bytes),
        }
    }

    /// Makes the manifest the layout's image.
    pub fn set_image(&self, image: &Descriptor) -> Result<(), OciError> {
        let index =
            Index { schema_version: 2, media_type: Some(OCI_INDEX.into()), manifests: vec![image.clone()] };
        durable::write(&self.path.join("index.json"), &json(&index)?, 0o644)
            .map_err(OciError::io("write `index.json`"))
    }

    /// The layout's image, or of several that which every processor of this machine's architecture runs: digest, bytes and
    /// document of its manifest.
    pub fn image(&self) -> Result<(Digest, Vec<u8>, Manifest), OciError> {
        let path = self.path.join("index.json");
        let bytes = durable::read(&path, MANIFEST_BYTES_MAX).map_err(OciError::io("read `index.json`"))?;
        let index: Index = match bytes.as_deref().map(serde_json::from_slice) {
            None => return refused(Reason::ImageUnavailable, path.display(), "the layout holds no image"),
            Some(Err(error)) => return refused(Reason::ImageInvalid, path.display(), error),
            Some(Ok(index)) => index,
        };
        let read = |digest: &Digest| self.blob(digest, MANIFEST_BYTES_MAX as u64);
        let mut digest = match index.manifests.as_slice() {
            [] => return refused(Reason::ImageInvalid, path.display(), "the layout holds no image"),
            [one] => one.digest.clone(),
            _ => index
                .image_for(&Digest::of(bytes.as_deref().unwrap_or_default()), Architecture::HERE)?
                .digest
                .clone(),
        };
        let mut bytes = read(&digest)?;
        // What buildx exports is an index in the layout's own.
        if let Document::Index(inner) = manifest::parse(&digest, &bytes)? {
            digest = inner.image_for(&digest, Architecture::HERE)?.digest.clone();
            bytes = read(&digest)?;
        }
        let manifest = manifest::parse_image(&digest, &bytes)?;
        Ok((digest, bytes, manifest))
    }

    /// Pushes the image under `tag` and gives its digest. Blobs go first, so that the tag never names what is not there.
    pub async fn push(&self, registry: &Registry, tag: &str) -> Result<Digest, OciError> {
        let (_, bytes, manifest) = self.image()?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            registry.push_blob(&self.blob(&blob.digest, LAYER_BYTES_MAX)?).await?;
        }
        registry.push_manifest(tag, manifest.media_type.as_deref().unwrap_or(OCI_MANIFEST), &bytes).await
    }
}

pub(crate) fn json(document: &impl serde::Serialize) -> Result<Vec<u8>, OciError> {
    serde_json::to_vec(document)
        .map_err(|error| OciError::Io { what: "write JSON".into(), source: error.into() })
}
