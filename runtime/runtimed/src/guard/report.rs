//! Says what was changed from outside and put back: on the board at once, to `identityd` at a rate that nobody drives up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::control::{Origin, questions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::error::RunError;
use crate::identity::CallError;

/// Time in which a subject is told of once; what comes meanwhile is counted.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Reports that wait for `identityd`.
const WAITING_MAX: usize = 64;
const RETRY: Duration = Duration::from_secs(1);

/// Reports of repairs and losses to the board and to `identityd`, bounded for each subject.
#[derive(Debug)]
pub struct Reports {
    context: Arc<Context>,
    /// One for each subject: modules and a few fixed ones.
    subjects: BTreeMap<String, Subject>,
    waiting: mpsc::Sender<Refusal>,
    lost: bool,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Subject {
    told: Instant,
    since: u32,
    last: String,
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reports {
    pub fn start(context: Arc<Context>) -> Self {
        let (waiting, told) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(tell(Arc::clone(&context), told));
        Self { context, subjects: BTreeMap::new(), waiting, lost: false, task }
    }

    /// Reports a change from outside, which was put back after `took`.
    pub fn altered(&mut self, subject: &str, what: &str, took: Duration) {
        let milliseconds = took.as_millis();
        let text = if took.is_zero() {
            what.to_owned()
        } else {
            format!("{what}; put back after {milliseconds} ms")
        };
        tracing::warn!(subject, %text, "what is enforced was changed from outside");
        self.context.board.repaired(self.context.clock.now(), format!("{subject}: {text}"));
        let now = Instant::now();
        match self.subjects.get_mut(subject) {
            Some(known) if now.duration_since(known.told) < TELL_EVERY => {
                known.since = known.since.saturating_add(1);
                known.last = text;
            }
            _ => {
                self.subjects
                    .insert(subject.to_owned(), Subject { told: now, since: 0, last: String::new() });
                self.tell(&Refusal::new(Reason::EnforcementAltered, subject, text));
            }
        }
    }

    /// Tells of what was only counted.
    pub fn flush(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        self.subjects.retain(|name, subject| {
            let over = now.duration_since(subject.told) >= TELL_EVERY;
            if over && subject.since > 0 {
                let text = format!("{} more times, the last: {}", subject.since, subject.last);
                due.push(Refusal::new(Reason::EnforcementAltered, name, text));
                subject.since = 0;
                subject.told = now;
                return true;
            }
            !over
        });
        for refusal in &due {
            self.tell(refusal);
        }
    }

    /// Reports that something could not be put back.
    pub fn lost(&mut self, error: &RunError) {
        let refusal = Refusal::new(Reason::EnforcementLost, "gateway", error.chain());
        if !std::mem::replace(&mut self.lost, true) {
            tracing::error!(%refusal, "what is enforced cannot be put back");
            self.tell(&refusal);
        }
        self.context.board.enforcement_lost(Some(refusal));
    }

    /// Everything was looked at and is in place.
    pub fn whole(&mut self) {
        if std::mem::take(&mut self.lost) {
            tracing::info!("what is enforced is in place again");
        }
        self.context.board.enforcement_lost(None);
    }

    /// Queues a refusal for `identityd`; dropped, with a line in the log, when too many wait.
    pub fn tell(&self, refusal: &Refusal) {
        if self.waiting.try_send(refusal.clone()).is_err() {
            tracing::warn!(%refusal, "a report to identityd was dropped: too many wait");
        }
    }
}

/// Tells `identityd`, as soon as it is there.
async fn tell(context: Arc<Context>, mut waiting: mpsc::Receiver<Refusal>) {
    while let Some(refusal) = waiting.recv().await {
        let refused = questions::Refused { origin: Origin::Enforcer, refusal };
        while let Err(CallError::Away(error)) = context.identityd.call(refused.clone()).await {
            tracing::debug!(%error, "identityd is away and hears of a change later");
            tokio::time::sleep(RETRY).await;
        }
    }
}
