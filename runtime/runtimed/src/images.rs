//! From an image reference to a start permit: fetches what there is to judge, has it judged, fetches the layers.
//!
//! The store comes first, so that a start needs no network: manifest and configuration by their digests, signatures as
//! they were when the image was last permitted. Signatures from the store that no longer count (the keys changed) are
//! asked for once more from the registry. Layers are fetched only after the image was permitted.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use edgewarden_names::{Processor, Reason, Refusal};
use edgewarden_oci::OciError;
use edgewarden_oci::manifest::ImageConfig;
use edgewarden_oci::registry::Registry;
use edgewarden_oci::store::{ContentStore, Documents};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::{ImageEvidence, SignatureEvidence, StartPermit, questions};
use edgewarden_protocol::deployment::Module;

use crate::context::Context;
use crate::identity::{CallError, Client};

/// Fetching and unpacking may take this long before the image is judged again.
const PERMIT_FRESH: Duration = Duration::from_secs(120);

/// An image that may start once, ready on disk.
#[derive(Debug)]
pub struct Ready {
    pub permit: StartPermit,
    pub config: ImageConfig,
    pub root: PathBuf,
}

/// Fetches the module's image, has it permitted by `identityd` and unpacks it.
pub async fn ready(context: &Context, module: &Module) -> Result<Ready, Refusal> {
    let (store, identityd, runtime) = (&context.store, &context.identityd, &context.config.runtime);
    let registry = Registry::of(&module.image, runtime).map_err(OciError::refusal)?;
    let documents = store
        .documents(&registry, module.image.digest(), Processor::here())
        .await
        .map_err(OciError::refusal)?;
    let judged = Instant::now();
    let mut permit = permit(store, &registry, identityd, module, &documents).await?;
    for layer in &permit.layers {
        let begun = Instant::now();
        if store.fetch(&registry, &layer.digest, layer.size).await.map_err(OciError::refusal)? {
            context.metrics.pulled(layer.size, begun.elapsed());
        }
    }
    let config = ImageConfig::parse(&permit.config, &documents.config)?;
    let key = context.record_key().await.map_err(CallError::refusal)?;
    let (unpacking, layers, manifest) = (store.clone(), permit.layers.clone(), permit.manifest.clone());
    let root = tokio::task::spawn_blocking(move || unpacking.root_file_system(&manifest, &layers, &key))
        .await
        .map_err(|error| Refusal::new(Reason::Internal, &module.name, error))?
        .map_err(OciError::refusal)?;
    if judged.elapsed() > PERMIT_FRESH {
        // A permit lives five minutes, and has to last until the old instance has stopped.
        permit = self::permit(store, &registry, identityd, module, &documents).await?;
    }
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
        match request_permit(identityd, module, documents, &kept).await {
            Err(CallError::Refused(refusal)) if about_signatures(refusal.reason) => {
                tracing::info!(module = %module.name, %refusal, "the kept signatures do not count; asking the registry");
            }
            other => return other.map_err(CallError::refusal),
        }
    }
    let signatures = registry.signatures(image).await.map_err(OciError::refusal)?;
    let permit =
        request_permit(identityd, module, documents, &signatures).await.map_err(CallError::refusal)?;
    if let Err(error) = store.keep_evidence(image, &signatures) {
        // The start does not need it; one without a network will.
        tracing::warn!(module = %module.name, error = %error.refusal(), "the signatures are not kept");
    }
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

/// The permit that `identityd` gives for the image by these signatures.
async fn request_permit(
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
    let permit = *identityd.call(questions::ImageJudge(Box::new(evidence))).await?;
    if permit.manifest == *module.image.digest() && permit.module == module.name {
        Ok(permit)
    } else {
        Err(CallError::Unexpected)
    }
}
