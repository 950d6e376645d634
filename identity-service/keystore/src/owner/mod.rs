//! The one thread that owns the connection to a device (a TPM, a PKCS#11 token). Everyone else sends it requests
//! with a deadline, and [`queue`] says who is next.
//!
//! A request is a function of the connection that may be run again: when the device was gone for a moment (power cut,
//! simulator restarted, token pulled), the owner connects anew and repeats it, a bounded number of times.

mod queue;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use self::queue::Priority;
use self::queue::{Queue, Refused, WAITING_MAX};
use crate::error::KeystoreError;

/// Longest wait of a caller: a chip needs up to 3 s for an RSA primary, and others may be before it.
const DEADLINE: Duration = Duration::from_secs(30);
/// Tries of a request when the device is not there.
const ATTEMPTS_MAX: u32 = 8;
/// Tries when its answers make no sense.
const ATTEMPTS_GARBLED_MAX: u32 = 2;
/// The first pause between attempts; it doubles. Eight attempts take 6 seconds.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest wait of closing for the request that runs. A device that hangs holds its thread for ever; then it is left.
const CLOSING: Duration = Duration::from_secs(3);

/// Failure of a request to a device, inside the owner thread.
pub(crate) enum Fault {
    /// The connection or the device's volatile state is gone: connect anew and repeat.
    Lost(String),
    /// The answer makes no sense: connect anew and repeat, but soon give up and report this.
    Garbled(KeystoreError),
    Final(KeystoreError),
}

impl From<KeystoreError> for Fault {
    fn from(error: KeystoreError) -> Self {
        Self::Final(error)
    }
}

/// Way to a device.
pub(crate) trait Connector: Send + 'static {
    /// Made and used on the owner thread only.
    type Connection;

    /// Name for people, such as "the TPM at `/dev/tpmrm0`".
    fn name(&self) -> String;

    fn connect(&mut self) -> Result<Self::Connection, Fault>;

    /// Adds to an error what the device can tell about it.
    fn explain(&mut self, _: &mut Self::Connection, error: KeystoreError) -> KeystoreError {
        error
    }
}

type Job<C> = Box<dyn FnOnce(&mut Link<C>) + Send>;

pub(crate) struct Owner<C: Connector> {
    queue: Arc<Queue<Job<C>>>,
    name: String,
    deadline: Duration,
    /// The process that has the thread.
    process: u32,
    /// Disconnects when the thread ends.
    ended: Mutex<Receiver<()>>,
}

impl<C: Connector> Owner<C> {
    pub(crate) fn start(connector: C) -> Result<Self, KeystoreError> {
        Self::with_deadline(connector, DEADLINE)
    }

    pub(crate) fn with_deadline(connector: C, deadline: Duration) -> Result<Self, KeystoreError> {
        let queue = Arc::new(Queue::<Job<C>>::new());
        let jobs = Arc::clone(&queue);
        let name = connector.name();
        let (running, ended) = sync_channel(0);
        std::thread::Builder::new()
            .name("keystore".into())
            .spawn(move || work(connector, &jobs, running))
            .map_err(|error| KeystoreError::Unreachable { store: name.clone(), detail: error.to_string() })?;
        Ok(Self { queue, name, deadline, process: std::process::id(), ended: Mutex::new(ended) })
    }

    fn unreachable(&self, detail: &str) -> KeystoreError {
        KeystoreError::Unreachable { store: self.name.clone(), detail: detail.to_owned() }
    }

    /// Has the owner run `work` and waits for the result. `work` must be safe to repeat.
    pub(crate) fn request<T: Send + 'static>(
        &self,
        priority: Priority,
        mut work: impl FnMut(&mut C::Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, KeystoreError> {
        // A child has the connection's memory but not the thread, and must not talk over its parent's connection.
        if self.process != std::process::id() {
            return Err(KeystoreError::Request(
                "a store belongs to the process that opened it, not to its children",
            ));
        }
        let deadline = Instant::now() + self.deadline;
        let (answer, answered) = sync_channel(1);
        let job: Job<C> = Box::new(move |link| {
            // Nobody waits for the answer of a request that is past its deadline.
            if Instant::now() < deadline {
                drop(answer.send(link.run(deadline, &mut work)));
            }
        });
        self.queue.push(priority, job).map_err(|refused| match refused {
            Refused::Full => KeystoreError::Busy { waiting: WAITING_MAX },
            Refused::Closed => self.unreachable("the store is closed"),
        })?;
        match answered.recv_timeout(self.deadline) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                Err(KeystoreError::Timeout { seconds: self.deadline.as_secs() })
            }
            // It was dropped unanswered: too late, or the library underneath panicked.
            Err(RecvTimeoutError::Disconnected) => Err(self.unreachable("the request was given up")),
        }
    }
}

/// The owner thread. The libraries underneath slice what the device sent by lengths that the device sent; a panic in
/// one costs one request and the connection, not the store.
fn work<C: Connector>(connector: C, jobs: &Queue<Job<C>>, running: SyncSender<()>) {
    let mut link = Link { connector, connection: None };
    while let Some(job) = jobs.pop() {
        if catch_unwind(AssertUnwindSafe(|| job(&mut link))).is_err() {
            link.connection = None;
        }
    }
    drop(link);
    drop(running);
}

impl<C: Connector> Drop for Owner<C> {
    fn drop(&mut self) {
        self.queue.close();
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.process == std::process::id() && ended.recv_timeout(CLOSING) == Err(RecvTimeoutError::Timeout)
        {
            tracing::warn!(store = self.name, "it hangs; its thread is left behind");
        }
    }
}

struct Link<C: Connector> {
    connector: C,
    connection: Option<C::Connection>,
}

impl<C: Connector> Link<C> {
    fn run<T>(
        &mut self,
        deadline: Instant,
        work: &mut impl FnMut(&mut C::Connection) -> Result<T, Fault>,
    ) -> Result<T, KeystoreError> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let fault = match self.connection().and_then(&mut *work) {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            let detail = match fault {
                Fault::Final(error) => {
                    return Err(match &mut self.connection {
                        Some(connection) => self.connector.explain(connection, error),
                        None => error,
                    });
                }
                Fault::Garbled(error) if attempt >= ATTEMPTS_GARBLED_MAX => return Err(error),
                Fault::Garbled(error) => error.to_string(),
                Fault::Lost(detail) => detail,
            };
            // Handles of a device that lost power mean nothing: a new connection starts clean.
            self.connection = None;
            if attempt == ATTEMPTS_MAX || Instant::now() + pause >= deadline {
                return Err(KeystoreError::Unreachable { store: self.connector.name(), detail });
            }
            tracing::debug!(store = self.connector.name(), detail, attempt, "it is away; trying again");
            std::thread::sleep(pause);
            pause *= 2;
            attempt += 1;
        }
    }

    fn connection(&mut self) -> Result<&mut C::Connection, Fault> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            empty => Ok(empty.insert(self.connector.connect()?)),
        }
    }
}

#[cfg(test)]
mod tests;
