//! A deployment as people write it: TOML with the fields of [`Deployment`], and for comfort images by tag, and the
//! policy and keys in files beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use edgewarden_names::{ModuleName, TrustDomain};
use edgewarden_oci::registry::Registry;
use edgewarden_protocol::config::Runtime;
use edgewarden_protocol::deployment::{
    Deployment, ImageKey, ImageReference, Leaf, Module, Port, Restart, Route, Topic, WhenUntrusted,
};
use edgewarden_protocol::dsse::ENVELOPE_BYTES_MAX;
use edgewarden_protocol::secret::SecretUse;
use serde::Deserialize;

use super::exit::Stop;
use super::key::read_text;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    pub name: String,
    /// One above the fleet's newest of this name when absent.
    pub version: Option<u64>,
    /// The fleet's when absent.
    pub trust_domain: Option<TrustDomain>,
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    #[serde(default)]
    image_keys: Vec<Key>,
    #[serde(default)]
    untrusted: WhenUntrusted,
    #[serde(default)]
    modules: Vec<WrittenModule>,
    #[serde(default)]
    leaves: Vec<Leaf>,
    #[serde(default)]
    topics: Vec<Topic>,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    federation: Vec<super::federation::Written>,
    policy: Option<String>,
    policy_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    #[serde(rename = "public_key")]
    text: Option<String>,
    #[serde(rename = "public_key_file")]
    file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenModule {
    name: ModuleName,
    /// `registry/repository:tag`, or with a digest.
    image: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    memory_bytes: Option<u64>,
    pids_max: Option<u32>,
    #[serde(default)]
    ports: Vec<Port>,
    #[serde(default)]
    restart: Restart,
    #[serde(default)]
    iotedge: bool,
    #[serde(default)]
    server_names: Vec<String>,
    #[serde(default)]
    secrets: Vec<SecretUse>,
    #[serde(default)]
    federates_with: Vec<TrustDomain>,
}

impl Document {
    pub fn read(path: &Path) -> Result<Self, Stop> {
        let text = read_text(path, ENVELOPE_BYTES_MAX)?;
        toml::from_str(&text)
            .map_err(|error| Stop::Failed(format!("`{}` is not valid: {error}", path.display())))
    }

    /// The deployment to sign. Files are looked for beside the document; tags are asked for their digests.
    pub async fn resolve(
        self,
        folder: &Path,
        version: u64,
        domain: &TrustDomain,
        registries: &Runtime,
    ) -> Result<Deployment, Stop> {
        let policy = one("policy", self.policy, self.policy_file.map(|file| folder.join(file)))?;
        let mut image_keys = Vec::new();
        for key in self.image_keys {
            let what = format!("public_key of image key `{}`", key.name);
            let public_key = one(&what, key.text, key.file.map(|file| folder.join(file)))?;
            image_keys.push(ImageKey { name: key.name, public_key });
        }
        let mut federation = Vec::new();
        for written in self.federation {
            federation.push(written.resolve(folder)?);
        }
        let mut modules = Vec::new();
        for module in self.modules {
            modules.push(module.resolve(registries).await?);
        }
        Ok(Deployment {
            name: self.name,
            version,
            trust_domain: self.trust_domain.unwrap_or_else(|| domain.clone()),
            selector: self.selector,
            image_keys,
            untrusted: self.untrusted,
            modules,
            leaves: self.leaves,
            topics: self.topics,
            routes: self.routes,
            policy,
            federation,
        })
    }
}

impl WrittenModule {
    async fn resolve(self, registries: &Runtime) -> Result<Module, Stop> {
        let image = resolve_image(&self.image, registries).await?;
        // The defaults are those of the signed document: an absent field is not written twice.
        let mut value = serde_json::json!({ "name": self.name, "image": image });
        if let Some(fields) = value.as_object_mut() {
            fields.extend(self.memory_bytes.map(|bytes| ("memory_bytes".into(), bytes.into())));
            fields.extend(self.pids_max.map(|most| ("pids_max".into(), most.into())));
        }
        let module: Module = serde_json::from_value(value).map_err(Stop::failed)?;
        Ok(Module {
            args: self.args,
            env: self.env,
            ports: self.ports,
            restart: self.restart,
            iotedge: self.iotedge,
            server_names: self.server_names,
            secrets: self.secrets,
            federates_with: self.federates_with,
            ..module
        })
    }
}

async fn resolve_image(image: &str, registries: &Runtime) -> Result<ImageReference, Stop> {
    if image.contains('@') {
        return ImageReference::parse(image).map_err(Stop::Failed);
    }
    let wrong = || Stop::Failed(format!("`{}` is not `registry/repository:tag`", image.escape_debug()));
    let (registry, rest) = image.split_once('/').ok_or_else(wrong)?;
    let (repository, tag) = rest.split_once(':').ok_or_else(wrong)?;
    // The grammar is checked before the name is sent anywhere.
    ImageReference::parse(&format!("{image}@sha256:{}", "0".repeat(64))).map_err(Stop::Failed)?;
    let registry =
        Registry::new(registry, repository, registries).map_err(|error| Stop::from(error.refusal()))?;
    let digest = registry.resolve_image(tag).await.map_err(|error| Stop::from(error.refusal()))?;
    ImageReference::parse(&format!("{image}@{digest}")).map_err(Stop::Failed)
}

/// A text that is written in place or lies in a file, not both.
pub(super) fn one(what: &str, text: Option<String>, file: Option<PathBuf>) -> Result<String, Stop> {
    match (text, file) {
        (Some(text), None) => Ok(text),
        (None, Some(file)) => Ok(read_text(&file, ENVELOPE_BYTES_MAX)?.to_string()),
        _ => Err(Stop::Failed(format!("the document has either `{what}` or its `…_file`"))),
    }
}
