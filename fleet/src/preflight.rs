//! A gateway's judgement of a deployment, foretold: by the functions that the gateway itself asks.
//!
//! Not a wall: each gateway judges for itself. What is refused here keeps honest mistakes away from gateways.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use edgewarden_image_trust as image_trust;
use edgewarden_names::{Architecture, Epoch, GatewayName, Processor, Reason, Refusal, TrustDomain};
use edgewarden_oci::OciError;
use edgewarden_oci::execution::Execution;
use edgewarden_oci::manifest::ImageConfig;
use edgewarden_oci::records::RecordKey;
use edgewarden_oci::registry::{Access, Registry};
use edgewarden_oci::store::ContentStore;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::ImageEvidence;
use edgewarden_protocol::deployment::{Deployment, ImageKey, Module};

use crate::Problem;
use crate::enrol::random_text;

/// The document's fields, image keys, address and policy: all that does not depend on a gateway.
pub async fn document(payload: Vec<u8>, domain: &TrustDomain) -> Result<Deployment, Problem> {
    let domain = domain.clone();
    let judged = tokio::task::spawn_blocking(move || parse_and_judge(&payload, &domain)).await;
    Ok(judged.map_err(Problem::internal)??)
}

fn parse_and_judge(payload: &[u8], domain: &TrustDomain) -> Result<Deployment, Refusal> {
    let deployment = Deployment::parse(payload)?;
    let refuse = |reason, rule: String| Err(Refusal::new(reason, &deployment.name, rule));
    if deployment.trust_domain != *domain {
        return refuse(
            Reason::DeploymentTarget,
            format!("it is for `{}`, this fleet is `{domain}`", deployment.trust_domain),
        );
    }
    if i64::try_from(deployment.version).is_err() {
        return refuse(Reason::DeploymentInvalid, "a version is below 2^63".into());
    }
    for key in &deployment.image_keys {
        image_trust::check_key(key)?;
    }
    edgewarden_policy::federation::check(&deployment)?;
    // The name of a gateway is in no policy: any will do to see whether it compiles.
    let gateway =
        GatewayName::parse("gateway").map_err(|error| Refusal::new(Reason::Internal, "policy", error))?;
    edgewarden_policy::compile(&deployment, &gateway, Epoch(1))?;
    Ok(deployment)
}

/// The images of a deployment: signatures, content, and whether they can run on each of the processors. Fetches them as a
/// gateway does, into a folder that is gone afterwards.
pub async fn images(
    deployment: &Deployment,
    registries: &Access,
    architectures: &[Architecture],
) -> Result<(), Problem> {
    let folder = tempfile::Builder::new().prefix("edgewarden-check-").tempdir().map_err(Problem::internal)?;
    let judged = images_in(folder.path(), deployment, registries, architectures).await;
    // What was unpacked is not writable, not even for its owner.
    make_writable(folder.path()).map_err(Problem::internal)?;
    folder.close().map_err(Problem::internal)?;
    judged
}

async fn images_in(
    folder: &Path,
    deployment: &Deployment,
    registries: &Access,
    architectures: &[Architecture],
) -> Result<(), Problem> {
    let store = ContentStore::open(folder).map_err(OciError::refusal)?;
    // Nothing of this store is believed later.
    let key = RecordKey::new(random_text()?.as_bytes());
    for module in &deployment.modules {
        for architecture in architectures {
            // What was fetched for one is there for the next.
            image(&store, &key, module, &deployment.image_keys, registries, *architecture).await?;
        }
    }
    Ok(())
}

async fn image(
    store: &ContentStore,
    key: &RecordKey,
    module: &Module,
    keys: &[ImageKey],
    registries: &Access,
    architecture: Architecture,
) -> Result<(), Problem> {
    let registry = Registry::of(&module.image, registries).map_err(OciError::refusal)?;
    let documents = store
        .documents(&registry, module.image.digest(), Processor::least(architecture))
        .await
        .map_err(OciError::refusal)?;
    let evidence = ImageEvidence {
        module: module.name.clone(),
        image: module.image.clone(),
        manifest: Bytes(documents.manifest),
        config: Bytes(documents.config),
        signatures: registry.signatures(module.image.digest()).await.map_err(OciError::refusal)?,
    };
    let proof = image_trust::judge_for(&evidence, keys, architecture)?;
    for layer in proof.layers() {
        store.fetch(&registry, &layer.digest, layer.size).await.map_err(OciError::refusal)?;
    }
    let config = ImageConfig::parse(proof.config_digest(), evidence.config.as_slice())?;
    let (store, key, module) = (store.clone(), key.clone(), module.clone());
    let judging = tokio::task::spawn_blocking(move || {
        let root = store.root_file_system(proof.manifest_digest(), proof.layers(), &key);
        let root = root.map_err(OciError::refusal)?;
        Execution { module: &module, image: &config, root: &root }.check()
    });
    Ok(judging.await.map_err(Problem::internal)??)
}

fn make_writable(folder: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}
