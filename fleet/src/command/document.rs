//! A deployment as people write it: TOML with the fields of [`Deployment`], and for comfort images by tag, and the
//! policy and keys in files beside it.
//!
//! There is one type, [`Deployment`]: what is said here in another way is put into its form, the rest is left as it is
//! written, and the result is read by the reader of the signed document.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use edgewarden_names::{Architecture, TrustDomain};
use edgewarden_oci::registry::{Access, Registry};
use edgewarden_protocol::deployment::{Deployment, ImageKey, ImageReference, Leaf, Module, Route, Topic};
use edgewarden_protocol::dsse::ENVELOPE_BYTES_MAX;
use edgewarden_protocol::federation::Endpoint;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::exit::Stop;
use super::key::read_text;

/// A deployment as it was written, with the fields that `deploy` may fill in taken out of the rest.
#[derive(Debug)]
pub struct Document {
    pub name: String,
    /// One above the fleet's newest of this name when absent.
    pub version: Option<u64>,
    pub selector: BTreeMap<String, String>,
    rest: Map<String, Value>,
}

impl Document {
    /// Reads a TOML file of at most [`ENVELOPE_BYTES_MAX`]. Fails without a `name`.
    pub fn read(path: &Path) -> Result<Self, Stop> {
        let text = read_text(path, ENVELOPE_BYTES_MAX)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let invalid = |error: &dyn std::fmt::Display| {
            Stop::Failed(format!("`{}` is not valid: {error}", path.display()))
        };
        let mut rest: Map<String, Value> = toml::from_str(text).map_err(|error| invalid(&error))?;
        let name = take(&mut rest, "name").map_err(|error| invalid(&error))?;
        Ok(Self {
            name: name.ok_or_else(|| invalid(&"it has no `name`"))?,
            version: take(&mut rest, "version").map_err(|error| invalid(&error))?,
            selector: take(&mut rest, "selector").map_err(|error| invalid(&error))?.unwrap_or_default(),
            rest,
        })
    }

    /// The deployment to sign. Files are looked for beside the document; tags are asked for their digests, those of an index
    /// for the image of that processor.
    pub async fn resolve(
        self,
        folder: &Path,
        version: u64,
        domain: &TrustDomain,
        registries: &Access,
        architecture: Architecture,
    ) -> Result<Deployment, Stop> {
        let mut document = self.rest;
        from_file(&mut document, "policy", folder)?;
        for key in tables(&mut document, "image_keys")? {
            from_file(key, "public_key", folder)?;
        }
        for endpoint in tables(&mut document, "federation")? {
            let Some(profile) = endpoint.get_mut("profile").and_then(Value::as_object_mut) else { continue };
            for field in ["ca", "bundle"] {
                if profile.contains_key(field) || profile.contains_key(&format!("{field}_file")) {
                    from_file(profile, field, folder)?;
                }
            }
        }
        for module in tables(&mut document, "modules")? {
            resolve_module(module, registries, architecture).await?;
        }
        for (field, empty) in
            [("image_keys", Value::Array(Vec::new())), ("modules", Value::Array(Vec::new()))]
        {
            document.entry(field).or_insert(empty);
        }
        check_each::<ImageKey>(&mut document, "image_keys")?;
        check_each::<Leaf>(&mut document, "leaves")?;
        check_each::<Topic>(&mut document, "topics")?;
        check_each::<Route>(&mut document, "routes")?;
        check_each::<Endpoint>(&mut document, "federation")?;
        document.entry("trust_domain").or_insert_with(|| domain.as_str().into());
        document.insert("name".into(), self.name.into());
        document.insert("version".into(), version.into());
        document
            .insert("selector".into(), self.selector.into_iter().map(|(k, v)| (k, Value::from(v))).collect());
        serde_json::from_value(Value::Object(document))
            .map_err(|error| Stop::Failed(format!("the document is not valid: {error}")))
    }
}

/// A field that is read here, if it is there.
fn take<T: DeserializeOwned>(table: &mut Map<String, Value>, field: &str) -> Result<Option<T>, String> {
    let Some(value) = table.remove(field) else { return Ok(None) };
    serde_json::from_value(value).map(Some).map_err(|error| format!("`{field}`: {error}"))
}

/// The tables of an array; none when it is absent.
fn tables<'a>(
    document: &'a mut Map<String, Value>,
    field: &str,
) -> Result<Vec<&'a mut Map<String, Value>>, Stop> {
    let wrong = || Stop::Failed(format!("`{field}` is an array of tables: `[[{field}]]`"));
    let Some(value) = document.get_mut(field) else { return Ok(Vec::new()) };
    let all = value.as_array_mut().ok_or_else(wrong)?;
    all.iter_mut().map(|one| one.as_object_mut().ok_or_else(wrong)).collect()
}

/// Reads each entry by itself, so that what is wrong is said with its place. The whole is read afterwards all the same.
fn check_each<T: DeserializeOwned>(document: &mut Map<String, Value>, field: &str) -> Result<(), Stop> {
    for (number, entry) in tables(document, field)?.into_iter().enumerate() {
        T::deserialize(Value::Object(entry.clone())).map_err(|error| {
            let name = entry.get("name").and_then(Value::as_str).unwrap_or_default().escape_debug();
            Stop::Failed(format!("entry {} of `{field}` (`{name}`): {error}", number + 1))
        })?;
    }
    Ok(())
}

/// Puts the text of `<field>_file` into `field`: one of the two is there.
fn from_file(table: &mut Map<String, Value>, field: &str, folder: &Path) -> Result<(), Stop> {
    let file = format!("{field}_file");
    match (table.contains_key(field), table.remove(&file)) {
        (true, None) => Ok(()),
        (false, Some(path)) => {
            let path: PathBuf =
                serde_json::from_value(path).map_err(|error| Stop::Failed(format!("`{file}`: {error}")))?;
            let text = read_text(&folder.join(path), ENVELOPE_BYTES_MAX)?;
            table.insert(field.into(), Value::from(text.as_str()));
            Ok(())
        }
        _ => Err(Stop::Failed(format!("the document has either `{field}` or its `{file}`"))),
    }
}

/// The module's image by digest. The module is read here already, so that what is wrong is said with its name.
async fn resolve_module(
    module: &mut Map<String, Value>,
    registries: &Access,
    architecture: Architecture,
) -> Result<(), Stop> {
    let name =
        module.get("name").and_then(Value::as_str).unwrap_or("(without a name)").escape_debug().to_string();
    let wrong = |error: &dyn std::fmt::Display| Stop::Failed(format!("module `{name}`: {error}"));
    let image = module.get("image").and_then(Value::as_str);
    let image = image.ok_or_else(|| wrong(&"it has no `image`"))?.to_owned();
    if !image.contains('@') {
        let tagged = image_by_tag(&image)?;
        let placeholder = format!("{image}@sha256:{}", "0".repeat(64));
        module.insert("image".into(), placeholder.into());
        Module::deserialize(Value::Object(module.clone())).map_err(|error| wrong(&error))?;
        let resolved = resolve_image(&image, tagged, registries, architecture).await?;
        module.insert("image".into(), resolved.to_string().into());
    }
    Module::deserialize(Value::Object(module.clone())).map(drop).map_err(|error| wrong(&error))
}

/// Registry, repository and tag.
fn image_by_tag(image: &str) -> Result<(String, String, String), Stop> {
    let wrong = || Stop::Failed(format!("`{}` is not `registry/repository:tag`", image.escape_debug()));
    let (registry, rest) = image.split_once('/').ok_or_else(wrong)?;
    let (repository, tag) = rest.split_once(':').ok_or_else(wrong)?;
    // The grammar is checked before the name is sent anywhere.
    ImageReference::parse(&format!("{image}@sha256:{}", "0".repeat(64))).map_err(Stop::Failed)?;
    Ok((registry.into(), repository.into(), tag.into()))
}

async fn resolve_image(
    image: &str,
    (registry, repository, tag): (String, String, String),
    registries: &Access,
    architecture: Architecture,
) -> Result<ImageReference, Stop> {
    let registry =
        Registry::new(&registry, &repository, registries).map_err(|error| Stop::from(error.refusal()))?;
    let digest =
        registry.resolve_image(&tag, architecture).await.map_err(|error| Stop::from(error.refusal()))?;
    ImageReference::parse(&format!("{image}@{digest}")).map_err(Stop::Failed)
}
