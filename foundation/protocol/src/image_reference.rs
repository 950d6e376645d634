//! The name of an image, with the digest that decides which one it is.

use edgewarden_names::Digest;
use serde::{Deserialize, Serialize};

/// `registry/repository[:tag]@sha256:…`: the digest decides, the tag is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Digest,
}

impl ImageReference {
    /// OCI distribution-spec, "Pulling manifests": the grammar of names and tags.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("`{}` is not an image reference: {what}", text.escape_debug()));
        if text.len() > 512 {
            return wrong("it is longer than 512 bytes");
        }
        let Some((name, digest)) = text.split_once('@') else {
            return wrong("it has no digest (`@sha256:…`)");
        };
        let digest = Digest::parse(digest).map_err(|error| error.to_string())?;
        let Some((registry, rest)) = name.split_once('/') else {
            return wrong("it names no registry");
        };
        let (repository, tag) = rest.split_once(':').map_or((rest, None), |(r, t)| (r, Some(t)));
        if !is_registry(registry) {
            return wrong("the registry is `host` or `host:port`");
        }
        if !is_repository(repository) {
            return wrong("the repository holds only `a-z`, `0-9`, `.`, `_`, `-` and `/`");
        }
        let tag_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let tag_bad = |tag: &str| {
            tag.is_empty() || tag.len() > 128 || tag.starts_with(['.', '-']) || !tag.chars().all(tag_ok)
        };
        if tag.is_some_and(tag_bad) {
            return wrong(
                "the tag holds 1 to 128 of `a-z`, `A-Z`, `0-9`, `_`, and after the first `.` and `-`",
            );
        }
        Ok(Self {
            registry: registry.into(),
            repository: repository.into(),
            tag: tag.map(Into::into),
            digest,
        })
    }

    /// Host, with a port if there is one.
    pub fn registry(&self) -> &str {
        &self.registry
    }
    /// Path of the repository in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }
    /// Tag, which is for people: the digest decides.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
    /// Digest of the manifest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
    /// `registry/repository`: what a signature must have been made for.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

/// Whether a text may be a registry's `host` or `host:port`.
pub(crate) fn is_registry(text: &str) -> bool {
    let host_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    !text.is_empty() && text.chars().all(host_ok) && !text.starts_with(':')
}

/// Whether a text may be a repository's path.
pub(crate) fn is_repository(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

fn is_path_component(component: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(component.bytes().next())
        && edge(component.bytes().last())
        && component.bytes().all(|b| edge(Some(b)) || matches!(b, b'.' | b'_' | b'-'))
}

impl std::fmt::Display for ImageReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        write!(f, "@{}", self.digest)
    }
}

impl TryFrom<String> for ImageReference {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> Self {
        reference.to_string()
    }
}
