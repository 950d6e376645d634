//! Image manifest, image index and image configuration (OCI image-spec 1.1; Docker image manifest version 2 schema 2).
//!
//! Only what is needed to fetch and to run is read. Foreign layers (`urls`), schema 1 and other digests than SHA-256
//! are refused. The judge of signatures is elsewhere and parses the same bytes again for itself.

use std::collections::BTreeMap;

use edgewarden_names::{Architecture, Digest, Processor, Reason, Refusal};
use edgewarden_protocol::layer::{NotUnpacked, Packing};
use serde::{Deserialize, Serialize};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Largest image configuration.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Most layers of one image.
pub const LAYERS_MAX: usize = 128;
/// Largest compressed layer.
pub const LAYER_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// OCI image-spec, "OCI Content Descriptors".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A descriptor without annotations and platform. `size` in bytes.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
        }
    }
}

/// Operating system and architecture of an image of an [`Index`], in Go's names (OCI image-spec, "Image Index").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// One image: its configuration and its layers, lowest first (OCI image-spec, "Image Manifest").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Images of one name for several platforms (OCI image-spec, "Image Index").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
}

/// OCI image-spec, "Image Configuration": what of it decides how a module runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub architecture: String,
    pub os: String,
    #[serde(default)]
    pub config: Execution,
    pub rootfs: RootFs,
}

/// The image's defaults for its first process (`config` of the image configuration).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Execution {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Such as `SIGQUIT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Paths that the image writes to, as keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
}

/// SHA-256 of each uncompressed layer, lowest first; `kind` is `layers` (OCI image-spec, "Image Configuration").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    pub diff_ids: Vec<Digest>,
}

/// The document under a digest that names an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Image(Manifest),
    Index(Index),
}

fn invalid(subject: &Digest, rule: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::ImageInvalid, subject, rule)
}

/// Parses the document whose hash `digest` was compared with already.
pub fn parse(digest: &Digest, bytes: &[u8]) -> Result<Document, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        schema_version: u32,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let kind: Kind = serde_json::from_slice(bytes).map_err(|error| invalid(digest, error))?;
    if kind.schema_version != 2 {
        return Err(invalid(digest, format!("schema version {} is not 2", kind.schema_version)));
    }
    match (kind.media_type.as_deref(), kind.manifests.is_some(), kind.layers.is_some()) {
        (None | Some(OCI_MANIFEST | DOCKER_MANIFEST), false, true) => {
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| invalid(digest, error))?;
            check(digest, &manifest)?;
            Ok(Document::Image(manifest))
        }
        (None | Some(OCI_INDEX | DOCKER_INDEX), true, false) => {
            serde_json::from_slice(bytes).map(Document::Index).map_err(|error| invalid(digest, error))
        }
        // A document that could be read as either is an attack on whoever reads it differently.
        _ => Err(invalid(digest, "it is neither an OCI or Docker image manifest nor an index of them")),
    }
}

/// Parses an image manifest; an index is refused.
pub fn parse_image(digest: &Digest, bytes: &[u8]) -> Result<Manifest, Refusal> {
    match parse(digest, bytes)? {
        Document::Image(manifest) => Ok(manifest),
        Document::Index(_) => Err(invalid(digest, "it is an index where an image manifest belongs")),
    }
}

fn check(digest: &Digest, manifest: &Manifest) -> Result<(), Refusal> {
    if manifest.layers.len() > LAYERS_MAX {
        let rule = format!("{} layers are over the limit of {LAYERS_MAX}", manifest.layers.len());
        return Err(Refusal::new(Reason::ImageTooLarge, digest, rule));
    }
    if manifest.config.size > CONFIG_BYTES_MAX {
        let rule = format!(
            "a configuration of {} bytes is over the limit of {CONFIG_BYTES_MAX}",
            manifest.config.size
        );
        return Err(Refusal::new(Reason::ImageTooLarge, digest, rule));
    }
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        if !blob.urls.is_empty() || Packing::of(&blob.media_type) == Err(NotUnpacked::Foreign) {
            let rule = format!("{}: {}", blob.digest, NotUnpacked::Foreign);
            return Err(Refusal::new(Reason::ImageUnsupported, digest, rule));
        }
        if blob.size > LAYER_BYTES_MAX {
            let rule = format!("a layer of {} bytes is over the limit of {LAYER_BYTES_MAX}", blob.size);
            return Err(Refusal::new(Reason::ImageTooLarge, digest, rule));
        }
    }
    Ok(())
}

impl Index {
    /// The image for machines of an architecture which nobody here sees: one that each of them runs.
    pub fn image_for(&self, digest: &Digest, architecture: Architecture) -> Result<&Descriptor, Refusal> {
        self.image_on(digest, Processor::least(architecture))
    }

    /// The image that uses a processor best, by platform and never by position. What is for no platform (the attestations
    /// that buildx adds are for `unknown/unknown`) is not looked at, but where it is all that there is.
    pub fn image_on(&self, digest: &Digest, processor: Processor) -> Result<&Descriptor, Refusal> {
        let images = || {
            self.manifests.iter().filter(|entry| matches!(&*entry.media_type, OCI_MANIFEST | DOCKER_MANIFEST))
        };
        let rank = |platform: &Platform| match platform.os.as_str() {
            "linux" => processor.rank(&platform.architecture, platform.variant.as_deref()),
            _ => None,
        };
        let ranked = || images().filter_map(|entry| Some((rank(entry.platform.as_ref()?)?, entry)));
        let Some(best) = ranked().map(|(rank, _)| rank).max() else {
            return match images().collect::<Vec<_>>().as_slice() {
                // Its configuration says what it is for.
                [only] if only.platform.is_none() => Ok(only),
                _ => Err(Refusal::new(Reason::ImagePlatform, digest, self.has_none(processor))),
            };
        };
        let mut fitting = ranked().filter(|(rank, _)| *rank == best).map(|(_, entry)| entry);
        match fitting.next() {
            Some(first) if fitting.all(|entry| entry.digest == first.digest) => Ok(first),
            _ => {
                let architecture = processor.architecture();
                Err(invalid(digest, format!("the index has more than one linux/{architecture} image")))
            }
        }
    }

    fn has_none(&self, processor: Processor) -> String {
        let architecture = processor.architecture();
        let of_another_variant = self
            .manifests
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .find(|p| p.os == "linux" && p.architecture == architecture.as_str());
        match of_another_variant.and_then(|platform| platform.variant.as_deref()) {
            None => format!("the index has no linux/{architecture} image"),
            Some(variant) => {
                let variant = variant.escape_debug();
                format!(
                    "the index has no linux/{architecture} image for every such processor, only for {variant}: name its digest"
                )
            }
        }
    }
}

impl ImageConfig {
    /// Parses the configuration whose hash was compared with already.
    pub fn parse(digest: &Digest, bytes: &[u8]) -> Result<Self, Refusal> {
        let config: Self = serde_json::from_slice(bytes).map_err(|error| invalid(digest, error))?;
        if config.os != "linux" || config.rootfs.kind != "layers" {
            return Err(invalid(
                digest,
                "the image is not for linux, or its root file system is not of layers",
            ));
        }
        Ok(config)
    }
}
