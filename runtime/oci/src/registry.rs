//! A bounded client of one repository in a registry (OCI distribution-spec 1.1).
//!
//! Nothing that a registry says is trusted: a manifest counts by the hash of its received bytes, a blob by hash and
//! size. TLS is verified with the system's roots all the same; plain HTTP is spoken only to the hosts that
//! `runtime.plain_http_registries` names. Each request has its own connection, deadlines and byte limits.
//! Registries that want a login are refused with those words.

use edgewarden_names::{Architecture, Digest, Reason};
use edgewarden_protocol::Bytes as Binary;
use edgewarden_protocol::config::Runtime;
use edgewarden_protocol::control::{
    MANIFEST_BYTES_MAX, SIGNATURE_PAYLOAD_BYTES_MAX, SIGNATURES_MAX, SignatureEvidence,
};
use edgewarden_protocol::deployment::ImageReference;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::OciError;
use crate::error::refused;
use crate::hashing::Hasher;
use crate::http::{Answer, Call, Host};
use crate::manifest::{self, Document};

/// Most bytes of all payloads of one image's signatures, so that evidence fits one message to the judge.
const PAYLOADS_BYTES_MAX: u64 = 4 * 1024 * 1024;
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of a signed payload in cosign's layout.
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// One repository of one registry.
#[derive(Debug, Clone)]
pub struct Registry {
    host: Host,
    repository: String,
}

impl Registry {
    /// Plain HTTP only for the hosts that `runtime.plain_http_registries` names.
    pub fn new(host: &str, repository: &str, config: &Runtime) -> Result<Self, OciError> {
        // The reference's parser is the one place that knows the grammar.
        let reference = format!("{host}/{repository}@sha256:{}", "0".repeat(64));
        match ImageReference::parse(&reference) {
            Ok(parsed) if parsed.registry() == host && parsed.repository() == repository => {}
            Ok(_) => {
                return refused(
                    Reason::RequestInvalid,
                    host,
                    "the repository holds a tag, or the host a repository",
                );
            }
            Err(rule) => return refused(Reason::RequestInvalid, host, rule),
        }
        Ok(Self { host: Host::new(host, &config.plain_http_registries), repository: repository.into() })
    }

    /// The repository that an image reference names.
    pub fn of(image: &ImageReference, config: &Runtime) -> Result<Self, OciError> {
        Self::new(image.registry(), image.repository(), config)
    }

    /// `registry/repository`
    pub fn name(&self) -> String {
        format!("{}/{}", self.host.name(), self.repository)
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    /// The digest that a tag points to now: the hash of the manifest's bytes as they were received.
    pub async fn resolve(&self, tag: &str) -> Result<Digest, OciError> {
        match self.tagged(tag).await? {
            Some(bytes) => Ok(Digest::of(&bytes)),
            None => refused(
                Reason::ImageUnavailable,
                format!("{}:{tag}", self.name()),
                "the registry has no such tag",
            ),
        }
    }

    /// Like [`Registry::resolve`], but an index gives the digest of its image for a processor: what a deployment names.
    pub async fn resolve_image(&self, tag: &str, architecture: Architecture) -> Result<Digest, OciError> {
        let digest = self.resolve(tag).await?;
        let bytes = self.manifest(&digest).await?;
        match manifest::parse(&digest, &bytes)? {
            Document::Image(_) => Ok(digest),
            Document::Index(index) => Ok(index.image_for(&digest, architecture)?.digest.clone()),
        }
    }

    /// A manifest's bytes, which hash to `digest`.
    pub async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, OciError> {
        let Some(bytes) = self.get_manifest(digest.as_str()).await? else {
            let subject = format!("{}@{digest}", self.name());
            return refused(Reason::ImageUnavailable, subject, "the registry has no such manifest");
        };
        if Digest::of(&bytes) != *digest {
            return refused(Reason::ImageContent, digest, "the registry sent a manifest of another digest");
        }
        Ok(bytes)
    }

    async fn tagged(&self, tag: &str) -> Result<Option<Vec<u8>>, OciError> {
        if !is_tag(tag) {
            return refused(Reason::RequestInvalid, tag.escape_debug(), "it is not a tag");
        }
        self.get_manifest(tag).await
    }

    async fn get_manifest(&self, reference: &str) -> Result<Option<Vec<u8>>, OciError> {
        let path = self.path(&format!("manifests/{reference}"));
        let mut answer = self.host.call(Call::get(&path).accept(MANIFEST_TYPES)).await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(answer.bytes(MANIFEST_BYTES_MAX as u64).await?)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(answer.unexpected("a manifest")),
        }
    }

    /// Streams a blob of exactly `size` bytes that hash to `digest`. On an error what was written is to be thrown away.
    pub async fn blob_to(
        &self,
        digest: &Digest,
        size: u64,
        into: &mut (impl AsyncWrite + Unpin + Send),
    ) -> Result<(), OciError> {
        let mut answer = self.get_blob(digest).await?;
        let mut hasher = Hasher::new();
        while let Some(chunk) = answer.chunk().await? {
            hasher.update(&chunk);
            if hasher.bytes() > size {
                return refused(
                    Reason::ImageContent,
                    digest,
                    format!("the registry sent more than the {size} bytes named"),
                );
            }
            into.write_all(&chunk).await.map_err(OciError::io("write what the registry sends"))?;
        }
        if hasher.bytes() != size {
            let rule = format!("the registry sent {} of {size} bytes", hasher.bytes());
            return refused(Reason::ImageContent, digest, rule);
        }
        if hasher.finish() != *digest {
            return refused(
                Reason::ImageContent,
                digest,
                "the registry sent other content than the digest names",
            );
        }
        into.flush().await.map_err(OciError::io("write what the registry sends"))
    }

    /// A small blob as bytes.
    pub async fn blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, OciError> {
        let mut bytes = Vec::new();
        self.blob_to(digest, size, &mut bytes).await?;
        Ok(bytes)
    }

    async fn get_blob(&self, digest: &Digest) -> Result<Answer, OciError> {
        let answer = self.host.call_following(&self.path(&format!("blobs/{digest}"))).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            StatusCode::NOT_FOUND => {
                refused(Reason::ImageUnavailable, digest, "the registry has no such blob")
            }
            _ => Err(answer.unexpected("a blob")),
        }
    }

    /// The manifest under the tag of an image's signatures in cosign's layout, if there is one.
    pub async fn signature_manifest(&self, image: &Digest) -> Result<Option<Vec<u8>>, OciError> {
        self.tagged(&format!("sha256-{}.sig", image.hex())).await
    }

    /// The signature manifests of an image in cosign's layout with their payloads; none when there is no such tag.
    pub async fn signatures(&self, image: &Digest) -> Result<Vec<SignatureEvidence>, OciError> {
        let Some(bytes) = self.signature_manifest(image).await? else {
            return Ok(Vec::new());
        };
        let digest = Digest::of(&bytes);
        let signature = manifest::parse_image(&digest, &bytes)?;
        let named: Vec<_> =
            signature.layers.iter().filter(|layer| layer.media_type == SIMPLE_SIGNING).collect();
        if named.len() > SIGNATURES_MAX {
            let rule = format!("{} signatures are over the limit of {SIGNATURES_MAX}", named.len());
            return refused(Reason::ImageTooLarge, image, rule);
        }
        let mut left = PAYLOADS_BYTES_MAX;
        let mut payloads = Vec::new();
        for layer in named {
            let fits = layer.size <= SIGNATURE_PAYLOAD_BYTES_MAX as u64;
            left = match left.checked_sub(layer.size) {
                Some(left) if fits => left,
                _ => {
                    return refused(
                        Reason::ImageTooLarge,
                        image,
                        "the signatures' payloads are over the limit",
                    );
                }
            };
            payloads.push(Binary(self.blob(&layer.digest, layer.size).await?));
        }
        Ok(vec![SignatureEvidence { manifest: Binary(bytes), payloads }])
    }

    /// Uploads a blob unless the registry has it (distribution-spec, "POST then PUT").
    pub async fn push_blob(&self, bytes: &[u8]) -> Result<Digest, OciError> {
        let digest = Digest::of(bytes);
        let path = self.path(&format!("blobs/{digest}"));
        if self.host.call(Call::new(Method::HEAD, &path)).await?.status() == StatusCode::OK {
            return Ok(digest);
        }
        let begun = self.host.call(Call::new(Method::POST, &self.path("blobs/uploads/"))).await?;
        if begun.status() != StatusCode::ACCEPTED {
            return Err(begun.unexpected("the place for an upload"));
        }
        let place = self.host.own_path(&begun)?;
        let separator = if place.contains('?') { '&' } else { '?' };
        let put = Call::new(Method::PUT, &format!("{place}{separator}digest={digest}"))
            .body("application/octet-stream", Bytes::copy_from_slice(bytes));
        let done = self.host.call(put).await?;
        if done.status() == StatusCode::CREATED {
            Ok(digest)
        } else {
            Err(done.unexpected("an uploaded blob"))
        }
    }

    /// Puts a manifest under a tag.
    pub async fn push_manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Result<Digest, OciError> {
        if !is_tag(tag) {
            return refused(Reason::RequestInvalid, tag.escape_debug(), "it is not a tag");
        }
        let path = self.path(&format!("manifests/{tag}"));
        let put = Call::new(Method::PUT, &path).body(media_type, Bytes::copy_from_slice(bytes));
        let done = self.host.call(put).await?;
        if done.status() == StatusCode::CREATED {
            Ok(Digest::of(bytes))
        } else {
            Err(done.unexpected("a pushed manifest"))
        }
    }
}

/// Distribution-spec, "Pulling manifests". A digest is not a tag.
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}
