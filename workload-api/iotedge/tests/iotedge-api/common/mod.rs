//! A socket with an owner that a test steers, and HTTP by hand: what a client library would mend is sent as it is.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use edgewarden_iotedge_api::server::{self, CALLS_MAX, Door};
use edgewarden_iotedge_api::{Instance, Issued, KeyId, ModuleApi};
use edgewarden_names::{Generation, ModuleName, Reason, Refusal, UnixTime};
use edgewarden_platform::peer::PeerEvidence;
use edgewarden_workload_server::{Current, IdentitySource};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

pub const VERSION: &str = "api-version=2018-06-28";

/// The owner: "cipher" turns bytes around, so that tests see what came through.
#[derive(Default)]
pub struct Owner {
    /// The answers of `authorize`, in turn; then the callers are welcome.
    pub refuse_callers: Mutex<Vec<Option<Reason>>>,
    pub strangers: AtomicBool,
    pub told: Mutex<Vec<Refusal>>,
    /// Calls to sign wait here while it is closed.
    gate: Mutex<bool>,
    opened: Condvar,
    pub inside: AtomicUsize,
}

impl Owner {
    pub fn close_gate(&self) {
        *self.gate.lock().unwrap() = true;
    }

    pub fn open_gate(&self) {
        *self.gate.lock().unwrap() = false;
        self.opened.notify_all();
    }
}

impl IdentitySource for Owner {
    fn authorize(&self, _: &PeerEvidence) -> Result<(), Refusal> {
        let mut answers = self.refuse_callers.lock().unwrap();
        match if answers.is_empty() { None } else { answers.remove(0) } {
            Some(reason) => Err(Refusal::new(reason, "caller", "the test says so")),
            None => Ok(()),
        }
    }

    fn is_expected(&self, _: &PeerEvidence) -> bool {
        !self.strangers.load(Ordering::SeqCst)
    }

    fn subscribe(&self) -> Result<Current, Refusal> {
        Err(Refusal::new(Reason::Internal, "subscribe", "nobody asks for it here"))
    }
}

impl ModuleApi for Owner {
    fn instance(&self) -> Result<Instance, Refusal> {
        Ok(Instance {
            name: "alerts-7".into(),
            module: ModuleName::parse("alerts").unwrap(),
            generation: Generation(7),
            started: UnixTime(1_767_225_600),
        })
    }

    fn sign(&self, key: KeyId, _: &[u8]) -> Result<[u8; 32], Refusal> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let mut closed = self.gate.lock().unwrap();
        while *closed {
            closed = self.opened.wait(closed).unwrap();
        }
        Ok([if key == KeyId::Primary { 1 } else { 2 }; 32])
    }

    fn encrypt(&self, plaintext: &[u8], iv: &[u8]) -> Result<Vec<u8>, Refusal> {
        Ok(plaintext.iter().rev().chain(iv).copied().collect())
    }

    fn decrypt(&self, ciphertext: &[u8], _: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        if ciphertext.is_empty() {
            return Err(Refusal::new(Reason::IotedgeCiphertext, "alerts", "it does not open"));
        }
        Ok(Zeroizing::new(ciphertext.iter().rev().copied().collect()))
    }

    fn server_certificate(&self, name: &str, until: Option<UnixTime>) -> Result<Issued, Refusal> {
        let expires = until.unwrap_or(UnixTime(1_767_225_600));
        Ok(Issued { key_pem: Zeroizing::new("key".into()), chain_pem: name.into(), expires })
    }

    fn identity_certificate(&self, until: Option<UnixTime>) -> Result<Issued, Refusal> {
        self.server_certificate("identity", until)
    }

    fn trust_bundle(&self) -> Result<String, Refusal> {
        Ok("root".into())
    }

    fn refused(&self, refusal: &Refusal) {
        self.told.lock().unwrap().push(refusal.clone());
    }
}

/// Served until it goes out of scope.
pub struct Served {
    _folder: tempfile::TempDir,
    pub socket: PathBuf,
    pub owner: Arc<Owner>,
    server: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.owner.open_gate();
        self.server.abort();
    }
}

impl Served {
    pub fn new() -> Self {
        Self::beside(&Arc::new(Semaphore::new(CALLS_MAX)))
    }

    /// One of several that share their threads.
    pub fn beside(threads: &Arc<Semaphore>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("workload.sock");
        let owner = Arc::new(Owner::default());
        let listener = UnixListener::bind(&socket).unwrap();
        let callers = Arc::clone(&owner) as Arc<dyn IdentitySource>;
        let threads = Arc::clone(threads);
        let door = Door { callers, api: Arc::clone(&owner) as Arc<dyn ModuleApi>, threads };
        let server = tokio::spawn(server::serve(listener, door, std::future::pending()));
        Self { _folder: folder, socket, owner, server }
    }

    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// Sends bytes on a connection of their own and reads until it is closed. The server may close it before it has
    /// read everything.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        drop(stream.write_all(bytes).await);
        rest(&mut stream).await
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        parse(&self.raw(get(path).as_bytes()).await)
    }

    pub async fn post(&self, path: &str, body: &str) -> (u16, String) {
        parse(&self.raw(post(path, body).as_bytes()).await)
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path}?{VERSION} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

pub fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path}?{VERSION} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// The rest of the bytes, until the other side closes or resets.
pub async fn rest(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes).await);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Status and body of the one answer; 0 when there is none.
pub fn parse(text: &str) -> (u16, String) {
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
