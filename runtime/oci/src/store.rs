//! Verified content on a gateway, in a folder that only root may enter.
//!
//! ```text
//! blobs/sha256/<hex>       manifests, configurations, layers: written whole, named by their hash, hashed again when read
//! evidence/<hex>.json      the signatures that an image was permitted with, for a start without a network
//! rootfs/<hex>/            the unpacked image <hex>; rootfs/<hex>.json: what it was made from, and its tree digest,
//!                          authenticated under a key that is not on this disk
//! ```
//! Trusts root on this machine. Distrusts the disk: what does not hash to its name is removed and fetched again, and a
//! root file system that is not what was unpacked, or has no record that is proven, is unpacked again from verified bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use edgewarden_names::{Digest, Processor, Reason};
use edgewarden_platform::durable;
use edgewarden_protocol::control::{Layer, MANIFEST_BYTES_MAX, SignatureEvidence};
use serde::{Deserialize, Serialize};

use crate::OciError;
use crate::error::refused;
use crate::layout::json;
use crate::manifest::{self, CONFIG_BYTES_MAX, Manifest};
use crate::records::RecordKey;
use crate::registry::Registry;
use crate::tree;
use crate::unpack::{Lost, Unpacker};

/// Evidence holds payloads of at most 4 MiB and one manifest, in base64.
const EVIDENCE_BYTES_MAX: usize = 16 * 1024 * 1024;
const RECORD_BYTES_MAX: usize = 1024 * 1024;
const MOUNT_FILES: &[&str] = &["etc/hosts", "etc/resolv.conf"];
const TEMPORARY: &str = ".partial-";
/// Rises when an image is unpacked in another way: what was unpacked before is then made anew.
const UNPACK_FORMAT: u32 = 4;

/// The folder.
#[derive(Debug, Clone)]
pub struct ContentStore {
    folder: PathBuf,
    /// By image, held while its root file system is checked or made: two modules may have the same image, and the second
    /// must find the first one's root and not put another in its place, from under a module that runs already. Other
    /// images do not wait.
    making_roots: Arc<Mutex<BTreeMap<Digest, Weak<Mutex<()>>>>>,
}

/// The documents of an image. Layers are fetched once it is known that they may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub parsed: Manifest,
}

/// The source of a root file system, and its tree's digest.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootRecord {
    /// [`UNPACK_FORMAT`]
    format: u32,
    diff_ids: Vec<Digest>,
    tree: Digest,
}

impl ContentStore {
    /// Opens the store and removes what writers that died left behind.
    pub fn open(folder: &Path) -> Result<Self, OciError> {
        let store = Self { folder: folder.into(), making_roots: Arc::default() };
        for part in [store.blobs(), store.evidence_folder(), store.roots()] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&part);
            made.map_err(OciError::io(format!("make `{}`", part.display())))?;
            Self::sweep(&part)?;
        }
        Ok(store)
    }

    fn blobs(&self) -> PathBuf {
        self.folder.join("blobs/sha256")
    }
    fn evidence_folder(&self) -> PathBuf {
        self.folder.join("evidence")
    }
    fn roots(&self) -> PathBuf {
        self.folder.join("rootfs")
    }
    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn sweep(part: &Path) -> Result<(), OciError> {
        let what = || OciError::io(format!("sweep `{}`", part.display()));
        durable::sweep(part).map_err(what())?;
        for entry in std::fs::read_dir(part).map_err(what())? {
            let entry = entry.map_err(what())?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                remove_tree(&entry.path()).map_err(what())?;
            }
        }
        Ok(())
    }

    fn temporary(folder: &Path) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        folder.join(format!("{TEMPORARY}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Keeps bytes by their digest. Writes nothing when they are there.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, OciError> {
        let digest = Digest::of(bytes);
        if self.get(&digest, bytes.len())?.is_some() {
            return Ok(digest);
        }
        durable::write(&self.blob_path(&digest), bytes, 0o400)
            .map_err(OciError::io(format!("keep {digest}")))?;
        Ok(digest)
    }

    /// A small blob, hashed as it is read. One that does not match its name is removed and counts as absent.
    pub fn get(&self, digest: &Digest, bytes_max: usize) -> Result<Option<Vec<u8>>, OciError> {
        let path = self.blob_path(digest);
        let what = || OciError::io(format!("read {digest}"));
        match durable::read(&path, bytes_max).map_err(what())? {
            Some(bytes) if Digest::of(&bytes) == *digest => Ok(Some(bytes)),
            Some(_) => {
                tracing::warn!(%digest, "a blob on disk does not match its digest and is removed");
                durable::remove(&path).map_err(what())?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// True when a blob of this size is there; its hash is compared when it is used.
    pub fn has(&self, digest: &Digest, size: u64) -> bool {
        self.blob_path(digest).metadata().is_ok_and(|metadata| metadata.len() == size)
    }

    /// Manifest and configuration of the image, from the store or else from the registry.
    pub async fn documents(
        &self,
        registry: &Registry,
        image: &Digest,
        processor: Processor,
    ) -> Result<Documents, OciError> {
        let manifest = match self.get(image, MANIFEST_BYTES_MAX)? {
            Some(bytes) => bytes,
            None => registry.manifest(image).await?,
        };
        let parsed = match manifest::parse(image, &manifest)? {
            manifest::Document::Image(parsed) => parsed,
            manifest::Document::Index(index) => {
                let entry = index.image_on(image, processor)?;
                let architecture = processor.architecture();
                let rule = format!(
                    "it is an index of several platforms; deploy its image for linux/{architecture}, {}",
                    entry.digest
                );
                return refused(Reason::ImagePlatform, image, rule);
            }
        };
        // Before anything that only it names: what no manifest names is tidied away.
        self.put(&manifest)?;
        let config_max = usize::try_from(CONFIG_BYTES_MAX).unwrap_or(usize::MAX);
        let config = match self.get(&parsed.config.digest, config_max)? {
            Some(bytes) => bytes,
            None => registry.blob(&parsed.config.digest, parsed.config.size).await?,
        };
        self.put(&config)?;
        Ok(Documents { manifest, config, parsed })
    }

    /// Fetches a blob into the store unless it is there. Whether it was fetched.
    pub async fn fetch(&self, registry: &Registry, digest: &Digest, size: u64) -> Result<bool, OciError> {
        if self.has(digest, size) {
            return Ok(false);
        }
        let temporary = Self::temporary(&self.blobs());
        let fetched = self.fetch_into(registry, digest, size, &temporary).await;
        if fetched.is_err() {
            // The first error is the one to report; what stays is swept at the next start.
            drop(std::fs::remove_file(&temporary));
        }
        fetched.map(|()| true)
    }

    async fn fetch_into(
        &self,
        registry: &Registry,
        digest: &Digest,
        size: u64,
        temporary: &Path,
    ) -> Result<(), OciError> {
        let what = || OciError::io(format!("keep {digest}"));
        let mut file = tokio::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(temporary)
            .await
            .map_err(what())?;
        registry.blob_to(digest, size, &mut file).await?;
        file.sync_all().await.map_err(what())?;
        std::fs::rename(temporary, self.blob_path(digest)).map_err(what())?;
        File::open(self.blobs()).and_then(|folder| folder.sync_all()).map_err(what())
    }

    /// The signatures that were kept for an image.
    pub fn evidence(&self, image: &Digest) -> Result<Option<Vec<SignatureEvidence>>, OciError> {
        let path = self.evidence_folder().join(format!("{}.json", image.hex()));
        let read = durable::read(&path, EVIDENCE_BYTES_MAX).map_err(OciError::io("read kept evidence"))?;
        // Evidence proves itself to whoever judges it; broken evidence is fetched again.
        Ok(read.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Keeps the signatures that an image was permitted with. Writes nothing when they are there.
    pub fn keep_evidence(&self, image: &Digest, evidence: &[SignatureEvidence]) -> Result<(), OciError> {
        if self.evidence(image)?.is_some_and(|kept| kept == evidence) {
            return Ok(());
        }
        let path = self.evidence_folder().join(format!("{}.json", image.hex()));
        durable::write(&path, &json(&evidence)?, 0o400).map_err(OciError::io("keep evidence"))
    }

    /// The image's root file system: what is unpacked already and still is what it was, or else unpacked from the
    /// stored layers. Blocks; reads every byte of it.
    pub fn root_file_system(
        &self,
        image: &Digest,
        layers: &[Layer],
        key: &RecordKey,
    ) -> Result<PathBuf, OciError> {
        let making = self.making_root(image);
        // What is in the folder is whole or swept, whatever a thread left behind that ended early.
        let _one_at_a_time = making.lock().unwrap_or_else(PoisonError::into_inner);
        let root = self.roots().join(image.hex());
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        if let Some(record) = self.root_record(image, key)?
            && record.format == UNPACK_FORMAT
            && record.diff_ids == diff_ids
            && root.is_dir()
        {
            match tree::digest(&root) {
                Ok(digest) if digest == record.tree => return Ok(root),
                Ok(_) => {
                    tracing::warn!(%image, "the root file system is not what was unpacked: it is unpacked again");
                }
                Err(error) => {
                    tracing::warn!(%image, %error, "the root file system cannot be checked: it is unpacked again");
                }
            }
        }
        let tree = self.unpack(image, layers, &root)?;
        let record = RootRecord { format: UNPACK_FORMAT, diff_ids, tree };
        key.seal(&record_place(image), &record)
            .and_then(|bytes| durable::write(&self.record_path(image), &bytes, 0o400))
            .map_err(OciError::io(format!("keep the record of {image}")))?;
        Ok(root)
    }

    fn making_root(&self, image: &Digest) -> Arc<Mutex<()>> {
        let mut all = self.making_roots.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, making| making.strong_count() > 0);
        let making = all.get(image).and_then(Weak::upgrade).unwrap_or_default();
        all.insert(image.clone(), Arc::downgrade(&making));
        making
    }

    fn record_path(&self, image: &Digest) -> PathBuf {
        self.roots().join(format!("{}.json", image.hex()))
    }

    fn root_record(&self, image: &Digest, key: &RecordKey) -> Result<Option<RootRecord>, OciError> {
        let read = durable::read(&self.record_path(image), RECORD_BYTES_MAX)
            .map_err(OciError::io("read a root's record"))?;
        let record = read.as_ref().map(|bytes| key.open(&record_place(image), bytes));
        if matches!(record, Some(None)) {
            tracing::warn!(%image, "the record of a root file system is not proven: it is unpacked again");
        }
        Ok(record.flatten())
    }

    fn unpack(&self, image: &Digest, layers: &[Layer], root: &Path) -> Result<Digest, OciError> {
        let what = || OciError::io(format!("unpack {image}"));
        let temporary = Self::temporary(&self.roots());
        DirBuilder::new().mode(0o755).create(&temporary).map_err(what())?;
        // The umask must not decide whether the module's user gets in.
        std::fs::set_permissions(&temporary, Permissions::from_mode(0o755)).map_err(what())?;
        let unpacked = self.unpack_into(image, layers, &temporary).and_then(|()| tree::digest(&temporary));
        let tree = match unpacked {
            Ok(tree) => tree,
            Err(error) => {
                drop(remove_tree(&temporary));
                return Err(error);
            }
        };
        if root.symlink_metadata().is_ok() {
            let old = Self::temporary(&self.roots());
            std::fs::rename(root, &old).map_err(what())?;
            // Swept later if something still holds it.
            drop(remove_tree(&old));
        }
        std::fs::rename(&temporary, root).map_err(what())?;
        Ok(tree)
    }

    fn unpack_into(&self, image: &Digest, layers: &[Layer], into: &Path) -> Result<(), OciError> {
        let mut unpacker = Unpacker::new(into, tree::MOUNT_FOLDERS)?;
        for layer in layers {
            let path = self.blob_path(&layer.digest);
            let blob = match File::open(&path) {
                Ok(blob) => blob,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return refused(Reason::ImageUnavailable, &layer.digest, "the layer is not in the store");
                }
                Err(error) => return Err(OciError::io(format!("read {}", layer.digest))(error)),
            };
            let applied = unpacker.apply(layer, blob);
            if let Err(OciError::Refused(refusal)) = &applied
                && refusal.reason == Reason::ImageContent
            {
                // The next attempt fetches it again.
                durable::remove(&path).map_err(OciError::io(format!("remove {}", layer.digest)))?;
            }
            applied?;
        }
        tell(image, unpacker.lost());
        unpacker.mount_points(MOUNT_FILES)
    }

    /// Removes every image but these, with what only it needs.
    pub fn retain(&self, images: &BTreeSet<Digest>) -> Result<(), OciError> {
        // What comes while this goes on belongs to an image that is being fetched. It is listed first, and an image's
        // manifest is stored before what it names.
        let mut found = Vec::new();
        for part in [self.blobs(), self.evidence_folder(), self.roots()] {
            let what = || OciError::io(format!("tidy `{}`", part.display()));
            for entry in std::fs::read_dir(&part).map_err(what())? {
                let entry = entry.map_err(what())?;
                found.push((entry.path(), entry.file_name()));
            }
        }
        let mut kept: BTreeSet<String> = BTreeSet::new();
        for image in images {
            kept.insert(image.hex().into());
            if let Some(bytes) = self.get(image, MANIFEST_BYTES_MAX)?
                && let Ok(manifest) = manifest::parse_image(image, &bytes)
            {
                kept.extend(
                    manifest.layers.iter().chain([&manifest.config]).map(|blob| blob.digest.hex().to_owned()),
                );
            }
        }
        for (path, name) in found {
            let name = name.to_string_lossy();
            let image = name.strip_suffix(".json").unwrap_or(&name);
            if !kept.contains(image) && !name.starts_with('.') {
                remove_tree(&path).map_err(OciError::io(format!("remove `{}`", path.display())))?;
            }
        }
        Ok(())
    }
}

/// An operator who looks for a file, or asks why a program may not what it may elsewhere, finds it here.
fn tell(image: &Digest, lost: &Lost) {
    for (lost, said) in [
        (&lost.covered, "left out of an image: what lies where the runtime mounts"),
        (&lost.nodes, "left out of an image: device nodes and FIFOs"),
        (
            &lost.privileges,
            "set-user-ID and set-group-ID bits and file capabilities of an image are dropped: these programs have the rights of whoever runs them",
        ),
    ] {
        if lost.count > 0 {
            tracing::info!(%image, entries = lost.count, names = lost.names(), "{said}");
        }
    }
}

/// Place of a root's record, bound into its MAC.
fn record_place(image: &Digest) -> String {
    format!("rootfs {image}")
}

/// Root ignores the missing write bits, so the tree can go although it is not writable.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    if path.symlink_metadata()?.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
}
