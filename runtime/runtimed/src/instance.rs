//! One start of one module: made, watched, stopped, and cleaned away.
//!
//! All that a daemon that starts again must know of an instance is on disk before it exists for anybody else, in
//! a folder that ends with the machine's run. It adopts an instance only when process number, start time and
//! `identityd`'s start record all agree.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use edgewarden_names::{Generation, Reason, Refusal};
use edgewarden_oci::execution::Execution;
use edgewarden_platform::durable;
use edgewarden_platform::process::Process;
use edgewarden_platform::reserve::is_behind;
use edgewarden_protocol::container::StopSignal;
use edgewarden_protocol::control::{StartRecord, questions};
use edgewarden_protocol::deployment::Module;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::addresses::Place;
use crate::bundle::Bundle;
use crate::context::Context;
use crate::error::RunError;
use crate::identity::CallError;
use crate::images::Ready;
use crate::limits::Limits;
use crate::mounting::Sources;
use crate::orders::{Admitted, Altered};
use crate::places::Places;
use crate::{furnishing, limits, network, secrets};

const RECORD_BYTES_MAX: usize = 1024 * 1024;
/// Between the signal to end and SIGKILL, unless the deployment says otherwise.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Wait after SIGKILL; a process that the kernel holds longer is left to the next cleaning.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// An instance as it is on disk until the machine stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub instance: String,
    pub generation: Generation,
    /// The module as the deployment had it at the start.
    pub module: Module,
    pub place: Place,
    /// Number and start time of the first process; absent until it exists.
    pub process: Option<(i32, u64)>,
    /// Mounts of the container. Absent until it exists.
    #[serde(default)]
    pub mounts: Option<String>,
    /// Signal that asks it to end.
    #[serde(default = "sigterm")]
    pub stop_signal: StopSignal,
}

fn sigterm() -> StopSignal {
    StopSignal::TERM
}

impl Record {
    fn admitted(&self, context: &Context) -> Admitted {
        Admitted {
            instance: self.instance.clone(),
            module: self.module.name.clone(),
            place: self.place,
            namespace: context.places.namespace(&self.instance),
        }
    }

    /// Files of the instance's cgroup with the module's limits.
    pub fn limits(&self, context: &Context) -> Limits {
        Limits::new(&context.cgroup(&self.instance), &self.module)
    }
}

/// An instance whose first process exists.
#[derive(Debug)]
pub struct Instance {
    pub record: Record,
    pub process: Process,
    altered: Option<Altered>,
}

/// The end of an instance, by the exit of its first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// It was not our child, as after a restart of this daemon.
    Unknown,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "it ended with status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal} ended it"),
            Self::Unknown => f.write_str("it ended, with a status that nobody was there to see"),
        }
    }
}

fn local(module: &Module, error: &RunError) -> Refusal {
    tracing::warn!(module = %module.name, error = %error.chain(), "a start failed");
    let reason = if is_behind(error) { Reason::Storage } else { error.reason() };
    Refusal::new(reason, &module.name, error.chain())
}

/// A start for which everything is decided and there that does not need the module's place on the network: the permit is
/// spent, the socket is bound, the image is unpacked, its configuration resolved. Ends by [`start`] or [`abandon`].
#[derive(Debug)]
pub struct Prepared {
    record: Record,
    workload_folder: OwnedFd,
    config: serde_json::Value,
    owner: (u32, u32),
}

impl Prepared {
    /// The module as the deployment had it when this was prepared.
    pub fn module(&self) -> &Module {
        &self.record.module
    }
}

/// Prepares a start, beside whatever of the module runs. What a failed attempt made is removed.
pub async fn prepare(
    context: &Context,
    module: &Module,
    place: Place,
    ready: Ready,
) -> Result<Prepared, Refusal> {
    let record = Record {
        instance: ready.permit.instance.clone(),
        generation: ready.permit.generation,
        module: module.clone(),
        place,
        process: None,
        mounts: None,
        stop_signal: StopSignal::TERM,
    };
    // A name that `identityd` chose becomes part of paths.
    let expected = format!("{}-{}", module.name, record.generation);
    if record.instance != expected {
        return Err(Refusal::new(
            Reason::Internal,
            &module.name,
            "the instance has another name than its module and generation",
        ));
    }
    context.live(&record.instance);
    let prepared = describe(context, record.clone(), ready).await;
    if prepared.is_err() {
        forget(context, &record.instance).await;
    }
    prepared
}

/// Makes what is in the container, and its description. Before the permit is spent: a module that cannot be described is none
/// that starts.
async fn describe(context: &Context, mut record: Record, ready: Ready) -> Result<Prepared, Refusal> {
    let module = record.module.clone();
    let users = context.users_of(record.place.number);
    let (places, instance) = (context.places.clone(), record.instance.clone());
    let (image, unpacked, about) = (ready.config.clone(), ready.root.clone(), module.clone());
    let furnished = context.blocking(move || {
        let execution = Execution { module: &about, image: &image, root: &unpacked };
        let account = match execution.check().and_then(|()| execution.account()) {
            Ok(account) => account,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let owner = [account.user, account.group].map(|id| users.first.saturating_add(id));
        furnishing::furnish(&places, &instance, &execution, users, owner.into())
    });
    let furnished = furnished.await.map_err(|error| local(&module, &error))??;
    let workload_folder = context.layout.workload_folder(&record.instance);
    let sources = Sources {
        workload_folder: &workload_folder,
        hosts: &furnished.hosts,
        secrets: furnished.secrets.as_deref(),
        files: &furnished.files,
        volumes: &furnished.volumes,
    };
    let bundle = Bundle {
        gateway: &context.config.gateway.name,
        trust_domain: &context.config.gateway.trust_domain,
        module: &module,
        generation: record.generation,
        image: &ready.config,
        mqtt_port: context.config.mqtt.module_port,
        unpacked: &ready.root,
        root: &furnished.root,
        network_namespace: &context.places.namespace(&record.instance),
        sources: &sources,
        devices: &furnished.devices,
        cgroup: &context.cgroup(&record.instance),
        users,
    };
    let (config, owner) = (bundle.config()?, bundle.owner()?);
    record.stop_signal = bundle.stop_signal();
    let workload_folder = bind(context, &record, &ready).await?;
    Ok(Prepared { record, workload_folder, config, owner })
}

/// Spends the permit, which binds the module's socket. The folder of it.
async fn bind(context: &Context, record: &Record, ready: &Ready) -> Result<OwnedFd, Refusal> {
    let prepare = questions::StartPrepare { permit: ready.permit.permit.clone() };
    let prepared = context.identityd.call(prepare).await.map_err(CallError::refusal)?;
    if prepared.instance != record.instance
        || prepared.workload_folder != context.layout.workload_folder(&record.instance)
    {
        return Err(CallError::Unexpected.refusal());
    }
    Places::open_workload_folder(&context.layout, &record.instance)
        .map_err(RunError::io("open the folder of the module's socket"))
        .map_err(|error| local(&record.module, &error))
}

/// Takes a preparation back.
pub async fn abandon(context: &Context, prepared: Prepared) {
    forget(context, &prepared.record.instance).await;
}

/// Starts what was prepared; nothing else may be at its place. What a failed attempt made is removed.
pub async fn start(context: &Context, prepared: Prepared) -> Result<Instance, Refusal> {
    let record = prepared.record.clone();
    let started = launch(context, prepared).await;
    if started.is_err() {
        clean(context, &record).await;
    }
    started
}

async fn launch(context: &Context, prepared: Prepared) -> Result<Instance, Refusal> {
    let Prepared { mut record, workload_folder, config, owner } = prepared;
    let module = record.module.clone();
    let failed = |error: RunError| local(&module, &error);
    save(context, &record).map_err(failed)?;
    let (namespace, place) = (context.places.namespace(&record.instance), record.place);
    context.blocking(move || network::join(&namespace, place.number, place.address)).await.map_err(failed)?;
    let (places, name, about) = (context.places.clone(), record.instance.clone(), module.clone());
    let users = context.users_of(record.place.number);
    let grown = context.blocking(move || furnishing::grow_volumes(&places, &name, &about, users));
    grown.await.map_err(failed)?;
    let guard = context.guard().map_err(failed)?;
    guard.admit(record.admitted(context)).await.map_err(failed)?;
    let folder = context.places.bundle(&record.instance);
    write_bundle(&folder, &config).map_err(failed)?;
    let log = context.log_pump.start(context.places.logs(), &module.name);
    let log = log.map_err(RunError::io("start what keeps the module's log")).map_err(failed)?;
    // Images that log to a file have a link to /dev/stdout there, which the module's user must be able to open.
    std::os::unix::fs::fchown(&log, Some(owner.0), Some(owner.1))
        .map_err(RunError::io("give the module its log"))
        .map_err(failed)?;
    let pid = context.runc.create(&record.instance, &folder, log).await.map_err(failed)?;
    check_mounted(pid, &workload_folder).map_err(failed)?;
    let process = Process::open(pid).map_err(RunError::io("watch the module's process")).map_err(failed)?;
    record.process = Some((process.pid(), process.started()));
    let confined = process.clone();
    context.blocking(move || limits::limit_objects(&confined)).await.map_err(failed)?;
    let limits = record.limits(context);
    let (mounts, altered) =
        guard.watch(&record.instance, process.clone(), limits, None).await.map_err(failed)?;
    record.mounts = Some(mounts);
    save(context, &record).map_err(failed)?;
    let (instance, address) = (record.instance.clone(), record.place.address);
    let started = questions::Started { instance, pid, address };
    context.identityd.call(started).await.map_err(CallError::refusal)?;
    // Before its first instruction: what it is to find there is there.
    secrets::deliver(context, &module, &record.instance, &process, Some(owner)).await?;
    context.runc.start(&record.instance).await.map_err(failed)?;
    Ok(Instance { record, process, altered: Some(altered) })
}

/// Refuses a mount that is not the folder that was opened: its name may have come to mean another meanwhile. No
/// instruction of the module has run yet.
fn check_mounted(pid: i32, folder: &OwnedFd) -> Result<(), RunError> {
    let what = || RunError::io("look at the folder of the module's socket");
    let opened =
        folder.try_clone().and_then(|folder| std::fs::File::from(folder).metadata()).map_err(what())?;
    let mounted = std::fs::metadata(format!("/proc/{pid}/root/run/edgewarden")).map_err(what())?;
    if (opened.dev(), opened.ino()) == (mounted.dev(), mounted.ino()) {
        Ok(())
    } else {
        Err(RunError::Runtime("another folder than that of the module's socket was mounted".into()))
    }
}

fn write_bundle(folder: &Path, config: &serde_json::Value) -> Result<(), RunError> {
    let what = || RunError::io(format!("write `{}`", folder.display()));
    std::fs::create_dir_all(folder).map_err(what())?;
    std::fs::write(folder.join("config.json"), config.to_string()).map_err(what())
}

fn save(context: &Context, record: &Record) -> Result<(), RunError> {
    let bytes = serde_json::to_vec(record).map_err(|error| RunError::Runtime(error.to_string()))?;
    durable::write(&context.places.record(&record.instance), &bytes, 0o600)
        .map_err(RunError::io("write an instance's record"))
}

/// The records on disk; what cannot be read is removed, since nothing can be adopted by it.
pub fn records(folder: &Path) -> Result<Vec<Record>, RunError> {
    let what = || RunError::io(format!("read `{}`", folder.display()));
    durable::sweep(folder).map_err(what())?;
    let mut records = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(what())? {
        let path = entry.map_err(what())?.path();
        // It may have gone meanwhile.
        let Some(bytes) = durable::read(&path, RECORD_BYTES_MAX).map_err(what())? else { continue };
        match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) if path.file_stem().is_some_and(|stem| stem == record.instance.as_str()) => {
                records.push(record);
            }
            _ => {
                tracing::warn!(path = %path.display(), "a broken record is removed");
                durable::remove(&path).map_err(what())?;
            }
        }
    }
    Ok(records)
}

/// The instance that the record is about, when it still runs, `identityd` knows it too, and it is still confined as it was
/// started.
pub async fn adopt(
    context: &Context,
    record: Record,
    known: &[StartRecord],
) -> Result<Instance, Box<Record>> {
    let Some((pid, started)) = record.process else { return Err(Box::new(record)) };
    let same = |known: &StartRecord| {
        known.instance == record.instance && known.pid == pid && known.pid_started == started
    };
    let process = match Process::open(pid) {
        Ok(process) if process.started() == started && known.iter().any(same) => process,
        _ => return Err(Box::new(record)),
    };
    match take_up(context, &record, &process).await {
        Ok(altered) => Ok(Instance { record, process, altered: Some(altered) }),
        Err(error) => {
            tracing::warn!(instance = %record.instance, error = %error.chain(), "an instance cannot be guarded and is not taken over");
            Err(Box::new(record))
        }
    }
}

async fn take_up(context: &Context, record: &Record, process: &Process) -> Result<Altered, RunError> {
    let guard = context.guard()?;
    let (namespace, held) = (context.places.namespace(&record.instance), process.clone());
    context.blocking(move || network::hold_namespace(&namespace, &held)).await?;
    guard.admit(record.admitted(context)).await?;
    let limits = record.limits(context);
    let watched = guard.watch(&record.instance, process.clone(), limits, record.mounts.clone()).await;
    if watched.is_err() {
        guard.release(&record.instance).await;
    }
    watched.map(|(_, altered)| altered)
}

impl Instance {
    /// Returns when the first process has ended, and with it its pid namespace.
    pub async fn exited(&self) -> Exit {
        if let Err(error) = self.process.exited().await {
            tracing::warn!(%error, "a process cannot be watched");
        }
        // While it is a zombie of ours its number is its own.
        match waitpid(Pid::from_raw(self.process.pid()), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Exit::Code(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as i32),
            _ => Exit::Unknown,
        }
    }

    /// Ends when the instance is no longer confined as it was started; never when that stays so. To be taken once.
    pub fn take_altered(&mut self) -> impl Future<Output = Refusal> + use<> {
        let altered = self.altered.take();
        async move {
            match altered {
                Some(altered) => match altered.await {
                    Ok(refusal) => refusal,
                    // The guard has let it go: it ends.
                    Err(_) => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        }
    }

    /// SIGKILL, without a word before.
    pub async fn kill(&self, context: &Context) {
        let instance = &self.record.instance;
        if let Err(error) = context.runc.kill(instance, "KILL").await {
            tracing::debug!(%instance, %error, "SIGKILL was not sent");
        }
        if tokio::time::timeout(KILL_WAIT, self.exited()).await.is_err() {
            tracing::warn!(%instance, "the kernel does not let the module's process go");
        }
    }

    /// The module's signal to end, then SIGKILL.
    pub async fn stop(&self, context: &Context) {
        let instance = &self.record.instance;
        // The first process of a pid namespace does not even notice a signal that it has no handler for.
        if self.handles_stop_signal() {
            let signal = self.record.stop_signal.number().to_string();
            if let Err(error) = context.runc.kill(instance, &signal).await {
                tracing::debug!(%instance, %error, "the signal to end was not sent");
            }
            let grace = self.record.module.stop.grace_seconds;
            let grace = grace.map_or(STOP_GRACE, |seconds| Duration::from_secs(seconds.into()));
            if tokio::time::timeout(grace, self.exited()).await.is_ok() {
                return;
            }
        }
        self.kill(context).await;
    }

    /// `SigCgt` of `/proc/<pid>/status` (proc_pid_status(5)); signal n is bit n - 1.
    fn handles_stop_signal(&self) -> bool {
        let bit = self.record.stop_signal.number().saturating_sub(1);
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_none_or(|mask| mask >> bit & 1 != 0)
    }
}

/// Removes all that is left of an instance, its processes too, and tells `identityd`.
pub async fn clean(context: &Context, record: &Record) {
    let instance = &record.instance;
    // What ends by our own hand was not changed by another's.
    if let Ok(guard) = context.guard() {
        guard.release(instance).await;
    }
    if let Err(error) = context.runc.delete(instance).await {
        tracing::debug!(%instance, error = %error.chain(), "the runtime removed nothing");
    }
    let (namespace, number) = (context.places.namespace(instance), record.place.number);
    let removed = context
        .blocking(move || {
            network::remove_namespace(&namespace)?;
            network::remove_interface(number)
        })
        .await;
    if let Err(error) = removed {
        tracing::warn!(%instance, error = %error.chain(), "the instance's network was not removed");
    }
    forget(context, instance).await;
}

/// Removes an instance's files and tells `identityd`.
pub async fn forget(context: &Context, instance: &str) {
    drop(std::fs::remove_dir_all(context.places.bundle(instance)));
    let (places, name) = (context.places.clone(), instance.to_owned());
    if let Err(error) = context.blocking(move || furnishing::remove(&places, &name)).await {
        tracing::warn!(%instance, error = %error.chain(), "what was mounted for the instance was not removed");
    }
    if let Err(error) = durable::remove(&context.places.record(instance)) {
        tracing::warn!(%instance, %error, "the instance's record was not removed");
    }
    // When `identityd` is away it learns of it later, by itself or from the next comparison of records.
    if let Err(error) = context.identityd.call(questions::Stopped { instance: instance.to_owned() }).await {
        tracing::debug!(%instance, %error, "identityd was not told of the end");
    }
    context.gone(instance);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_folder_than_the_one_opened_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let opened = std::fs::File::open(folder.path()).unwrap();
        // This process sees another folder there, or none.
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(check_mounted(pid, &opened.into()).is_err());
    }
}
