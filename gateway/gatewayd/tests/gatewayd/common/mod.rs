//! A gateway for `gatewayd` to serve: real certificates, the real process (this test program again, as a child), a
//! control server that speaks `identityd`'s protocol, and a fleet that takes messages.

pub mod client;
pub mod fleet;
pub mod identityd;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use edgewarden_ca::{IssuingCa, RootCa, Svid};
use edgewarden_exchange::client::Client as ControlClient;
use edgewarden_names::{GatewayName, SpiffeId, UnixTime, pem};
use edgewarden_protocol::config::Config;
use edgewarden_protocol::gateway_console::{Reply, Request, Status};
use edgewarden_protocol::layout::Layout;
use edgewarden_svid::X509Context;
use edgewarden_testkit::Key;
use edgewarden_transport::Identity;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::sync::watch;

pub const HOUR: Duration = Duration::from_secs(3600);
const ROOT: &str = "GATEWAYD_TEST_ROOT";
const DISK: &str = "GATEWAYD_TEST_DISK";

/// Each test program has a test named `daemon` that calls this: as a child it is the process under test.
pub fn daemon() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let to_stderr = tracing_subscriber::fmt().with_writer(std::io::stderr);
    to_stderr.with_env_filter(tracing_subscriber::EnvFilter::new("debug,h2=info,hyper=info")).init();
    let layout = Layout::new(root);
    let config = Config::load(&layout.config_file()).unwrap();
    if let Ok(bytes) = std::env::var(DISK) {
        small_disk(&layout.gateway_state(), &bytes);
    }
    edgewarden_gatewayd::run(&layout, &config).unwrap();
}

/// In a mount namespace that this thread alone is in, and the threads that come from it.
fn small_disk(folder: &Path, bytes: &str) {
    std::fs::create_dir_all(folder).unwrap();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
    let size = format!("size={bytes}");
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(size.as_str())).unwrap();
}

pub use edgewarden_testkit::{domain, gateway, leaf, module};

pub fn issuing(root: &RootCa, gateway: &GatewayName) -> IssuingCa {
    issuing_at(root, gateway, UnixTime::now())
}

pub fn issuing_at(root: &RootCa, gateway: &GatewayName, now: UnixTime) -> IssuingCa {
    let key = Key::generate();
    let ca = root.certify_gateway_ca(&key.point(), gateway, HOUR * 100, now).unwrap();
    IssuingCa::create(&key, &ca.chain_der[0], &domain(), gateway, HOUR * 90, now).unwrap()
}

/// An identity as [`edgewarden_transport`] follows it.
pub fn identity(svid: Svid, root: &RootCa) -> Identity {
    identity_of(context(svid, root))
}

pub fn identity_of(context: X509Context) -> Identity {
    let (sender, current) = watch::channel(Some(Arc::new(context)));
    // It never rotates in a test; an ended source would end the identity.
    std::mem::forget(sender);
    Identity::new(current)
}

pub fn context(svid: Svid, root: &RootCa) -> X509Context {
    X509Context {
        id: svid.id,
        chain_der: svid.chain_der,
        key_pkcs8: svid.key_pkcs8,
        bundle_der: vec![root.certificate_der().to_vec()],
        trust_domain: domain(),
    }
}

pub struct Site {
    pub folder: tempfile::TempDir,
    pub layout: Layout,
    pub root: RootCa,
    pub issuing: Arc<IssuingCa>,
    pub identityd: identityd::Identityd,
    pub leaf_port: u16,
    pub enrol_port: u16,
    /// The gateway's address in its module network; modules have the next ones.
    pub network: Ipv4Addr,
    pub module_port: u16,
    /// The process's state is on a disk of its own of this size, which ends with it.
    pub disk_bytes: Option<u64>,
    child: Option<Child>,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Site {
    /// A gateway with `policy` in force (the clinic's deployment), served by a child process.
    pub async fn start(policy: &str) -> Self {
        let mut site = Self::prepare(policy, None, 1 << 20);
        site.spawn().await;
        site
    }

    pub fn prepare(policy: &str, fleet: Option<u16>, queue_bytes_max: u64) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let root = RootCa::create(&domain(), HOUR * 1000, UnixTime::now()).unwrap();
        let issuing = Arc::new(issuing(&root, &gateway()));
        let second = 16 + u8::try_from(std::process::id() % 200).unwrap();
        let network = Ipv4Addr::new(127, second, COUNT.fetch_add(1, Ordering::Relaxed), 1);
        let (leaf_port, enrol_port, module_port) = (free_port(), free_port(), free_port());
        let root_file = folder.path().join("root.pem");
        std::fs::write(&root_file, pem::encode("CERTIFICATE", root.certificate_der())).unwrap();
        let fleet = fleet.map_or(String::new(), |port| {
            format!(
                "[fleet]\nurl = \"https://127.0.0.1:{port}\"\nroot = \"{}\"\noperator_keys = []\n",
                root_file.display()
            )
        });
        std::fs::create_dir_all(layout.config_file().parent().unwrap()).unwrap();
        let octets = network.octets();
        let config = format!(
            "[gateway]\nname = \"gw-1\"\ntrust_domain = \"plant.example\"\n{fleet}\
             [keystore]\nkind = \"software\"\npassphrase_file = \"/nowhere\"\n\
             [runtime]\nmodule_network = \"{}.{}.{}.0/24\"\n\
             [mqtt]\nleaf_listen = \"127.0.0.1:{leaf_port}\"\nleaf_enrol_listen = \"127.0.0.1:{enrol_port}\"\n\
             module_port = {module_port}\nqueue_bytes_max = {queue_bytes_max}\n",
            octets[0], octets[1], octets[2]
        );
        std::fs::write(layout.config_file(), config).unwrap();
        let identityd = identityd::Identityd::start(&layout, &root, Arc::clone(&issuing));
        identityd.enforce(policy, 1);
        Self {
            folder,
            layout,
            root,
            issuing,
            identityd,
            leaf_port,
            enrol_port,
            network,
            module_port,
            disk_bytes: None,
            child: None,
        }
    }

    /// Starts the process and waits until the policy is in force in it.
    pub async fn spawn(&mut self) {
        self.identityd.forget_enforced();
        let log = std::fs::File::create(self.folder.path().join("gatewayd.log")).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon", "--nocapture", "--test-threads=1"])
            .env(ROOT, self.folder.path())
            .envs(self.disk_bytes.map(|bytes| (DISK, bytes.to_string())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.identityd.enforced_again().await;
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; true when the process ended well.
    pub fn terminate(&mut self) -> bool {
        let mut child = self.child.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        child.wait().unwrap().success()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn svid(&self, id: &SpiffeId) -> Svid {
        self.issuing.issue_svid(id, &[], HOUR, UnixTime::now()).unwrap()
    }

    /// `n`th module's address.
    pub fn address(&self, n: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.network.octets();
        Ipv4Addr::new(a, b, c, n + 1)
    }

    pub fn leaf_door(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.leaf_port).into()
    }

    pub fn module_door(&self) -> SocketAddr {
        (self.network, self.module_port).into()
    }

    /// A leaf device's connection after CONNECT.
    pub async fn leaf(&self, name: &str) -> client::Client {
        let mut client = self.leaf_tls(name).await.unwrap();
        assert_eq!(client.connect(name, true).await, client::ACCEPTED, "{name}");
        client
    }

    pub async fn leaf_tls(&self, name: &str) -> std::io::Result<client::Client> {
        let identity = identity(self.svid(&leaf(name)), &self.root);
        client::Client::open(self.leaf_door(), Ipv4Addr::LOCALHOST, &identity).await
    }

    /// A module's connection from the `n`th address after CONNECT.
    pub async fn module(&self, name: &str, n: u8) -> client::Client {
        let mut client = self.module_tls(name, n).await.unwrap();
        assert_eq!(client.connect(name, false).await, client::ACCEPTED, "{name}");
        client
    }

    pub async fn module_tls(&self, name: &str, n: u8) -> std::io::Result<client::Client> {
        let identity = identity(self.svid(&module(name)), &self.root);
        client::Client::open(self.module_door(), self.address(n), &identity).await
    }

    /// Certificate chain, key and CA of an identity as PEM files: what stock MQTT clients take.
    pub fn pem_files(&self, id: &SpiffeId) -> [PathBuf; 3] {
        let svid = self.svid(id);
        let name = id.as_str().rsplit('/').next().unwrap();
        let file = |what: &str, text: String| {
            let path = self.folder.path().join(format!("{name}-{what}.pem"));
            std::fs::write(&path, text).unwrap();
            path
        };
        [
            file("chain", pem::chain(&svid.chain_der)),
            file("key", pem::encode("PRIVATE KEY", &svid.key_pkcs8)),
            file("ca", pem::encode("CERTIFICATE", self.root.certificate_der())),
        ]
    }

    pub async fn status(&self) -> Status {
        match self.ask(&Request::Status).await {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub async fn ask(&self, request: &Request) -> Reply {
        let mut client = ControlClient::connect(&self.layout.gateway_socket()).await.unwrap();
        client.exchange(request).await.unwrap()
    }

    /// Asks for the status until it is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        for _ in 0..6000 {
            let status = self.status().await;
            if wanted(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: {:?}", self.status().await);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("gatewayd.log")).unwrap_or_default();
            eprintln!("gatewayd said:\n{log}");
        }
    }
}

pub const POLICY: &str = r#"
@id("broker")
permit (principal, action == Action::"connect", resource);
@id("own-topics")
permit (principal in LeafGroup::"glucose-sensors", action == Action::"publish", resource in TopicFilter::"glucose")
when { resource has owner && resource.owner == principal };
@id("analytics-reads")
permit (principal == Module::"analytics", action in [Action::"subscribe", Action::"receive"],
        resource == TopicFilter::"all-glucose");
@id("summary")
permit (principal == Module::"analytics", action == Action::"publish", resource == TopicFilter::"summary");
@id("upload-summary")
permit (principal == Module::"analytics", action == Action::"upload", resource == CloudEndpoint::"upstream");
"#;
