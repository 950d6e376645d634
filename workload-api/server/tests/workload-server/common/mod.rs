//! A Workload API socket with a source that a test steers, and raw gRPC to call it with.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgewarden_names::{Reason, Refusal, SpiffeId, TrustDomain, UnixTime};
use edgewarden_platform::peer::PeerEvidence;
use edgewarden_svid::jwt::{Audience, JwtKeys, SigningKey};
use edgewarden_svid::{Bundles, JwtSvid, X509Context};
use edgewarden_testkit::authority::{self, Authority};
use edgewarden_workload_server as server;
use edgewarden_workload_server::{Current, IdentitySource};
use edgewarden_workload_wire::workloadapi;
use edgewarden_workload_wire::workloadapi::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

pub const ID: &str = "spiffe://plant.example/gateway/gw-1/module/analytics";

static AUTHORITIES: AtomicI64 = AtomicI64::new(0);

/// A root with a name of its own: BoringSSL finds an issuer by it.
pub fn root() -> Authority {
    let number = AUTHORITIES.fetch_add(1, Ordering::Relaxed);
    let mut contents = authority::ca(&format!("authority {number}"));
    contents.subject_alt_names = vec![authority::uri("spiffe://plant.example")];
    Authority::root(contents)
}

/// A new certificate with a new key each time.
pub fn issue(by: &Authority, id: &str) -> Arc<X509Context> {
    by.issue(authority::svid(id)).context(id)
}

pub struct Source {
    pub authority: Authority,
    pub jwt: SigningKey,
    pub bundles: watch::Sender<Arc<Bundles>>,
    pub now: AtomicU64,
    /// The reason that callers are refused with now.
    pub refuse_callers: Mutex<Option<Reason>>,
    pub refuse_identity: Mutex<Option<Reason>>,
    pub current: Mutex<Option<watch::Sender<Option<Arc<X509Context>>>>>,
    pub streams: AtomicI64,
    /// `true` while who connects is taken for a stranger.
    pub strangers: AtomicBool,
    /// So that judging callers can be seen to happen at the same time.
    pub judging_takes_time: AtomicBool,
    judging: AtomicUsize,
    pub judged_beside_others: AtomicUsize,
}

impl Source {
    pub fn new() -> Arc<Self> {
        let authority = root();
        let current = watch::channel(Some(issue(&authority, ID))).0;
        let jwt = SigningKey::generate().unwrap();
        let bundles = watch::channel(Arc::new(bundles_with(&[&jwt], 1))).0;
        Arc::new(Self {
            authority,
            jwt,
            bundles,
            now: AtomicU64::new(UnixTime::now().0),
            refuse_callers: Mutex::default(),
            refuse_identity: Mutex::default(),
            current: Mutex::new(Some(current)),
            streams: AtomicI64::new(0),
            strangers: AtomicBool::new(false),
            judging_takes_time: AtomicBool::new(false),
            judging: AtomicUsize::new(0),
            judged_beside_others: AtomicUsize::new(0),
        })
    }

    pub fn give(&self, context: Option<Arc<X509Context>>) {
        self.current.lock().unwrap().as_ref().unwrap().send_replace(context);
    }

    pub fn time(&self) -> UnixTime {
        UnixTime(self.now.load(Ordering::SeqCst))
    }

    pub fn rotate(&self) -> Arc<X509Context> {
        let context = issue(&self.authority, ID);
        self.give(Some(Arc::clone(&context)));
        context
    }
}

/// Our own trust domain with these keys, all of the test's gateway.
pub fn bundles_with(keys: &[&SigningKey], sequence: u64) -> Bundles {
    let beneath = SpiffeId::parse("spiffe://plant.example/gateway/gw-1").unwrap();
    let keys = keys.iter().map(|key| Arc::new(key.public(Some(beneath.clone())))).collect();
    let keys = JwtKeys { keys, sequence, refresh_hint_seconds: Some(300) };
    let own = TrustDomain::parse("plant.example").unwrap();
    Bundles { jwt: Arc::new([(own, Arc::new(keys))].into()), ..Bundles::default() }
}

fn judge(reason: &Mutex<Option<Reason>>) -> Result<(), Refusal> {
    match *reason.lock().unwrap() {
        Some(reason) => Err(Refusal::new(reason, "caller", "the test says so")),
        None => Ok(()),
    }
}

impl IdentitySource for Source {
    fn authorize(&self, _: &PeerEvidence) -> Result<(), Refusal> {
        if self.judging_takes_time.load(Ordering::SeqCst) {
            let others = self.judging.fetch_add(1, Ordering::SeqCst);
            self.judged_beside_others.fetch_add(others, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
            self.judging.fetch_sub(1, Ordering::SeqCst);
        }
        judge(&self.refuse_callers)
    }

    fn is_expected(&self, caller: &PeerEvidence) -> bool {
        !self.strangers.load(Ordering::SeqCst) && self.authorize(caller).is_ok()
    }

    fn subscribe(&self) -> Result<Current, Refusal> {
        judge(&self.refuse_identity)?;
        Ok(self.current.lock().unwrap().as_ref().unwrap().subscribe())
    }

    fn jwt_svid(&self, audience: &Audience, id: Option<&SpiffeId>) -> Result<JwtSvid, Refusal> {
        judge(&self.refuse_identity)?;
        let own = SpiffeId::parse(ID).unwrap();
        if id.is_some_and(|id| *id != own) {
            return Err(Refusal::new(Reason::IdentityForeign, "spiffe_id", "it is another's"));
        }
        let now = self.time();
        let expires = now.plus(Duration::from_secs(300));
        Ok(JwtSvid { token: self.jwt.issue(&own, audience, now, expires).unwrap(), id: own })
    }

    fn bundles(&self) -> watch::Receiver<Arc<Bundles>> {
        self.bundles.subscribe()
    }

    fn now(&self) -> UnixTime {
        self.time()
    }

    fn stream_opened(&self) {
        self.streams.fetch_add(1, Ordering::SeqCst);
    }

    fn stream_closed(&self) {
        self.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Served until it goes out of scope.
pub struct Served {
    _folder: tempfile::TempDir,
    pub socket: PathBuf,
    pub source: Arc<Source>,
    server: JoinHandle<()>,
    shutdown: oneshot::Sender<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Served {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let source = Source::new();
        let (server, shutdown) = serve(&socket, Arc::clone(&source));
        Self { _folder: folder, socket, source, server, shutdown }
    }

    /// Ends it as the end of an instance does, and waits for that.
    pub async fn end(&mut self) {
        self.shutdown = oneshot::channel().0;
        (&mut self.server).await.unwrap();
    }

    pub async fn stop(&mut self) {
        self.server.abort();
        (&mut self.server).await.ok();
        std::fs::remove_file(&self.socket).unwrap();
    }

    pub fn start(&mut self) {
        (self.server, self.shutdown) = serve(&self.socket, Arc::clone(&self.source));
    }

    pub async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel().await)
    }

    pub async fn channel(&self) -> Channel {
        channel_over(UnixStream::connect(&self.socket).await.unwrap()).await
    }

    /// A fresh JWT-SVID, fetched.
    pub async fn token(&self, audience: &[&str]) -> String {
        let audience = audience.iter().map(ToString::to_string).collect();
        let message = workloadapi::JwtsvidRequest { audience, ..Default::default() };
        let mut answer = self.client().await.fetch_jwtsvid(request(message)).await.unwrap().into_inner();
        answer.svids.remove(0).svid
    }
}

fn serve(socket: &Path, source: Arc<Source>) -> (JoinHandle<()>, oneshot::Sender<()>) {
    let listener = UnixListener::bind(socket).unwrap();
    let (shutdown, ended) = oneshot::channel();
    let ended = async {
        // An error is the sender's end, which is what ends the server.
        let _ended = ended.await;
    };
    (tokio::spawn(async move { server::serve(listener, source, ended).await.unwrap() }), shutdown)
}

/// Speaks over this one connection.
pub async fn client_over(stream: UnixStream) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(channel_over(stream).await)
}

pub async fn channel_over(stream: UnixStream) -> Channel {
    let stream = Arc::new(Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_| {
        let stream = stream.lock().unwrap().take();
        async move { stream.map(TokioIo::new).ok_or_else(|| std::io::Error::other("one connection only")) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

/// A request with the security header.
pub fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}
