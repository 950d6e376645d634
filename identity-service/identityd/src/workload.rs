//! Workload API sockets: one for each live instance, and one for each of Edgewarden's own processes.
//!
//! A caller is judged by the socket it came through and by what the kernel says of it, at each call and before each
//! message of a stream. An instance's caller must be in the cgroup of the start record, and the process that was
//! recorded must still live there; a process of our own must run as its user. Nothing the caller sends counts.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use edgewarden_iotedge_api::server::Door;
use edgewarden_names::{ModuleName, Reason, Refusal, SpiffeId, UnixTime};
use edgewarden_platform::kept_socket::bind_anew;
use edgewarden_platform::peer::PeerEvidence;
use edgewarden_platform::process::Process;
use edgewarden_platform::socket_file::SocketFile;
use edgewarden_protocol::audit::Event;
use edgewarden_protocol::control::StartRecord;
use edgewarden_protocol::layout::Layout;
use edgewarden_svid::jwt::Audience;
use edgewarden_svid::{Bundles, JwtSvid};
use edgewarden_workload_server as server;
use edgewarden_workload_server::{Current, IdentitySource, KeySource, SecretSource};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::federation;
use crate::iotedge;
use crate::jwt::{self, Tokens};
use crate::keys::InstanceKeys;
use crate::secrets;
use crate::service::Service;
use edgewarden_decisions::records::{ProcessSeen, is_caller_of, still_lives};

const FOLDER_MODE: u32 = 0o755;
/// Who may pass to its own folder need not see whose there are.
const PARENT_MODE: u32 = 0o711;
/// Who may connect is judged by the kernel's evidence, not by the file's mode: a module may run as any user.
const SOCKET_MODE: u32 = 0o666;
/// Refusals of callers that wait to be written down. Beyond it they are refused all the same.
const REFUSED_MAX: usize = 256;

/// Calls of IoT Edge's API that run at a time, of all modules.
const IOTEDGE_THREADS: usize = 32;
/// How long the sockets have, when the process ends, to tell their streams.
const CLOSING: Duration = Duration::from_secs(2);

/// Who runs as `runtimed`.
pub const ROOT_UID: u32 = 0;
/// Names of Edgewarden's own processes that have sockets from the start.
pub const RUNTIMED: &str = "runtimed";
pub const GATEWAYD: &str = "gatewayd";

/// The sockets that are open.
#[derive(Debug)]
pub struct Sockets {
    layout: Layout,
    open: Mutex<HashMap<String, OpenSocket>>,
    iotedge_threads: Arc<Semaphore>,
    refused: mpsc::Sender<Event>,
}

#[derive(Debug)]
struct OpenSocket {
    /// Dropping it ends the socket's task and its connections.
    shutdown: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    /// The same for the socket of its IoT Edge API, if it has one.
    iotedge: Option<oneshot::Sender<()>>,
    /// The recorded process, held so that its number cannot come to mean another one. `None` before it has started.
    process: Option<Process>,
    /// Where it can be found, and its IoT Edge API.
    files: Vec<SocketFile>,
}

/// A process as `/proc` shows it now.
pub fn look_at(pid: i32) -> io::Result<(ProcessSeen, Process)> {
    let process = Process::open(pid)?;
    let seen = ProcessSeen { pid, pid_started: process.started(), cgroup: process.cgroup()? };
    Ok((seen, process))
}

impl Sockets {
    /// Also returns where the refusals of callers come that are to be written down.
    pub fn new(layout: Layout) -> (Self, mpsc::Receiver<Event>) {
        let (refused, receiver) = mpsc::channel(REFUSED_MAX);
        let iotedge_threads = Arc::new(Semaphore::new(IOTEDGE_THREADS));
        (Self { layout, open: Mutex::default(), iotedge_threads, refused }, receiver)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, OpenSocket>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds the socket of a name and serves it until [`Sockets::remove`]. A folder that is there already stays the
    /// same folder: a container that outlived us has it mounted.
    fn bind(&self, name: &str, source: Arc<dyn IdentitySource>) -> io::Result<()> {
        let folder = self.layout.workload_folder(name);
        std::fs::create_dir_all(&folder)?;
        set_mode(&folder, FOLDER_MODE)?;
        let path = self.layout.workload_socket(name);
        let listener = bind_anew(&path, SOCKET_MODE)?;
        let files = vec![SocketFile::bound(&path)?];
        let (shutdown, ended) = oneshot::channel();
        let socket = name.to_owned();
        let task = tokio::spawn(async move {
            let ended = async {
                // An error here is the sender's end, which is what ends the socket.
                let _ended = ended.await;
            };
            if let Err(error) = server::serve(listener, source, ended).await {
                tracing::error!(%error, socket, "the workload socket failed");
            }
        });
        let mut open = self.lock();
        // One that is bound again: its file is new, its process is the same.
        let process = open.remove(name).and_then(|socket| socket.process);
        let (shutdown, task) = (Some(shutdown), Some(task));
        open.insert(name.into(), OpenSocket { shutdown, task, iotedge: None, process, files });
        Ok(())
    }

    /// Binds the socket of an instance's IoT Edge API, beside the one that [`Sockets::bind`] has made. It ends with it.
    fn bind_iotedge(&self, name: &str, door: Door) -> io::Result<()> {
        let path = self.layout.iotedge_socket(name);
        let listener = bind_anew(&path, SOCKET_MODE)?;
        let file = SocketFile::bound(&path)?;
        let (shutdown, ended) = oneshot::channel();
        if let Some(socket) = self.lock().get_mut(name) {
            socket.iotedge = Some(shutdown);
            socket.files.push(file);
        }
        tokio::spawn(edgewarden_iotedge_api::server::serve(listener, door, async {
            // An error here is the sender's end, which is what ends the socket.
            let _ended = ended.await;
        }));
        Ok(())
    }

    /// Holds on to the process of an instance.
    pub fn hold(&self, instance: &str, process: Process) {
        if let Some(socket) = self.lock().get_mut(instance) {
            socket.process = Some(process);
        }
    }

    fn process(&self, instance: &str) -> Option<Process> {
        self.lock().get(instance)?.process.clone()
    }

    /// Instances whose recorded process has exited.
    pub fn exited(&self) -> Vec<String> {
        let open = self.lock();
        let gone = |socket: &OpenSocket| socket.process.as_ref().is_some_and(|process| !process.is_alive());
        open.iter().filter(|(_, socket)| gone(socket)).map(|(instance, _)| instance.clone()).collect()
    }

    /// Names of the sockets that nobody can find any more, because somebody removed or replaced a file of theirs.
    pub fn lost(&self) -> Vec<String> {
        let open = self.lock();
        let lost = |socket: &OpenSocket| !socket.files.iter().all(SocketFile::is_there);
        open.iter().filter(|(_, socket)| lost(socket)).map(|(name, _)| name.clone()).collect()
    }

    /// Ends a socket and removes its folder.
    pub fn remove(&self, instance: &str) -> io::Result<()> {
        drop(self.lock().remove(instance));
        remove_folder(&self.layout.workload_folder(instance))
    }

    /// Ends every socket, with a word to each open stream. The folders stay: containers that outlive us have them mounted.
    pub async fn close(&self) {
        let mut tasks = Vec::new();
        for socket in self.lock().values_mut() {
            drop((socket.shutdown.take(), socket.iotedge.take()));
            // The recorded process stays: who asks at this moment is still judged by it.
            tasks.extend(socket.task.take());
        }
        let told = async {
            for task in tasks {
                // One that failed has nobody left to tell.
                drop(task.await);
            }
        };
        if tokio::time::timeout(CLOSING, told).await.is_err() {
            tracing::warn!("some callers of the Workload API were not told that it stops");
        }
    }

    /// Removes the folders of instances that are not in `live`: left by a run that was cut off.
    pub fn sweep(&self, live: impl Fn(&str) -> bool) -> io::Result<()> {
        let parent = self.parent();
        if !parent.is_dir() {
            std::fs::create_dir_all(&parent)?;
            set_mode(&parent, PARENT_MODE)?;
        }
        for entry in std::fs::read_dir(&parent)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| name == RUNTIMED || name == GATEWAYD || live(name)) {
                remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }

    fn parent(&self) -> PathBuf {
        let mut folder = self.layout.workload_folder(RUNTIMED);
        folder.pop();
        folder
    }

    pub(crate) fn write_soon(&self, event: Event) {
        // A full queue loses the note, not the refusal.
        if let Err(mpsc::error::TrySendError::Full(event) | mpsc::error::TrySendError::Closed(event)) =
            self.refused.try_send(event)
        {
            let (subject, detail) = (event.subject, event.detail);
            tracing::warn!(subject, detail, "a refused caller was not written to the audit log");
        }
    }
}

/// Binds the sockets again that somebody made unfindable, and says so.
pub fn restore(service: &Arc<Service>, gateway_uid: Option<u32>) {
    for name in service.sockets.lost() {
        let state = service.current();
        let record = state.documents().records.get(&name);
        let bound = match (name.as_str(), record) {
            (RUNTIMED, _) => bind_own(service, RUNTIMED, Some(ROOT_UID)),
            (GATEWAYD, _) => bind_own(service, GATEWAYD, gateway_uid),
            (_, Some(record)) => bind_instance(service, &name, &record.module),
            // It has not started yet: that start fails, and the next one has another socket.
            (_, None) => continue,
        };
        match bound {
            Ok(()) => put_back(service, &name),
            Err(error) => {
                tracing::error!(%error, name, "a workload socket that was removed cannot be bound again");
            }
        }
    }
}

/// Says that a socket was made unfindable and is there again.
pub fn put_back(service: &Arc<Service>, name: &str) {
    let rule = "the socket's file was removed or replaced; put back";
    let refusal = Refusal::new(Reason::EnforcementAltered, name, rule);
    tracing::warn!(%refusal, "a socket was removed from outside");
    let service = Arc::clone(service);
    // The log is on a disk.
    tokio::task::spawn_blocking(move || service.note(&refusal));
}

pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Binds the sockets of a module's instance.
pub fn bind_instance(service: &Arc<Service>, instance: &str, module: &ModuleName) -> io::Result<()> {
    let tokens = Tokens::new(&service.jwt, instance);
    let source = InstanceSource { service: Arc::downgrade(service), instance: instance.into(), tokens };
    let source = Arc::new(source);
    service.sockets.bind(instance, Arc::clone(&source) as Arc<dyn IdentitySource>)?;
    if iotedge::is_granted(service, module) {
        let api = Arc::new(iotedge::InstanceApi::new(service, instance));
        let threads = Arc::clone(&service.sockets.iotedge_threads);
        service.sockets.bind_iotedge(instance, Door { callers: source, api, threads })?;
    }
    Ok(())
}

/// Binds the socket of one of Edgewarden's own processes, for callers of one user; `None`: of no user.
pub fn bind_own(service: &Arc<Service>, name: &'static str, uid: Option<u32>) -> io::Result<()> {
    let tokens = Tokens::new(&service.jwt, name);
    let source = OwnSource { service: Arc::downgrade(service), name, uid, tokens };
    service.sockets.bind(name, Arc::new(source))
}

/// Puts the identity of an instance in force: its process is held, and its certificate issued.
pub fn begin(service: &Service, record: &StartRecord) -> io::Result<()> {
    let (seen, process) = look_at(record.pid)?;
    if !still_lives(record, Some(&seen)) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the process is gone or has moved"));
    }
    service.sockets.hold(&record.instance, process);
    if service.current().standing(&record.instance).is_ok() {
        service.issuance.begin(&record.instance, &record.module, vec![record.module.as_str().into()]);
    }
    Ok(())
}

/// Gives one of Edgewarden's own processes an identity.
pub fn begin_own(service: &Service, name: &'static str, dns: &[&str]) {
    if let Ok(module) = ModuleName::parse(name) {
        service.issuance.begin(name, &module, dns.iter().map(ToString::to_string).collect());
    }
}

/// What stands behind an instance's socket.
struct InstanceSource {
    /// The socket's task must not keep the service alive.
    service: Weak<Service>,
    instance: String,
    tokens: Tokens,
}

impl InstanceSource {
    fn judge(&self, service: &Service, caller: &PeerEvidence) -> Result<(), Refusal> {
        let refuse = |reason, rule: String| Err(Refusal::new(reason, &self.instance, rule));
        let state = service.current();
        let Some(record) = state.documents().records.get(&self.instance) else {
            return refuse(Reason::CallerNotModule, "the instance does not run".into());
        };
        // The cgroup of the recorded process is read before and the life of the caller after: all of it holds at once.
        let recorded = service.sockets.process(&self.instance).and_then(|process| {
            let cgroup = process.cgroup().ok()?;
            Some(ProcessSeen { pid: process.pid(), pid_started: process.started(), cgroup })
        });
        if !still_lives(record, recorded.as_ref()) {
            return refuse(Reason::CallerNotModule, "the recorded process is gone".into());
        }
        let Ok(cgroup) = caller.cgroup() else {
            return refuse(Reason::CallerUnknown, format!("process {} is gone or hidden", caller.pid()));
        };
        if !is_caller_of(record, &cgroup) {
            let rule = format!(
                "process {} of user {} is in cgroup {cgroup}, not in the module's",
                caller.pid(),
                caller.uid()
            );
            return refuse(Reason::CallerNotModule, rule);
        }
        if !caller.is_alive() {
            return refuse(Reason::CallerUnknown, format!("process {} is gone", caller.pid()));
        }
        Ok(())
    }
}

impl IdentitySource for InstanceSource {
    fn authorize(&self, caller: &PeerEvidence) -> Result<(), Refusal> {
        let service = upgrade(&self.service)?;
        if let Err(refusal) = self.judge(&service, caller) {
            service.note_soon(&self.instance, &refusal);
            return Err(public(refusal));
        }
        trusted(&service)?;
        service.current().standing(&self.instance)
    }

    fn is_expected(&self, caller: &PeerEvidence) -> bool {
        upgrade(&self.service).is_ok_and(|service| self.judge(&service, caller).is_ok())
    }

    fn subscribe(&self) -> Result<Current, Refusal> {
        subscribe(&self.service, &self.instance)
    }

    fn jwt_svid(&self, audience: &Audience, id: Option<&SpiffeId>) -> Result<JwtSvid, Refusal> {
        jwt::issue(&*upgrade(&self.service)?, &self.tokens, &self.instance, audience, id)
    }

    fn bundles(&self) -> watch::Receiver<Arc<Bundles>> {
        federation::bundles(&self.service, &self.instance)
    }

    fn now(&self) -> UnixTime {
        now(&self.service)
    }

    fn secrets(&self) -> Option<Arc<dyn SecretSource>> {
        Some(secrets::of_instance(&self.service, &self.instance))
    }

    fn stream_opened(&self) {
        if let Ok(service) = upgrade(&self.service) {
            service.issuance.stream_opened(&self.instance);
        }
    }

    fn stream_closed(&self) {
        if let Ok(service) = upgrade(&self.service) {
            service.issuance.stream_closed(&self.instance);
        }
    }

    fn keys(&self) -> Option<Arc<dyn KeySource>> {
        let service = self.service.upgrade()?;
        let state = service.current();
        let module = state.documents().records.get(&self.instance)?.module.clone();
        Some(Arc::new(InstanceKeys::new(Weak::clone(&self.service), self.instance.clone(), module)))
    }
}

/// What stands behind the socket of one of Edgewarden's own processes.
struct OwnSource {
    service: Weak<Service>,
    name: &'static str,
    uid: Option<u32>,
    tokens: Tokens,
}

impl OwnSource {
    fn judge(&self, service: &Service, caller: &PeerEvidence) -> Result<(), Refusal> {
        let refuse = |reason, rule: String| Err(Refusal::new(reason, self.name, rule));
        if self.uid != Some(caller.uid()) {
            let rule = format!("process {} runs as user {}", caller.pid(), caller.uid());
            return refuse(Reason::CallerNotModule, rule);
        }
        let Ok(cgroup) = caller.cgroup() else {
            return refuse(Reason::CallerUnknown, format!("process {} is gone or hidden", caller.pid()));
        };
        // A module may run as root; that does not make it one of us.
        match service.current().documents().records.instance_of(&cgroup) {
            Some(record) => {
                let rule = format!("process {} belongs to {}", caller.pid(), record.instance);
                refuse(Reason::CallerNotModule, rule)
            }
            None => Ok(()),
        }
    }
}

impl IdentitySource for OwnSource {
    fn authorize(&self, caller: &PeerEvidence) -> Result<(), Refusal> {
        let service = upgrade(&self.service)?;
        if let Err(refusal) = self.judge(&service, caller) {
            service.note_soon(self.name, &refusal);
            return Err(public(refusal));
        }
        trusted(&service)
    }

    fn is_expected(&self, caller: &PeerEvidence) -> bool {
        upgrade(&self.service).is_ok_and(|service| self.judge(&service, caller).is_ok())
    }

    fn subscribe(&self) -> Result<Current, Refusal> {
        subscribe(&self.service, self.name)
    }

    fn jwt_svid(&self, audience: &Audience, id: Option<&SpiffeId>) -> Result<JwtSvid, Refusal> {
        jwt::issue(&*upgrade(&self.service)?, &self.tokens, self.name, audience, id)
    }

    fn bundles(&self) -> watch::Receiver<Arc<Bundles>> {
        bundles(&self.service)
    }

    fn now(&self) -> UnixTime {
        now(&self.service)
    }

    fn stream_opened(&self) {
        if let Ok(service) = upgrade(&self.service) {
            service.issuance.stream_opened(self.name);
        }
    }

    fn stream_closed(&self) {
        if let Ok(service) = upgrade(&self.service) {
            service.issuance.stream_closed(self.name);
        }
    }
}

/// What a refused caller is told: not what the record says, nor how close it came.
fn public(refusal: Refusal) -> Refusal {
    Refusal { rule: "the caller is not a process of this module".into(), ..refusal }
}

pub(crate) fn upgrade(service: &Weak<Service>) -> Result<Arc<Service>, Refusal> {
    service.upgrade().ok_or_else(|| Refusal::new(Reason::IdentityUnavailable, "identityd", "it is stopping"))
}

/// No certificate goes out, on an old stream neither, once the verdict is failed.
fn trusted(service: &Service) -> Result<(), Refusal> {
    service.current().documents().enrolment.trusted().map(drop)
}

fn subscribe(service: &Weak<Service>, name: &str) -> Result<Current, Refusal> {
    let service = upgrade(service)?;
    let now = service.now();
    service.current().documents().enrolment.may_issue(now)?;
    // A deployment that came since the last renewal holds at once.
    service.keep_keys_resident();
    service.issuance.subscribe(name, now)
}

fn bundles(service: &Weak<Service>) -> watch::Receiver<Arc<Bundles>> {
    upgrade(service).map_or_else(|_| watch::channel(Arc::default()).1, |service| service.jwt.bundles())
}

fn now(service: &Weak<Service>) -> UnixTime {
    // Nothing is valid when there is nobody to say what time it is.
    upgrade(service).map_or(UnixTime(u64::MAX), |service| service.now())
}
