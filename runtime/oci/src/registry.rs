//! A bounded client of one repository in a registry (OCI distribution-spec 1.1).
use edgewarden_names::Digest;
use edgewarden_protocol::config::Runtime;
use edgewarden_protocol::control::SignatureEvidence;
use edgewarden_protocol::deployment::ImageReference;
use tokio::io::AsyncWrite;

use crate::OciError;

/// One repository of one registry.
#[derive(Debug, Clone)]
pub struct Registry {
    host: String,
    repository: String,
}

impl Registry {
    /// Plain HTTP only for the hosts that `runtime.plain_http_registries` names.
    pub fn new(host: &str, repository: &str, _config: &Runtime) -> Result<Self, OciError> {
        Ok(Self { host: host.into(), repository: repository.into() })
    }
    /// The repository that an image reference names.
    pub fn of(image: &ImageReference, config: &Runtime) -> Result<Self, OciError> {
        Self::new(image.registry(), image.repository(), config)
    }
    /// `registry/repository`
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }
    /// What a tag points to now: the hash of the manifest's bytes as they were received.
    #[allow(clippy::unused_async)]
    pub async fn resolve(&self, _tag: &str) -> Result<Digest, OciError> {
        crate::error::refused(edgewarden_names::Reason::Internal, "", "")
    }
    /// A manifest's bytes, which hash to `digest`.
    #[allow(clippy::unused_async)]
    pub async fn manifest(&self, _digest: &Digest) -> Result<Vec<u8>, OciError> {
        crate::error::refused(edgewarden_names::Reason::Internal, "", "")
    }
    /// Streams a blob of exactly `size` bytes that hash to `digest`. On an error what was written is to be thrown away.
    #[allow(clippy::unused_async)]
    pub async fn blob_to(&self, _digest: &Digest, _size: u64, _into: &mut (impl AsyncWrite + Unpin + Send)) -> Result<(), OciError> {
        crate::error::refused(edgewarden_names::Reason::Internal, "", "")
    }
    /// The signature manifests of an image in cosign's layout with their payloads; none when there is no such tag.
    #[allow(clippy::unused_async)]
    pub async fn signatures(&self, _image: &Digest) -> Result<Vec<SignatureEvidence>, OciError> {
        crate::error::refused(edgewarden_names::Reason::Internal, "", "")
    }
    /// Uploads a blob unless the registry has it.
    #[allow(clippy::unused_async)]
    pub async fn push_blob(&self, _bytes: &[u8]) -> Result<Digest, OciError> {
        crate::error::refused(edgewarden_names::Reason::Internal, "", "")
    }
    /// Puts a manifest under a tag.
    #[allow(clippy::unused_async)]
    pub async fn push_manifest(&self, _tag: &str, _media_type: &str, _bytes: &[u8]) -> Result<Digest, OciError> {
        crate::error::refused(edgewarden_names::Reason::Internal, "", "")
    }
}
