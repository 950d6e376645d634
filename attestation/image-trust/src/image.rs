//! The image itself: manifest and configuration (OCI image-spec 1.1, Docker image manifest version 2 schema 2).
//!
//! Read only when the manifest's digest is the signed one. Unknown properties are ignored, as the OCI specification
//! wants it; what is used afterwards is what is in the proof, and nothing is read a second time.

use edgewarden_names::{Digest, Processor, Reason, Refusal};
use edgewarden_protocol::control::Layer;
use edgewarden_protocol::layer::Packing;
use serde::Deserialize;

use crate::limits::{IMAGE_BYTES_MAX, LAYER_BYTES_MAX, LAYERS_MAX};
use crate::shown;

const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    /// Of an index. A document that is both is read differently by different tools (CVE-2021-41190).
    manifests: Option<serde::de::IgnoredAny>,
    /// Of schema 1.
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    urls: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    os: String,
    architecture: String,
    variant: Option<String>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<Digest>,
}

/// The digest of the configuration and the layers.
pub(crate) fn read(
    manifest: &[u8],
    config: &[u8],
    processor: Processor,
) -> Result<(Digest, Vec<Layer>), (Reason, String)> {
    let manifest = parse_manifest(manifest)?;
    let found = Digest::of(config);
    if found != manifest.config.digest {
        return Err((
            Reason::ImageContent,
            format!("the configuration is {found}, not {}", manifest.config.digest),
        ));
    }
    if manifest.config.size != config.len() as u64 {
        return invalid("the manifest gives another size for the configuration");
    }
    let config: Config = crate::json::parse(config)
        .map_err(|error| (Reason::ImageInvalid, format!("the configuration is malformed: {error}")))?;
    check_platform(&config, processor)?;
    if config.rootfs.kind != "layers" {
        return invalid("the root file system is not made of layers");
    }
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return invalid("manifest and configuration name different numbers of layers");
    }
    let layers = manifest
        .layers
        .into_iter()
        .zip(config.rootfs.diff_ids)
        .map(|(layer, diff_id)| Layer {
            digest: layer.digest,
            diff_id,
            size: layer.size,
            media_type: layer.media_type,
        })
        .collect();
    Ok((manifest.config.digest, layers))
}

fn parse_manifest(bytes: &[u8]) -> Result<Manifest, (Reason, String)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        media_type: Option<String>,
    }
    let malformed = |error| (Reason::ImageInvalid, format!("the manifest is malformed: {error}"));
    let kind: Kind = crate::json::parse(bytes).map_err(malformed)?;
    if kind.media_type.is_some_and(|kind| INDEXES.contains(&kind.as_str())) {
        return platform("it is an index of several platforms' images: deploy the digest of one of them");
    }
    let manifest: Manifest = crate::json::parse(bytes).map_err(malformed)?;
    if manifest.schema_version != 2 {
        return invalid("its schema version is not 2");
    }
    if let Some(kind) = &manifest.media_type
        && !MANIFESTS.contains(&kind.as_str())
    {
        return invalid(format!("`{}` is not an image manifest", shown(kind)));
    }
    if manifest.manifests.is_some() || manifest.fs_layers.is_some() {
        return invalid("it is an image manifest and something else at once");
    }
    if !CONFIGS.contains(&manifest.config.media_type.as_str()) || !manifest.config.urls.is_empty() {
        return invalid(format!("`{}` is not an image configuration", shown(&manifest.config.media_type)));
    }
    check_layers(&manifest.layers)?;
    Ok(manifest)
}

fn check_layers(layers: &[Descriptor]) -> Result<(), (Reason, String)> {
    if layers.is_empty() {
        return invalid("it has no layers");
    }
    if layers.len() > LAYERS_MAX {
        return too_large(format!("{} layers are over the limit of {LAYERS_MAX}", layers.len()));
    }
    let mut total = 0u64;
    for layer in layers {
        if let Err(why) = Packing::of(&layer.media_type) {
            return unsupported(format!("layer {}, `{}`: {why}", layer.digest, shown(&layer.media_type)));
        }
        if !layer.urls.is_empty() {
            return unsupported(format!("layer {} is to be fetched from elsewhere (`urls`)", layer.digest));
        }
        if layer.size > LAYER_BYTES_MAX {
            return too_large(format!(
                "a layer of {} bytes is over the limit of {LAYER_BYTES_MAX}",
                layer.size
            ));
        }
        total = total.saturating_add(layer.size);
    }
    if total > IMAGE_BYTES_MAX {
        return too_large(format!("the layers have {total} bytes, over the limit of {IMAGE_BYTES_MAX}"));
    }
    Ok(())
}

/// The image must be for the machine that is to run it.
fn check_platform(config: &Config, processor: Processor) -> Result<(), (Reason, String)> {
    let machine = processor.architecture();
    let (os, architecture) = (shown(&config.os), shown(&config.architecture));
    if config.os != "linux" || config.architecture != machine.as_str() {
        return platform(format!("it is for {os}/{architecture}, the gateway is linux/{machine}"));
    }
    if processor.rank(&config.architecture, config.variant.as_deref()).is_none() {
        let variant = shown(config.variant.as_deref().unwrap_or_default());
        return platform(format!(
            "it is for {os}/{architecture}/{variant}, which this gateway's processor does not run"
        ));
    }
    Ok(())
}

fn invalid<T>(rule: impl Into<String>) -> Result<T, (Reason, String)> {
    Err((Reason::ImageInvalid, rule.into()))
}

fn unsupported<T>(rule: impl Into<String>) -> Result<T, (Reason, String)> {
    Err((Reason::ImageUnsupported, rule.into()))
}

fn platform<T>(rule: impl Into<String>) -> Result<T, (Reason, String)> {
    Err((Reason::ImagePlatform, rule.into()))
}

fn too_large<T>(rule: impl Into<String>) -> Result<T, (Reason, String)> {
    Err((Reason::ImageTooLarge, rule.into()))
}

/// Refuses about an image.
pub(crate) fn refuse(image: impl std::fmt::Display, (reason, rule): (Reason, String)) -> Refusal {
    Refusal::new(reason, image, rule)
}
