//! The queue's one thread, and the handle to it.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

use crate::Record;
use crate::epoch::Epoch;
use crate::error::QueueError;
use crate::format::{FRAME_RECORDS_MAX, GROUP_BYTES};
use crate::log::Log;
use crate::shares::SenderOf;

/// Requests that wait for the thread; more make their callers wait.
const COMMANDS_MAX: usize = 1024;

/// A handle; clones share one queue. The last one's drop ends the thread once it has done what was asked.
#[derive(Debug, Clone)]
pub struct Queue {
    id: Arc<str>,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
}

/// A record on its way to the disk.
#[derive(Debug)]
pub struct Appending(oneshot::Receiver<Result<u64, QueueError>>);

impl Appending {
    /// The record's sequence number, once it is on disk. Dropping the future does not take the record back.
    pub async fn done(self) -> Result<u64, QueueError> {
        self.0.await.map_err(|_| QueueError::Stopped)?
    }
}

/// Fill of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Records that the fleet has not acknowledged.
    pub messages: u64,
    /// On disk.
    pub bytes: u64,
    pub bytes_max: u64,
}

enum Command {
    Append { body: Vec<u8>, done: oneshot::Sender<Result<u64, QueueError>> },
    Read { records_max: usize, bytes_max: usize, done: oneshot::Sender<Result<Vec<Record>, QueueError>> },
    Acknowledge { through: u64, done: oneshot::Sender<Result<(), QueueError>> },
    BeginEpoch { done: oneshot::Sender<Result<Epoch, QueueError>> },
    Close { done: oneshot::Sender<()> },
}

impl Queue {
    /// Opens the queue in `folder`, or makes it, for one sender. Every byte of it is checked first.
    pub async fn open(folder: &Path, key: Zeroizing<[u8; 32]>, bytes_max: u64) -> Result<Self, QueueError> {
        Self::open_shared(folder, key, bytes_max, |_| None).await
    }

    /// The same for senders of which none may fill it for the others.
    pub async fn open_shared(
        folder: &Path,
        key: Zeroizing<[u8; 32]>,
        bytes_max: u64,
        sender_of: SenderOf,
    ) -> Result<Self, QueueError> {
        let folder = folder.to_owned();
        let (commands, requests) = mpsc::channel(COMMANDS_MAX);
        let (status_out, status) = watch::channel(Status { messages: 0, bytes: 0, bytes_max });
        let (opened, opening) = oneshot::channel();
        let thread = std::thread::Builder::new().name("queue".into());
        let spawned = thread.spawn(move || match Log::open(&folder, key, bytes_max, sender_of) {
            Ok(log) => {
                report(&log, &status_out);
                drop(opened.send(Ok(hex::encode(log.id))));
                serve(log, requests, &status_out);
            }
            Err(error) => drop(opened.send(Err(error))),
        });
        drop(spawned.map_err(|_| QueueError::Stopped)?);
        let id = opening.await.map_err(|_| QueueError::Stopped)??;
        Ok(Self { id: id.into(), commands, status })
    }

    /// 32 hexadecimal digits; another one when the queue is made anew.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Resolves with the record's sequence number when the record is on disk.
    pub async fn append(&self, body: Vec<u8>) -> Result<u64, QueueError> {
        self.submit(body).await?.done().await
    }

    /// Puts the record in line; [`Appending::done`] resolves as [`Queue::append`] does. Records get their numbers in the
    /// order of the calls that have returned.
    pub async fn submit(&self, body: Vec<u8>) -> Result<Appending, QueueError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(Command::Append { body, done }).await.map_err(|_| QueueError::Stopped)?;
        Ok(Appending(answer))
    }

    /// The oldest records that are not acknowledged, at least one if there is one.
    pub async fn read(&self, records_max: usize, bytes_max: usize) -> Result<Vec<Record>, QueueError> {
        self.ask(|done| Command::Read { records_max, bytes_max, done }).await?
    }

    /// Everything up to `through` is delivered. Durable when it resolves.
    pub async fn acknowledge(&self, through: u64) -> Result<(), QueueError> {
        self.ask(|done| Command::Acknowledge { through, done }).await?
    }

    /// Names what is not acknowledged, and what comes, by a new epoch. Durable when it resolves.
    pub async fn begin_epoch(&self) -> Result<Epoch, QueueError> {
        self.ask(|done| Command::BeginEpoch { done }).await?
    }

    /// Fill after the last append or acknowledgement.
    pub fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// Changes with each append and acknowledgement.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Ends the thread after what was asked before; other handles then get [`QueueError::Stopped`].
    pub async fn close(self) {
        drop(self.ask(|done| Command::Close { done }).await);
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, QueueError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| QueueError::Stopped)?;
        answer.await.map_err(|_| QueueError::Stopped)
    }
}

fn serve(mut log: Log, mut requests: mpsc::Receiver<Command>, status: &watch::Sender<Status>) {
    let mut next = requests.blocking_recv();
    while let Some(command) = next.take() {
        match command {
            Command::Append { body, done } => {
                let mut group = vec![body];
                let mut waiting = vec![done];
                next = gather(&mut requests, &mut group, &mut waiting);
                let results = log.append(&group);
                report(&log, status);
                for (done, result) in waiting.into_iter().zip(results) {
                    drop(done.send(result));
                }
            }
            Command::Read { records_max, bytes_max, done } => {
                drop(done.send(log.read(records_max, bytes_max)));
            }
            Command::Acknowledge { through, done } => {
                let result = log.acknowledge(through);
                report(&log, status);
                drop(done.send(result));
            }
            Command::BeginEpoch { done } => drop(done.send(log.begin_epoch())),
            Command::Close { done } => {
                drop(log);
                // The asker may be gone; the queue is closed either way.
                done.send(()).ok();
                return;
            }
        }
        if next.is_none() {
            next = requests.blocking_recv();
        }
    }
}

/// Takes the appends that wait already into the group; returns the request that ended it.
fn gather(
    requests: &mut mpsc::Receiver<Command>,
    group: &mut Vec<Vec<u8>>,
    waiting: &mut Vec<oneshot::Sender<Result<u64, QueueError>>>,
) -> Option<Command> {
    let mut bytes: usize = group.iter().map(Vec::len).sum();
    while bytes < GROUP_BYTES && group.len() < FRAME_RECORDS_MAX {
        match requests.try_recv() {
            Ok(Command::Append { body, done }) => {
                bytes = bytes.saturating_add(body.len());
                group.push(body);
                waiting.push(done);
            }
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
    None
}

fn report(log: &Log, status: &watch::Sender<Status>) {
    let messages = log.next_sequence().saturating_sub(1).saturating_sub(log.acknowledged());
    status.send_modify(|status| {
        status.messages = messages;
        status.bytes = log.bytes();
    });
}
