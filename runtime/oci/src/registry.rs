//! A bounded client of one repository in a registry (OCI distribution-spec 1.1), and in the mirrors of it.
//!
//! Nothing that a registry says is trusted: a manifest counts by the hash of its received bytes, a blob by hash and
//! size. TLS is verified all the same; plain HTTP is spoken only to the hosts that `runtime.plain_http_registries` names.
//! Each request has its own connection, deadlines and byte limits.
//!
//! Mirrors are asked first, in their order, and whatever one of them does wrong, the next is asked. What a tag names is
//! the registry's own word, unless only mirrors are to be asked. Nothing is pushed to a mirror.

use std::sync::Arc;
use std::time::Duration;

use edgewarden_names::{Architecture, Digest, Reason, Refusal};
use edgewarden_protocol::Bytes as Binary;
use edgewarden_protocol::control::{
    MANIFEST_BYTES_MAX, SIGNATURE_PAYLOAD_BYTES_MAX, SIGNATURES_MAX, SignatureEvidence,
};
use edgewarden_protocol::deployment::ImageReference;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use tokio::io::{AsyncSeek, AsyncSeekExt, AsyncWrite, AsyncWriteExt};

use crate::OciError;
pub use crate::access::{Access, Command};
use crate::error::refused;
use crate::hashing::Hasher;
use crate::http::{Answer, Call, Host, unavailable};
use crate::login::Session;
use crate::manifest::{self, Document};

/// Most bytes of all payloads of one image's signatures, so that evidence fits one message to the judge.
const PAYLOADS_BYTES_MAX: u64 = 4 * 1024 * 1024;
const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of a signed payload in cosign's layout.
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Times that a blob whose exchange broke off is gone on with, at one host.
const RESUMES_MAX: u32 = 4;
const RESUME_PAUSE: Duration = Duration::from_millis(250);
/// Docker's own registry, as image references name it, and the host that speaks for it.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// One repository of one registry.
#[derive(Debug, Clone)]
pub struct Registry {
    name: Arc<str>,
    mirrors: Arc<[Source]>,
    own: Source,
    /// The registry itself is not read.
    only_mirrors: bool,
}

impl Registry {
    /// A repository of a registry, as image references name both. Names are not completed.
    pub fn new(host: &str, repository: &str, access: impl Into<Access>) -> Result<Self, OciError> {
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
        let name = format!("{host}/{repository}");
        let (hub, hub_server) = HUB;
        if host == hub && !repository.contains('/') {
            let rule = format!("write `{hub}/library/{repository}`: names are not completed");
            return refused(Reason::RequestInvalid, name, rule);
        }
        let access = access.into();
        let (mirrors, only_mirrors) = access.mirrors(host);
        let mirrors = mirrors.iter().map(|mirror| Source {
            shown: format!("mirror `{mirror}`"),
            session: Arc::new(Session::new(
                Host::mirror(mirror.host(), &access),
                mirror.host(),
                mirror.repository(repository),
                &access,
            )),
        });
        let server = if host == hub { hub_server } else { host };
        let own = Source {
            shown: format!("`{host}`"),
            session: Arc::new(Session::new(Host::new(server, &access), host, repository.into(), &access)),
        };
        Ok(Self { name: name.into(), mirrors: mirrors.collect(), own, only_mirrors })
    }

    /// The repository that an image reference names.
    pub fn of(image: &ImageReference, access: impl Into<Access>) -> Result<Self, OciError> {
        Self::new(image.registry(), image.repository(), access)
    }

    /// `registry/repository`
    pub fn name(&self) -> String {
        self.name.to_string()
    }

    /// Who is asked for content, in this order.
    fn sources(&self) -> impl Iterator<Item = &Source> {
        self.mirrors.iter().chain((!self.only_mirrors).then_some(&self.own))
    }

    /// Who is asked what a tag names.
    fn namers(&self) -> impl Iterator<Item = &Source> {
        self.sources().filter(|source| self.only_mirrors || std::ptr::eq(*source, &raw const self.own))
    }

    /// The digest that a tag points to now: the hash of the manifest's bytes as they were received.
    pub async fn resolve(&self, tag: &str) -> Result<Digest, OciError> {
        check_tag(tag)?;
        let mut failed = Failures::default();
        for source in self.namers() {
            match source.existing_manifest(tag).await {
                Ok(bytes) => return Ok(Digest::of(&bytes)),
                Err(error) => failed.put(source, error)?,
            }
        }
        Err(failed.into_error(&format!("{}:{tag}", self.name)))
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
        let mut failed = Failures::default();
        for source in self.sources() {
            match source.manifest(digest).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => failed.put(source, error)?,
            }
        }
        Err(failed.into_error(&format!("{}@{digest}", self.name)))
    }

    /// Streams a blob of exactly `size` bytes that hash to `digest`. On an error what was written is to be thrown away.
    pub async fn blob_to(
        &self,
        digest: &Digest,
        size: u64,
        into: &mut (impl AsyncWrite + AsyncSeek + Unpin + Send),
    ) -> Result<(), OciError> {
        let mut failed = Failures::default();
        for source in self.sources() {
            match source.blob_to(digest, size, into).await {
                Ok(()) => return Ok(()),
                Err(error) => failed.put(source, error)?,
            }
        }
        Err(failed.into_error(&format!("{}@{digest}", self.name)))
    }

    /// A small blob as bytes.
    pub async fn blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, OciError> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        self.blob_to(digest, size, &mut bytes).await?;
        Ok(bytes.into_inner())
    }

    /// The manifest under the tag of an image's signatures in cosign's layout, if there is one.
    pub async fn signature_manifest(&self, image: &Digest) -> Result<Option<Vec<u8>>, OciError> {
        self.own.get_manifest(&signature_tag(image)).await
    }

    /// The signature manifests of an image in cosign's layout with their payloads; none when there is no such tag. A mirror
    /// that has none is no proof that there is none.
    pub async fn signatures(&self, image: &Digest) -> Result<Vec<SignatureEvidence>, OciError> {
        let mut failed = Failures::default();
        let mut last_has_none = false;
        for source in self.sources() {
            last_has_none = false;
            match source.signatures(image).await {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => last_has_none = true,
                Err(error) => failed.put(source, error)?,
            }
        }
        if last_has_none { Ok(Vec::new()) } else { Err(failed.into_error(&self.name)) }
    }

    /// Uploads a blob unless the registry has it (distribution-spec, "POST then PUT").
    pub async fn push_blob(&self, bytes: &[u8]) -> Result<Digest, OciError> {
        let own = &self.own.session;
        let digest = Digest::of(bytes);
        let path = self.own.path(&format!("blobs/{digest}"));
        if own.call(Call::new(Method::HEAD, &path)).await?.status() == StatusCode::OK {
            return Ok(digest);
        }
        let begun = own.call(Call::new(Method::POST, &self.own.path("blobs/uploads/"))).await?;
        if begun.status() != StatusCode::ACCEPTED {
            return Err(own.unexpected(&begun, "the place for an upload").await);
        }
        let place = own.host.own_path(&begun)?;
        let separator = if place.contains('?') { '&' } else { '?' };
        let put = Call::new(Method::PUT, &format!("{place}{separator}digest={digest}"))
            .body("application/octet-stream", Bytes::copy_from_slice(bytes));
        let done = own.call(put).await?;
        if done.status() == StatusCode::CREATED {
            Ok(digest)
        } else {
            Err(own.unexpected(&done, "an uploaded blob").await)
        }
    }

    /// Puts a manifest under a tag.
    pub async fn push_manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Result<Digest, OciError> {
        check_tag(tag)?;
        let own = &self.own.session;
        let path = self.own.path(&format!("manifests/{tag}"));
        let put = Call::new(Method::PUT, &path).body(media_type, Bytes::copy_from_slice(bytes));
        let done = own.call(put).await?;
        if done.status() == StatusCode::CREATED {
            Ok(Digest::of(bytes))
        } else {
            Err(own.unexpected(&done, "a pushed manifest").await)
        }
    }
}

/// A registry or a mirror that may have what is looked for.
#[derive(Debug, Clone)]
struct Source {
    /// For messages.
    shown: String,
    session: Arc<Session>,
}

impl Source {
    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.session.repository)
    }

    async fn get_manifest(&self, reference: &str) -> Result<Option<Vec<u8>>, OciError> {
        let path = self.path(&format!("manifests/{reference}"));
        let mut answer = self.session.read(Call::get(&path).accept(MANIFEST_TYPES)).await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(answer.bytes(MANIFEST_BYTES_MAX as u64).await?)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.session.unexpected(&answer, "a manifest").await),
        }
    }

    async fn existing_manifest(&self, reference: &str) -> Result<Vec<u8>, OciError> {
        match self.get_manifest(reference).await? {
            Some(bytes) => Ok(bytes),
            None => Err(unavailable(self.session.host.name(), "the registry has no such manifest or tag")),
        }
    }

    async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, OciError> {
        let bytes = self.existing_manifest(digest.as_str()).await?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            refused(Reason::ImageContent, digest, "the registry sent a manifest of another digest")
        }
    }

    async fn blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, OciError> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        self.blob_to(digest, size, &mut bytes).await?;
        Ok(bytes.into_inner())
    }

    /// From the start of `into`, whatever another source has written there.
    async fn blob_to(
        &self,
        digest: &Digest,
        size: u64,
        into: &mut (impl AsyncWrite + AsyncSeek + Unpin + Send),
    ) -> Result<(), OciError> {
        let what = || OciError::io("write what the registry sends");
        let mut hasher = Hasher::new();
        let mut resumed = 0;
        loop {
            let received = hasher.bytes();
            let mut answer = self.get_blob(digest, received).await?;
            if answer.status() != StatusCode::PARTIAL_CONTENT {
                hasher = Hasher::new();
            } else if received == 0 || answer.first_byte() != Some(received) {
                return Err(unavailable(
                    self.session.host.name(),
                    "the registry sent a part that nobody asked for",
                ));
            }
            into.seek(std::io::SeekFrom::Start(hasher.bytes())).await.map_err(what())?;
            match copy(&mut answer, &mut hasher, digest, size, into).await {
                Ok(()) => break,
                // It goes on only with what a broken exchange has left.
                Err(OciError::Refused(refusal))
                    if refusal.reason == Reason::ImageUnavailable
                        && hasher.bytes() > received
                        && resumed < RESUMES_MAX =>
                {
                    resumed += 1;
                    tracing::info!(%digest, received = hasher.bytes(), size, %refusal, "the registry is asked for the rest");
                    tokio::time::sleep(RESUME_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
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
        into.flush().await.map_err(what())
    }

    async fn get_blob(&self, digest: &Digest, from: u64) -> Result<Answer, OciError> {
        let path = self.path(&format!("blobs/{digest}"));
        let answer = self.session.read(Call::get(&path).from(from)).await?;
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            StatusCode::NOT_FOUND => {
                refused(Reason::ImageUnavailable, digest, "the registry has no such blob")
            }
            _ => Err(self.session.unexpected(&answer, "a blob").await),
        }
    }

    async fn signatures(&self, image: &Digest) -> Result<Vec<SignatureEvidence>, OciError> {
        let Some(bytes) = self.get_manifest(&signature_tag(image)).await? else {
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
}

async fn copy(
    answer: &mut Answer,
    hasher: &mut Hasher,
    digest: &Digest,
    size: u64,
    into: &mut (impl AsyncWrite + Unpin + Send),
) -> Result<(), OciError> {
    while let Some(chunk) = answer.chunk().await? {
        if hasher.bytes().saturating_add(chunk.len() as u64) > size {
            let rule = format!("the registry sent more than the {size} bytes named");
            return refused(Reason::ImageContent, digest, rule);
        }
        hasher.update(&chunk);
        into.write_all(&chunk).await.map_err(OciError::io("write what the registry sends"))?;
    }
    Ok(())
}

/// What went wrong at each of several sources.
#[derive(Default)]
struct Failures(Vec<(String, Refusal)>);

impl Failures {
    /// A fault of this machine ends the search.
    fn put(&mut self, source: &Source, error: OciError) -> Result<(), OciError> {
        match error {
            OciError::Refused(refusal) => {
                self.0.push((source.shown.clone(), refusal));
                Ok(())
            }
            error @ OciError::Io { .. } => Err(error),
        }
    }

    /// The refusal of the last one that was asked, with what the others said.
    fn into_error(mut self, subject: &str) -> OciError {
        let Some((shown, mut last)) = self.0.pop() else {
            return unavailable(subject, "there is nobody to ask");
        };
        if !self.0.is_empty() {
            let before = self.0.iter().map(|(shown, refusal)| format!("{shown}: {refusal}"));
            let before = before.collect::<Vec<_>>().join("; ");
            last.rule = format!("{shown}: {}; before, {before}", last.rule);
        }
        OciError::Refused(last)
    }
}

fn signature_tag(image: &Digest) -> String {
    format!("sha256-{}.sig", image.hex())
}

fn check_tag(tag: &str) -> Result<(), OciError> {
    if is_tag(tag) { Ok(()) } else { refused(Reason::RequestInvalid, tag.escape_debug(), "it is not a tag") }
}

/// Distribution-spec, "Pulling manifests". A digest is not a tag.
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}
