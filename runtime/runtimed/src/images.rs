//! From an image reference to a start permit: fetches what there is to judge, has it judged, fetches the layers.
//!
//! The store comes first, so that a start needs no network: manifest and configuration by their digests, signatures as
//! they were when the image was last permitted. Signatures from the store that no longer count (the keys changed) are
//! asked for once more from the registry. Layers are fetched only after the image was permitted.

use std::path::PathBuf;

use edgewarden_names::{Reason, Refusal};
use edgewarden_oci::OciError;
use edgewarden_oci::manifest::ImageConfig;
use edgewarden_oci::registry::Registry;
use edgewarden_oci::store::{ContentStore, Documents};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::config::Runtime;
use edgewarden_protocol::control::{ImageEvidence, Reply, Request, SignatureEvidence, StartPermit};
use edgewarden_protocol::deployment::Module;

use crate::identity::{CallError, Client};

/// An image that may start once, ready on disk.
#[derive(Debug)]
pub struct Ready {
    pub permit: StartPermit,
    pub config: ImageConfig,
    pub root: PathBuf,
}

pub async fn ready(
    store: &ContentStore,
    identityd: &Client,
    runtime: &Runtime,
    module: &Module,
) -> Result<Ready, Refusal> {
    let registry = Registry::of(&module.image, runtime).map_err(OciError::refusal)?;
    let documents = store.documents(&registry, module.image.digest()).await.map_err(OciError::refusal)?;
    let mut permit = permit(store, &registry, identityd, module, &documents).await?;
    let mut fetched = false;
    for layer in &permit.layers {
        if !store.has(&layer.digest, layer.size) {
            store.fetch(&registry, &layer.digest, layer.size).await.map_err(OciError::refusal)?;
            fetched = true;
        }
    }
    if fetched {
        // Fetching may have taken longer than the permit lives.
        permit = self::permit(store, &registry, identityd, module, &documents).await?;
    }
    if permit.manifest != *module.image.digest() || permit.module != module.name {
        return Err(Refusal::new(
            Reason::StartPermit,
            &module.name,
            "the permit is for another image or module",
        ));
    }
    let config = ImageConfig::parse(&permit.config, &documents.config)?;
    let (store, layers, manifest) = (store.clone(), permit.layers.clone(), permit.manifest.clone());
    let root = tokio::task::spawn_blocking(move || store.root_file_system(&manifest, &layers))
        .await
        .map_err(|error| Refusal::new(Reason::Internal, &module.name, error))?
        .map_err(OciError::refusal)?;
    Ok(Ready { permit, config, root })
}

async fn permit(
    store: &ContentStore,
    registry: &Registry,
    identityd: &Client,
    module: &Module,
    documents: &Documents,
) -> Result<StartPermit, Refusal> {
    let image = module.image.digest();
    if let Some(kept) = store.evidence(image).map_err(OciError::refusal)? {
        match judge(identityd, module, documents, &kept).await {
            Err(CallError::Refused(refusal)) if about_signatures(refusal.reason) => {
                tracing::info!(module = %module.name, %refusal, "the kept signatures do not count; asking the registry");
            }
            other => return other.map_err(CallError::refusal),
        }
    }
    let signatures = registry.signatures(image).await.map_err(OciError::refusal)?;
    let permit = judge(identityd, module, documents, &signatures).await.map_err(CallError::refusal)?;
    store.keep_evidence(image, &signatures).map_err(OciError::refusal)?;
    Ok(permit)
}

fn about_signatures(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ImageUnsigned
            | Reason::ImageSignature
            | Reason::ImageDigestMismatch
            | Reason::ImageRepositoryMismatch
    )
}

async fn judge(
    identityd: &Client,
    module: &Module,
    documents: &Documents,
    signatures: &[SignatureEvidence],
) -> Result<StartPermit, CallError> {
    let evidence = ImageEvidence {
        module: module.name.clone(),
        image: module.image.clone(),
        manifest: Bytes(documents.manifest.clone()),
        config: Bytes(documents.config.clone()),
        signatures: signatures.to_vec(),
    };
    match identityd.call(&Request::ImageJudge(Box::new(evidence))).await? {
        Reply::Permit(permit) => Ok(*permit),
        _ => Err(CallError::Unexpected),
    }
}
