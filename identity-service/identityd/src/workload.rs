//! Workload API sockets: one for each live instance, and one for each of Edgewarden's own processes.
//!
//! A caller is judged by the socket it came through and by what the kernel says of it, at each call and before each
//! message of a stream. An instance's caller must be in the cgroup of the start record, and the process that was
//! recorded must still live there; a process of our own must run as its user. Nothing the caller sends counts.

use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};

use edgewarden_decisions::records::{ProcessSeen, is_caller_of, still_lives};
use edgewarden_iotedge_api::server::Door;
use edgewarden_names::{ModuleName, Reason, Refusal, SpiffeId, UnixTime};
use edgewarden_platform::kept_socket::Change;
use edgewarden_platform::peer::PeerEvidence;
use edgewarden_protocol::control::StartRecord;
use edgewarden_svid::jwt::Audience;
use edgewarden_svid::{Bundles, JwtSvid};
use edgewarden_workload_server::{Current, IdentitySource, KeySource, SecretSource};
use tokio::sync::watch;

use crate::iotedge;
use crate::jwt::Tokens;
use crate::keys::InstanceKeys;
use crate::refuse::alive;
use crate::secrets;
use crate::service::Service;
use crate::sockets::{GATEWAYD, ROOT_UID, RUNTIMED, look_at};

/// Binds the sockets again that somebody made unfindable, and says so.
pub fn restore(service: &Arc<Service>, gateway_uid: Option<u32>) {
    for name in service.sockets.lost() {
        let state = service.ledger.current();
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

/// Says what became of the file of one of our own sockets.
pub fn file_changed(service: &Arc<Service>, path: &Path, change: &Change) {
    match change {
        Change::PutBack => put_back(service, &path.display().to_string()),
        Change::Lost(error) => {
            tracing::warn!(path = %path.display(), %error, "a socket was removed from outside and cannot be put back");
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
    tokio::task::spawn_blocking(move || service.ledger.note(&refusal));
}

/// Binds the sockets of a module's instance.
pub fn bind_instance(service: &Arc<Service>, instance: &str, module: &ModuleName) -> io::Result<()> {
    let tokens = Tokens::new(&service.jwt, instance);
    let source = Arc::new(InstanceSource {
        service: Arc::downgrade(service),
        instance: instance.into(),
        tokens,
        secrets: secrets::of_instance(&service.secrets, instance),
    });
    service.sockets.bind(instance, Arc::clone(&source) as Arc<dyn IdentitySource>)?;
    if iotedge::is_granted(&service.ledger, module) {
        let api = Arc::new(iotedge::InstanceApi::new(&service.iotedge, instance));
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
    if service.ledger.current().standing(&record.instance).is_ok() {
        service.begin_identity(&record.instance, &record.module, vec![record.module.as_str().into()]);
    }
    Ok(())
}

/// Gives one of Edgewarden's own processes an identity.
pub fn begin_own(service: &Service, name: &'static str, dns: &[&str]) {
    if let Ok(module) = ModuleName::parse(name) {
        service.begin_identity(name, &module, dns.iter().map(ToString::to_string).collect());
    }
}

/// The source behind an instance's socket.
struct InstanceSource {
    /// The socket's task must not keep the service alive.
    service: Weak<Service>,
    instance: String,
    tokens: Tokens,
    secrets: Arc<dyn SecretSource>,
}

impl InstanceSource {
    fn check_caller(&self, service: &Service, caller: &PeerEvidence) -> Result<(), Refusal> {
        let refuse = |reason, rule: String| Err(Refusal::new(reason, &self.instance, rule));
        let state = service.ledger.current();
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
        let service = alive(&self.service)?;
        if let Err(refusal) = self.check_caller(&service, caller) {
            service.ledger.note_soon(&self.instance, &refusal);
            return Err(public(refusal));
        }
        trusted(&service)?;
        service.ledger.current().standing(&self.instance)
    }

    fn is_expected(&self, caller: &PeerEvidence) -> bool {
        alive(&self.service).is_ok_and(|service| self.check_caller(&service, caller).is_ok())
    }

    fn subscribe(&self) -> Result<Current, Refusal> {
        subscribe(&self.service, &self.instance)
    }

    fn jwt_svid(&self, audience: &Audience, id: Option<&SpiffeId>) -> Result<JwtSvid, Refusal> {
        issue_jwt(&self.service, &self.tokens, &self.instance, audience, id)
    }

    fn bundles(&self) -> watch::Receiver<Arc<Bundles>> {
        bundles(&self.service, |service| {
            service.federation.of_instance(service.jwt.bundles(), &service.ledger, &self.instance)
        })
    }

    fn now(&self) -> UnixTime {
        now(&self.service)
    }

    fn secrets(&self) -> Option<Arc<dyn SecretSource>> {
        Some(Arc::clone(&self.secrets))
    }

    fn stream_opened(&self) {
        if let Ok(service) = alive(&self.service) {
            service.issuance.stream_opened(&self.instance);
        }
    }

    fn stream_closed(&self) {
        if let Ok(service) = alive(&self.service) {
            service.issuance.stream_closed(&self.instance);
        }
    }

    fn keys(&self) -> Option<Arc<dyn KeySource>> {
        let service = self.service.upgrade()?;
        let state = service.ledger.current();
        let module = state.documents().records.get(&self.instance)?.module.clone();
        Some(Arc::new(InstanceKeys::new(&service.key_door, self.instance.clone(), module)))
    }
}

/// The source behind the socket of one of Edgewarden's own processes.
struct OwnSource {
    service: Weak<Service>,
    name: &'static str,
    uid: Option<u32>,
    tokens: Tokens,
}

impl OwnSource {
    fn check_caller(&self, service: &Service, caller: &PeerEvidence) -> Result<(), Refusal> {
        let refuse = |reason, rule: String| Err(Refusal::new(reason, self.name, rule));
        if self.uid != Some(caller.uid()) {
            let rule = format!("process {} runs as user {}", caller.pid(), caller.uid());
            return refuse(Reason::CallerNotModule, rule);
        }
        let Ok(cgroup) = caller.cgroup() else {
            return refuse(Reason::CallerUnknown, format!("process {} is gone or hidden", caller.pid()));
        };
        // A module may run as root; that does not make it one of us.
        match service.ledger.current().documents().records.instance_of(&cgroup) {
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
        let service = alive(&self.service)?;
        if let Err(refusal) = self.check_caller(&service, caller) {
            service.ledger.note_soon(self.name, &refusal);
            return Err(public(refusal));
        }
        trusted(&service)
    }

    fn is_expected(&self, caller: &PeerEvidence) -> bool {
        alive(&self.service).is_ok_and(|service| self.check_caller(&service, caller).is_ok())
    }

    fn subscribe(&self) -> Result<Current, Refusal> {
        subscribe(&self.service, self.name)
    }

    fn jwt_svid(&self, audience: &Audience, id: Option<&SpiffeId>) -> Result<JwtSvid, Refusal> {
        issue_jwt(&self.service, &self.tokens, self.name, audience, id)
    }

    fn bundles(&self) -> watch::Receiver<Arc<Bundles>> {
        bundles(&self.service, |service| service.jwt.bundles())
    }

    fn now(&self) -> UnixTime {
        now(&self.service)
    }

    fn stream_opened(&self) {
        if let Ok(service) = alive(&self.service) {
            service.issuance.stream_opened(self.name);
        }
    }

    fn stream_closed(&self) {
        if let Ok(service) = alive(&self.service) {
            service.issuance.stream_closed(self.name);
        }
    }
}

/// The refusal that a caller is told: not what the record says, nor how close it came.
fn public(refusal: Refusal) -> Refusal {
    Refusal { rule: "the caller is not a process of this module".into(), ..refusal }
}

/// No certificate goes out, on an old stream neither, once the verdict is failed.
fn trusted(service: &Service) -> Result<(), Refusal> {
    service.ledger.current().documents().enrolment.trusted().map(drop)
}

fn subscribe(service: &Weak<Service>, name: &str) -> Result<Current, Refusal> {
    let service = alive(service)?;
    let now = service.ledger.now();
    service.ledger.current().documents().enrolment.may_issue(now)?;
    service.issuance.subscribe(name, now)
}

/// The bundles that `of` gives, or none when there is nobody to ask.
fn bundles(
    service: &Weak<Service>,
    of: impl FnOnce(&Service) -> watch::Receiver<Arc<Bundles>>,
) -> watch::Receiver<Arc<Bundles>> {
    alive(service).map_or_else(|_| watch::channel(Arc::default()).1, |service| of(&service))
}

fn issue_jwt(
    service: &Weak<Service>,
    tokens: &Tokens,
    name: &str,
    audience: &Audience,
    id: Option<&SpiffeId>,
) -> Result<JwtSvid, Refusal> {
    let service = alive(service)?;
    service.jwt.issue((&service.ledger, &service.issuance), tokens, name, audience, id)
}

fn now(service: &Weak<Service>) -> UnixTime {
    // Nothing is valid when there is nobody to say what time it is.
    alive(service).map_or(UnixTime(u64::MAX), |service| service.ledger.now())
}
