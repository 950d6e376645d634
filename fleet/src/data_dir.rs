//! The fleet's folder: `fleet.toml`, the root's certificate and key, two access tokens, the database.
//!
//! Made once by `init`. Secrets have mode 0600 in a folder of mode 0700. The command line reads `root.pem`,
//! `admin.token` and `address` from it, and asks the server for everything else. Who writes in it holds its lock.

use std::fs::{File, TryLockError};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgewarden_ca::{CaError, RootCa};
use edgewarden_names::{Digest, TrustDomain, UnixTime, pem};
use edgewarden_platform::durable;
use edgewarden_svid::bundle::TrustBundle;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::enrol::random_text;
use crate::lease::{self, Lease};
use crate::store::Store;

/// The root outlives every gateway that pins it.
const ROOT_LIFETIME: Duration = Duration::from_secs(20 * 365 * 86400);
const FILE_BYTES_MAX: usize = 256 * 1024;

/// Failure to make or use a fleet's folder.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("`{}` is a fleet already", .0.display())]
    Exists(PathBuf),
    #[error("`{}` is not a fleet; make one with `edgewarden-fleet init`", .0.display())]
    NotAFleet(PathBuf),
    #[error("another `edgewarden-fleet` runs with `{}`; one folder has one server", .0.display())]
    InUse(PathBuf),
    #[error("cannot use `{}`", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("`{}` is not valid: {message}", path.display())]
    Invalid { path: PathBuf, message: String },
    #[error("the fleet's root cannot be used")]
    Root(#[from] CaError),
    #[error(
        "`{}` is gone or empty, and this fleet has had one: restore a backup. Where there is none, `edgewarden-fleet \
         database new` begins anew: no gateway, token, deployment or message is known then, and all must join again",
        .0.display()
    )]
    NoDatabase(PathBuf),
    #[error("`{}` is there; a new database never takes the place of another one", .0.display())]
    HasDatabase(PathBuf),
    #[error(
        "`{}` is a fleet's root key, and gateways may pin its certificate: a new one never takes its place. Restore a \
         backup of this folder, or make a new fleet in another one",
        .0.display()
    )]
    HasRoot(PathBuf),
    #[error("the database cannot be made")]
    Database(#[from] crate::store::StoreError),
    #[error("no random numbers")]
    Random,
}

/// Contents of `fleet.toml`, as `init` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub trust_domain: TrustDomain,
    /// Host names and addresses that the server is reached by.
    pub hosts: Vec<String>,
    /// Other lives of gateway CAs than the ordinary one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lease: Vec<Lease>,
}

impl Settings {
    /// The names and the addresses among `hosts`.
    pub fn names(&self) -> (Vec<String>, Vec<IpAddr>) {
        let mut names = (Vec::new(), Vec::new());
        for host in &self.hosts {
            match host.parse() {
                Ok(address) => names.1.push(address),
                Err(_) => names.0.push(host.clone()),
            }
        }
        names
    }
}

/// Lock on a fleet's folder, held until it is dropped. The kernel drops it when the process dies, however it dies.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used")] File);

/// A secret text from the folder.
pub type Secret = Zeroizing<String>;

/// Path of a fleet's folder. What is in it is read and checked by each method anew.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The path alone: nothing is read or made.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// Path of the folder itself.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Path of the SQLite database, `fleet.db`.
    pub fn database(&self) -> PathBuf {
        self.0.join("fleet.db")
    }

    /// Path of the root's certificate, `root.pem`.
    pub fn root_file(&self) -> PathBuf {
        self.0.join("root.pem")
    }

    /// The operators' socket of a running server.
    pub fn socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }

    fn settings_file(&self) -> PathBuf {
        self.0.join("fleet.toml")
    }

    fn key_file(&self) -> PathBuf {
        self.0.join("root.key")
    }

    /// There while `init` makes a fleet: what is beside it may be made anew.
    fn partial_file(&self) -> PathBuf {
        self.0.join("init.partial")
    }

    /// Makes a fleet. One that was cut off may be run again: `init.partial` is written before the first secret and removed
    /// after `fleet.toml`. A root key without it is that of a fleet that has lost files.
    pub async fn init(&self, settings: &Settings, now: UnixTime) -> Result<RootCa, DataError> {
        if self.settings_file().exists() {
            return Err(DataError::Exists(self.0.clone()));
        }
        make_private_folder(&self.0).map_err(|source| DataError::Io { path: self.0.clone(), source })?;
        let _lock = self.lock()?;
        // Another `init` may have ended since the first look.
        if self.settings_file().exists() {
            return Err(DataError::Exists(self.0.clone()));
        }
        // Gateways are in it: what is lost is `fleet.toml`, not the fleet, and its root must not be replaced.
        if self.has_database() && !Store::open(&self.database()).await?.devices().await?.is_empty() {
            return Err(DataError::HasDatabase(self.database()));
        }
        if self.key_file().exists() && !self.partial_file().exists() {
            return Err(DataError::HasRoot(self.key_file()));
        }
        self.remove_database()?;
        let root = RootCa::create(&settings.trust_domain, ROOT_LIFETIME, now)?;
        // Shown to be good before it is kept: a host that no certificate can carry is refused here, not at `serve`.
        let (names, addresses) = settings.names();
        root.server_certificate(&names, &addresses, Duration::from_secs(60), now)?;
        write(&self.partial_file(), b"", 0o600)?;
        let key = Zeroizing::new(pem::encode(pem::PRIVATE_KEY, &root.key_pkcs8()?));
        write(&self.key_file(), key.as_bytes(), 0o600)?;
        write(&self.root_file(), pem::encode(pem::CERTIFICATE, root.certificate_der()).as_bytes(), 0o644)?;
        self.write_tokens()?;
        self.make_database().await?;
        let text = toml::to_string(settings)
            .map_err(|error| DataError::Invalid { path: self.settings_file(), message: error.to_string() })?;
        write(&self.settings_file(), text.as_bytes(), 0o644)?;
        let path = self.partial_file();
        durable::remove(&path).map_err(|source| DataError::Io { path, source })?;
        Ok(root)
    }

    fn has_database(&self) -> bool {
        self.database().metadata().is_ok_and(|file| file.len() > 0)
    }

    /// Removes the database of an `init` that was cut off, with the files that SQLite keeps beside it.
    fn remove_database(&self) -> Result<(), DataError> {
        for end in ["", "-wal", "-shm"] {
            let mut path = self.database().into_os_string();
            path.push(end);
            let path = PathBuf::from(path);
            durable::remove(&path).map_err(|source| DataError::Io { path, source })?;
        }
        Ok(())
    }

    async fn make_database(&self) -> Result<(), DataError> {
        let store = Store::open(&self.database()).await?;
        store.bind(&self.root_digest()?).await?;
        store.close().await;
        Ok(())
    }

    /// The database, if it is there and this fleet's. One that is gone is not made anew: who lost it must hear of it.
    pub async fn open_database(&self) -> Result<Store, DataError> {
        if !self.has_database() {
            return Err(DataError::NoDatabase(self.database()));
        }
        // Of an `init` that was cut off at its very end: the fleet is made, and its root not to be replaced.
        let path = self.partial_file();
        if self.settings_file().exists() && path.exists() {
            durable::remove(&path).map_err(|source| DataError::Io { path, source })?;
        }
        let store = Store::open(&self.database()).await?;
        store.bind(&self.root_digest()?).await?;
        Ok(store)
    }

    /// An empty database for a fleet that has lost its own.
    pub async fn new_database(&self) -> Result<(), DataError> {
        self.settings()?;
        let _lock = self.lock()?;
        if self.has_database() {
            return Err(DataError::HasDatabase(self.database()));
        }
        self.remove_database()?;
        self.make_database().await
    }

    fn root_digest(&self) -> Result<Digest, DataError> {
        Ok(Digest::of(&self.root_certificate()?))
    }

    fn write_tokens(&self) -> Result<(), DataError> {
        for file in [self.admin_token_file(), self.web_token_file()] {
            let token = Zeroizing::new(random_text().map_err(|_| DataError::Random)?);
            write(&file, token.as_bytes(), 0o600)?;
        }
        Ok(())
    }

    /// New access tokens in the place of the old ones. A server reads them when it starts, so none may run.
    pub fn rotate_tokens(&self) -> Result<(), DataError> {
        self.settings()?;
        let _lock = self.lock()?;
        self.write_tokens()
    }

    /// Two servers on one folder would each hold sessions and waiting gateways that the other does not know.
    pub fn lock(&self) -> Result<Lock, DataError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.0.join("lock");
        let io = |source| DataError::Io { path: path.clone(), source };
        let file = File::options().append(true).create(true).mode(0o600).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(DataError::InUse(self.0.clone())),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Contents of `fleet.toml`; [`DataError::NotAFleet`] without one, [`DataError::Invalid`] when it cannot be parsed
    /// or a lease is out of its limits.
    pub fn settings(&self) -> Result<Settings, DataError> {
        let path = self.settings_file();
        let Some(text) = read_if_there(&path)? else { return Err(DataError::NotAFleet(self.0.clone())) };
        let settings: Settings = toml::from_str(&text).map_err(|error| DataError::Invalid {
            path: path.clone(),
            message: error.message().to_owned(),
        })?;
        lease::check(&settings.lease).map_err(|message| DataError::Invalid { path, message })?;
        Ok(settings)
    }

    /// The root with its key: for the server only.
    pub fn root(&self) -> Result<RootCa, DataError> {
        let key =
            Zeroizing::new(pem::one(&self.read(&self.key_file())?, pem::PRIVATE_KEY).map_err(CaError::from)?);
        Ok(RootCa::load(&key, &self.root_certificate()?)?)
    }

    /// The root's certificate, DER.
    pub fn root_certificate(&self) -> Result<Vec<u8>, DataError> {
        Ok(pem::one(&self.read(&self.root_file())?, pem::CERTIFICATE).map_err(CaError::from)?)
    }

    fn admin_token_file(&self) -> PathBuf {
        self.0.join("admin.token")
    }

    fn web_token_file(&self) -> PathBuf {
        self.0.join("web.token")
    }

    /// The operators' bearer token, which the command line shows the server. It may do everything but sign deployments.
    pub fn admin_token(&self) -> Result<Secret, DataError> {
        self.read(&self.admin_token_file())
    }

    /// The dashboard's access token, which a browser shows. It may look and change nothing.
    pub fn web_token(&self) -> Result<Secret, DataError> {
        self.read(&self.web_token_file())
    }

    /// Path of the trust domain's bundle, `bundle.json` (SPIFFE Trust Domain and Bundle section 4).
    pub fn bundle_file(&self) -> PathBuf {
        self.0.join("bundle.json")
    }

    /// The trust domain's bundle as it was last shown to others.
    pub fn bundle(&self, domain: &TrustDomain) -> Result<Option<TrustBundle>, DataError> {
        let path = self.bundle_file();
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        let read = TrustBundle::parse(text.as_bytes(), domain);
        read.map(Some).map_err(|error| DataError::Invalid { path, message: error.to_string() })
    }

    /// Writes the bundle's JSON for [`DataDir::bundle`] to read. Mode 0644: it is public.
    pub fn keep_bundle(&self, bytes: &[u8]) -> Result<(), DataError> {
        write(&self.bundle_file(), bytes, 0o644)
    }

    fn address_file(&self) -> PathBuf {
        self.0.join("address")
    }

    /// Writes the address that the server listens on, for the command line on this machine.
    pub fn keep_address(&self, address: SocketAddr) -> Result<(), DataError> {
        write(&self.address_file(), address.to_string().as_bytes(), 0o644)
    }

    /// Address that [`DataDir::keep_address`] wrote; `None` when no server has run.
    pub fn address(&self) -> Result<Option<SocketAddr>, DataError> {
        let path = self.address_file();
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        let invalid = |_| DataError::Invalid { path: path.clone(), message: "it is no address".into() };
        text.trim().parse().map(Some).map_err(invalid)
    }

    /// Writes everything but the database, the address and the lock into another folder.
    pub fn copy_files(&self, to: &Self) -> Result<(), DataError> {
        type File = fn(&DataDir) -> PathBuf;
        let files: [(File, u32); 5] = [
            (Self::key_file, 0o600),
            (Self::root_file, 0o644),
            (Self::admin_token_file, 0o600),
            (Self::web_token_file, 0o600),
            (Self::settings_file, 0o644),
        ];
        // Its sequence number: other trust domains take none below the one that they have seen.
        if let Some(bundle) = read_if_there(&self.bundle_file())? {
            write(&to.bundle_file(), bundle.as_bytes(), 0o644)?;
        }
        for (file, mode) in files {
            write(&file(to), self.read(&file(self))?.as_bytes(), mode)?;
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Secret, DataError> {
        read_if_there(path)?.ok_or_else(|| DataError::NotAFleet(self.0.clone()))
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DataError> {
    durable::write(path, bytes, mode).map_err(|source| DataError::Io { path: path.into(), source })
}

fn read_if_there(path: &Path) -> Result<Option<Secret>, DataError> {
    let io = |source| DataError::Io { path: path.into(), source };
    let Some(bytes) = durable::read(path, FILE_BYTES_MAX).map_err(io)? else { return Ok(None) };
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| DataError::Invalid { path: path.into(), message: "it is not text".into() })?;
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

fn make_private_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // A folder that is there stays as its owner made it; the secrets in it have their own modes.
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
