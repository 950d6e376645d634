//! A Unix socket that listens for as long as its owner does, whoever removes its file meanwhile.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Interval, MissedTickBehavior, interval};

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
}

/// Event of a listener that looks after its file: a connection, or the file put back.
#[derive(Debug)]
pub enum Accepted {
    Stream(UnixStream),
    /// The file was gone and is there again.
    PutBack,
}

impl Kept {
    /// In the place of one that a run before us left.
    pub fn bind(path: PathBuf, mode: u32) -> io::Result<Self> {
        let listener = bind_anew(&path, mode)?;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { listener, file: SocketFile::bound(&path)?, path, mode, look })
    }

    /// Path that the socket is kept at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cancel-safe.
    pub async fn accept(&mut self) -> io::Result<Accepted> {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => return Ok(Accepted::Stream(accepted?.0)),
                _ = self.look.tick() => {
                    if !self.file.is_there() {
                        self.listener = bind_anew(&self.path, self.mode)?;
                        self.file = SocketFile::bound(&self.path)?;
                        return Ok(Accepted::PutBack);
                    }
                }
            }
        }
    }
}
