//! The one thread that owns the connection to the TPM. Everyone else sends it requests with a deadline.
//!
//! A request is a function of the connection that may be run again: when the TPM was gone for a moment (power cut,
//! simulator restarted, another user of the chip), the owner connects anew and repeats it, a bounded number of times.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tss_esapi::Context;

use super::Transport;
use super::link::{self, Fault};
use super::queue::{Priority, Queue, Refused, WAITING_MAX};
use crate::KeystoreError;

/// How long a caller waits: a chip needs up to 3 s for an RSA primary, and others may be before it.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often a request is run when the TPM is not there.
const ATTEMPTS_MAX: u32 = 8;
/// How often when its answers make no sense.
const ATTEMPTS_GARBLED_MAX: u32 = 2;
/// The first pause between attempts; it doubles. Eight attempts take 6 seconds.
const PAUSE: Duration = Duration::from_millis(50);
/// How long closing waits for the request that runs. A TPM that hangs holds its thread for ever; then it is left.
const CLOSING: Duration = Duration::from_secs(3);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

pub(super) struct Owner {
    queue: Arc<Queue<Job>>,
    transport: String,
    deadline: Duration,
    /// Disconnects when the thread ends.
    ended: Mutex<Receiver<()>>,
}

impl Owner {
    pub(super) fn start(transport: Transport) -> Result<Self, KeystoreError> {
        Self::with_deadline(transport, DEADLINE)
    }

    fn with_deadline(transport: Transport, deadline: Duration) -> Result<Self, KeystoreError> {
        let queue = Arc::new(Queue::<Job>::new());
        let jobs = Arc::clone(&queue);
        let name = transport.to_string();
        let (running, ended) = sync_channel(0);
        std::thread::Builder::new()
            .name("tpm".into())
            .spawn(move || work(transport, &jobs, running))
            .map_err(|error| KeystoreError::Unreachable {
                transport: name.clone(),
                detail: error.to_string(),
            })?;
        Ok(Self { queue, transport: name, deadline, ended: Mutex::new(ended) })
    }

    fn unreachable(&self, detail: &str) -> KeystoreError {
        KeystoreError::Unreachable { transport: self.transport.clone(), detail: detail.to_owned() }
    }

    /// Has the owner run `work` and waits for the result. `work` must be safe to repeat.
    pub(super) fn request<T: Send + 'static>(
        &self,
        priority: Priority,
        mut work: impl FnMut(&mut Context) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, KeystoreError> {
        let deadline = Instant::now() + self.deadline;
        let (answer, answered) = sync_channel(1);
        let job: Job = Box::new(move |connection| {
            // Nobody waits for the answer of a request that is past its deadline.
            if Instant::now() < deadline {
                drop(answer.send(connection.run(deadline, &mut work)));
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

/// The owner thread. The wrapper of the TSS slices what the TPM sent by lengths that the TPM sent; a panic in it costs
/// one request and the connection, not the store.
fn work(transport: Transport, jobs: &Queue<Job>, running: SyncSender<()>) {
    let mut connection = Connection { transport, context: None };
    while let Some(job) = jobs.pop() {
        if catch_unwind(AssertUnwindSafe(|| job(&mut connection))).is_err() {
            connection.context = None;
        }
    }
    drop(connection);
    drop(running);
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.queue.close();
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(CLOSING) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(transport = self.transport, "the TPM hangs; its thread is left behind");
        }
    }
}

struct Connection {
    transport: Transport,
    context: Option<Context>,
}

impl Connection {
    fn run<T>(
        &mut self,
        deadline: Instant,
        work: &mut impl FnMut(&mut Context) -> Result<T, Fault>,
    ) -> Result<T, KeystoreError> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let fault = match self.context().and_then(&mut *work) {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            let detail = match fault {
                Fault::Final(error) => return Err(self.with_retry_time(error)),
                Fault::Garbled(error) if attempt >= ATTEMPTS_GARBLED_MAX => return Err(error),
                Fault::Garbled(error) => error.to_string(),
                Fault::Lost(detail) => detail,
            };
            // Handles of a TPM that lost power mean nothing: a new connection starts with a sweep.
            self.context = None;
            if attempt == ATTEMPTS_MAX || Instant::now() + pause >= deadline {
                return Err(KeystoreError::Unreachable { transport: self.transport.to_string(), detail });
            }
            tracing::debug!(transport = %self.transport, detail, attempt, "the TPM is away; trying again");
            std::thread::sleep(pause);
            pause *= 2;
            attempt += 1;
        }
    }

    /// Says when a TPM in lockout gives a try back.
    fn with_retry_time(&mut self, error: KeystoreError) -> KeystoreError {
        match (error, &mut self.context) {
            (KeystoreError::Lockout { .. }, Some(context)) => {
                let retry_after_seconds =
                    link::lockout(context).map_or(0, |lockout| lockout.recovery_seconds);
                KeystoreError::Lockout { retry_after_seconds }
            }
            (error, _) => error,
        }
    }

    fn context(&mut self) -> Result<&mut Context, Fault> {
        match &mut self.context {
            Some(context) => Ok(context),
            empty => Ok(empty.insert(link::connect(&self.transport)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Takes connections and says nothing.
    fn mute() -> ([TcpListener; 2], Transport) {
        // The TSS wants the control channel at the next port.
        loop {
            let commands = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = commands.local_addr().unwrap();
            if let Ok(control) = TcpListener::bind((address.ip(), address.port() + 1)) {
                return ([commands, control], Transport::Simulated(address));
            }
        }
    }

    #[test]
    fn a_tpm_that_hangs_costs_callers_their_deadline_and_no_more() {
        let (_listeners, transport) = mute();
        let owner = Owner::with_deadline(transport, Duration::from_millis(10)).unwrap();
        let mut full = false;
        for _ in 0..WAITING_MAX + 2 {
            // The first hangs in the transport; the rest wait for it, until the queue is full.
            let error = owner.request(Priority::Other, |_| Ok(())).unwrap_err();
            assert!(matches!(error, KeystoreError::Timeout { .. } | KeystoreError::Busy { .. }), "{error}");
            full |= matches!(error, KeystoreError::Busy { .. });
        }
        assert!(full);
        drop(owner);
    }

    #[test]
    fn a_panic_underneath_is_an_error_and_not_the_end() {
        let nowhere = Transport::Device("/nonexistent/tpm".into());
        let owner = Owner::with_deadline(nowhere, Duration::from_millis(500)).unwrap();
        owner.queue.push(Priority::Other, Box::new(|_| panic!("as a slice out of range would"))).unwrap();
        let error = owner.request(Priority::Other, |_| Ok(())).unwrap_err();
        assert!(matches!(error, KeystoreError::Unreachable { .. }), "{error}");
    }
}
