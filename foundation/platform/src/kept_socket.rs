//! A Unix socket that listens for as long as its owner does, whoever removes its file meanwhile.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::accepting::Accepting;
use crate::socket_file::SocketFile;

/// Interval at which a listener looks for its file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Binds a socket in the place of one that a run before us left.
pub fn bind_anew(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// A listener whose file is put back when somebody removes it.
#[derive(Debug)]
pub struct Kept {
    listener: UnixListener,
    file: SocketFile,
    path: PathBuf,
    mode: u32,
    look: Interval,
    accepting: Accepting,
    /// The file is gone, and that was said.
    is_lost: bool,
}

/// Change of a listener's file.
#[derive(Debug)]
pub enum Change {
    /// It was gone and is there again.
    PutBack,
    /// It is gone and cannot be put back. Said once; it is tried again each second.
    Lost(io::Error),
}

/// Event of a listener that looks after its file.
#[derive(Debug)]
pub enum Event {
    Stream(UnixStream),
    File(Change),
}

impl Kept {
    /// In the place of one that a run before us left. `what` names its connections in the log: "of the command line".
    pub fn bind(path: PathBuf, mode: u32, what: &'static str) -> io::Result<Self> {
        let listener = bind_anew(&path, mode)?;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let file = SocketFile::bound(&path)?;
        Ok(Self { listener, file, path, mode, look, accepting: Accepting::new(what), is_lost: false })
    }

    /// Path that the socket is kept at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cancel-safe.
    pub async fn next(&mut self) -> Event {
        loop {
            tokio::select! {
                (stream, _) = self.accepting.next(|| self.listener.accept()) => return Event::Stream(stream),
                _ = self.look.tick() => {
                    if let Some(change) = self.look() {
                        return Event::File(change);
                    }
                }
            }
        }
    }

    fn look(&mut self) -> Option<Change> {
        if self.file.is_there() {
            return None;
        }
        let bound =
            bind_anew(&self.path, self.mode).and_then(|anew| Ok((anew, SocketFile::bound(&self.path)?)));
        match bound {
            Ok(anew) => {
                (self.listener, self.file) = anew;
                self.is_lost = false;
                Some(Change::PutBack)
            }
            Err(_) if self.is_lost => None,
            Err(error) => {
                self.is_lost = true;
                Some(Change::Lost(error))
            }
        }
    }

    /// Gives each connection to a task of `serve`, `connections_max` at a time, until the future is dropped: a caller too
    /// many waits in the kernel's queue.
    pub async fn serve<F: Future<Output = ()> + Send + 'static>(
        mut self,
        connections_max: usize,
        changed: impl Fn(&Path, Change),
        serve: impl Fn(UnixStream) -> F,
    ) {
        let places = Arc::new(Semaphore::new(connections_max));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let place = tokio::select! {
                // Held before accept.
                place = Arc::clone(&places).acquire_owned() => place,
                _ = self.look.tick() => {
                    if let Some(change) = self.look() {
                        changed(&self.path, change);
                    }
                    continue;
                }
            };
            // Nobody closes it.
            let Ok(place) = place else { return };
            match self.next().await {
                Event::File(change) => changed(&self.path, change),
                Event::Stream(stream) => {
                    let serving = serve(stream);
                    connections.spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
            }
        }
    }
}
