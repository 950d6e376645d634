//! A Workload API socket with an identity that a test changes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edgewarden_names::{Reason, Refusal, SpiffeId, UnixTime};
use edgewarden_platform::peer::PeerEvidence;
use edgewarden_svid::jwt::Audience;
use edgewarden_svid::{JwtSvid, X509Context};
use edgewarden_testkit::authority::{self, Authority};
use edgewarden_workload_server as server;
use edgewarden_workload_server::{Current, IdentitySource};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use zeroize::Zeroizing;

pub const ID: &str = "spiffe://plant.example/gateway/gw-1/module/analytics";

pub struct Source {
    authority: Authority,
    current: watch::Sender<Option<Arc<X509Context>>>,
    pub refusal: Mutex<Option<Reason>>,
    tokens: AtomicU64,
}

impl Source {
    fn new() -> Arc<Self> {
        let (current, _) = watch::channel(None);
        let authority = Authority::root(authority::ca("root"));
        let source = Self { authority, current, refusal: Mutex::default(), tokens: AtomicU64::new(0) };
        source.rotate();
        Arc::new(source)
    }

    /// A new key and certificate.
    pub fn rotate(&self) -> Arc<X509Context> {
        let context = self.authority.issue(authority::svid(ID)).context(ID);
        self.current.send_replace(Some(Arc::clone(&context)));
        context
    }

    pub fn now(&self) -> Arc<X509Context> {
        self.current.borrow().clone().unwrap()
    }
}

impl IdentitySource for Source {
    fn authorize(&self, _: &PeerEvidence) -> Result<(), Refusal> {
        match *self.refusal.lock().unwrap() {
            Some(reason) => Err(Refusal::new(reason, "caller", "the test says so")),
            None => Ok(()),
        }
    }

    /// A token for a second: the end and the audience are all that is read of it here.
    fn jwt_svid(&self, audience: &Audience, _: Option<&SpiffeId>) -> Result<JwtSvid, Refusal> {
        let number = self.tokens.fetch_add(1, Ordering::SeqCst);
        let end = UnixTime::now().0 + 1;
        let payload = format!(r#"{{"exp":{end},"aud":"{}","n":{number}}}"#, audience.as_slice().join(" "));
        let token = Zeroizing::new(format!("e30.{}.AA", URL_SAFE_NO_PAD.encode(payload)));
        Ok(JwtSvid { id: SpiffeId::parse(ID).unwrap(), token })
    }

    fn subscribe(&self) -> Result<Current, Refusal> {
        Ok(self.current.subscribe())
    }
}

/// Served on threads of its own until it goes out of scope.
pub struct Served {
    pub folder: tempfile::TempDir,
    pub socket: PathBuf,
    pub source: Arc<Source>,
    runtime: Option<Runtime>,
}

impl Served {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut served =
            Self { socket: folder.path().join("api.sock"), folder, source: Source::new(), runtime: None };
        served.start();
        served
    }

    pub fn start(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (socket, source) = (self.socket.clone(), Arc::clone(&self.source));
        runtime.spawn(async move {
            let listener = UnixListener::bind(socket).unwrap();
            server::serve(listener, source, std::future::pending()).await.unwrap();
        });
        self.runtime = Some(runtime);
        while !self.socket.exists() {
            std::thread::yield_now();
        }
    }

    pub fn stop(&mut self) {
        drop(self.runtime.take());
        std::fs::remove_file(&self.socket).unwrap();
    }
}
