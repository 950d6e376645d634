//! The Workload API sockets that are open, their folders, and the processes that they are for.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgewarden_decisions::records::ProcessSeen;
use edgewarden_iotedge_api::server::Door;
use edgewarden_platform::kept_socket::bind_anew;
use edgewarden_platform::process::Process;
use edgewarden_platform::socket_file::SocketFile;
use edgewarden_protocol::layout::Layout;
use edgewarden_workload_server as server;
use edgewarden_workload_server::IdentitySource;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

const FOLDER_MODE: u32 = 0o755;
/// Mode of the folder above: who may pass to its own folder need not see whose there are.
const PARENT_MODE: u32 = 0o711;
/// Mode of a socket. Who may connect is judged by the kernel's evidence: a module may run as any user.
const SOCKET_MODE: u32 = 0o666;

/// Calls of IoT Edge's API that run at a time, of all modules.
const IOTEDGE_THREADS: usize = 32;
/// Time that the sockets have, when the process ends, to tell their streams.
const CLOSING: Duration = Duration::from_secs(2);

/// User of `runtimed`.
pub const ROOT_UID: u32 = 0;
/// Names of Edgewarden's own processes that have sockets from the start.
pub const RUNTIMED: &str = "runtimed";
pub const GATEWAYD: &str = "gatewayd";

/// The sockets that are open.
#[derive(Debug)]
pub struct Sockets {
    layout: Layout,
    open: Mutex<HashMap<String, OpenSocket>>,
    pub iotedge_threads: Arc<Semaphore>,
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
    /// Files of the socket and of its IoT Edge API.
    files: Vec<SocketFile>,
}

/// A process as `/proc` shows it now.
pub fn look_at(pid: i32) -> io::Result<(ProcessSeen, Process)> {
    let process = Process::open(pid)?;
    let seen = ProcessSeen { pid, pid_started: process.started(), cgroup: process.cgroup()? };
    Ok((seen, process))
}

impl Sockets {
    /// No socket is open yet.
    pub fn new(layout: Layout) -> Self {
        let iotedge_threads = Arc::new(Semaphore::new(IOTEDGE_THREADS));
        Self { layout, open: Mutex::default(), iotedge_threads }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, OpenSocket>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds the socket of a name and serves it until [`Sockets::remove`]. A folder that is there already stays the
    /// same folder: a container that outlived us has it mounted.
    pub fn bind(&self, name: &str, source: Arc<dyn IdentitySource>) -> io::Result<()> {
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
    pub fn bind_iotedge(&self, name: &str, door: Door) -> io::Result<()> {
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

    /// The recorded process of an instance.
    pub fn process(&self, instance: &str) -> Option<Process> {
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
}

/// Sets the permissions of a file that exists.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
