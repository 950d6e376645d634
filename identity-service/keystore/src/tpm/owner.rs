//! The one thread that owns the connection to the TPM. Everyone else sends it requests with a deadline.
//!
//! A request is a function of the connection that may be run again: when the TPM was gone for a moment (power cut,
//! simulator restarted, another user of the chip), the owner connects anew and repeats it, a bounded number of times.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
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
/// The first pause between attempts; it doubles. Eight attempts take 6 seconds.
const PAUSE: Duration = Duration::from_millis(50);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

pub(super) struct Owner {
    queue: Arc<Queue<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Owner {
    pub(super) fn start(transport: Transport) -> Result<Self, KeystoreError> {
        let queue = Arc::new(Queue::<Job>::new());
        let jobs = Arc::clone(&queue);
        let name = transport.to_string();
        let work = move || {
            let mut connection = Connection { transport, context: None };
            while let Some(job) = jobs.pop() {
                job(&mut connection);
            }
        };
        let thread = std::thread::Builder::new()
            .name("tpm".into())
            .spawn(work)
            .map_err(|error| KeystoreError::Unreachable { transport: name, detail: error.to_string() })?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Has the owner run `work` and waits for the result. `work` must be safe to repeat.
    pub(super) fn request<T: Send + 'static>(
        &self,
        priority: Priority,
        mut work: impl FnMut(&mut Context) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, KeystoreError> {
        let deadline = Instant::now() + DEADLINE;
        let (answer, answered) = sync_channel(1);
        let job: Job = Box::new(move |connection| {
            // Nobody waits for the answer of a request that is past its deadline.
            if Instant::now() < deadline {
                drop(answer.send(connection.run(deadline, &mut work)));
            }
        });
        self.queue.push(priority, job).map_err(|refused| match refused {
            Refused::Full => KeystoreError::Busy { waiting: WAITING_MAX },
            Refused::Closed => KeystoreError::Timeout { seconds: 0 },
        })?;
        match answered.recv_timeout(DEADLINE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(KeystoreError::Timeout { seconds: DEADLINE.as_secs() })
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
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
