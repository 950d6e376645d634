//! The journal: QoS 1 messages for persistent sessions, each once however many receive it, and retained messages, in one
//! encrypted queue on disk, so that all of them share their syncs.
//!
//! A message's record stays until every receiver has acknowledged it. That a receiver has is written down later and
//! together: what a crash forgets is delivered again. A receiver that is away for long holds on to the oldest records;
//! when more than half of the journal is for nobody, the oldest that are for somebody are appended again, under their
//! old numbers, and the front is let go. A retained message stays until the one after it on its topic is on disk, and is
//! not copied while that is on its way: in the journal, the newer one is always behind.

use std::time::Duration;

use edgewarden_mqtt::broker::durable::{Saved, SavedRetained};
use edgewarden_names::{ErrorChain, Principal, Reason, Refusal};
use edgewarden_platform::reserve::is_behind;
use edgewarden_queue::{Appending, Queue, QueueError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::index::Index;
use super::record::{self, Record};
use crate::event::Event;

/// Acknowledgements are written down together, this long after the first.
const SETTLE_AFTER: Duration = Duration::from_millis(200);
const SETTLED_MAX: usize = 4096;
/// Read at once for cleaning.
const CLEAN_RECORDS: usize = 1024;
const CLEAN_BYTES: usize = 1024 * 1024;

/// A task of the hub for the journal. Bounded by the connections' credit, which comes back only when a message is on
/// disk.
#[derive(Debug)]
pub(crate) enum ToJournal {
    Append(Saved<Principal>),
    Retain(SavedRetained<Principal>),
    Settled {
        client: Principal,
        number: u64,
    },
    Forgotten {
        client: Principal,
    },
    /// Write down now what is settled.
    Flush {
        done: oneshot::Sender<()>,
    },
}

struct Journal {
    queue: Queue,
    index: Index,
    /// Settled messages whose records are still there, with the records' places.
    settled: Vec<(u64, u64, Principal)>,
    /// The queue's cursor.
    through: u64,
    submitted: mpsc::UnboundedSender<(u64, Appending)>,
}

/// Ends with the hub.
pub(crate) async fn serve(
    queue: Queue,
    index: Index,
    mut requests: mpsc::UnboundedReceiver<ToJournal>,
    events: mpsc::Sender<Event>,
) {
    let (submitted, mut pending) = mpsc::unbounded_channel::<(u64, Appending)>();
    let (placed_out, mut placed) = mpsc::unbounded_channel();
    let completing_events = events.clone();
    // In the order in which they were submitted, which is the order in which they reach the disk.
    let completing = async move {
        while let Some((number, appending)) = pending.recv().await {
            let result = appending.done().await;
            let sequence = result.as_ref().ok().copied();
            let outcome = result.map(drop).map_err(|error| refusal(&error));
            // A hub that is gone has acknowledged nothing more.
            drop(completing_events.send(Event::Journaled { number, outcome }).await);
            // The other end lives as long as this one.
            placed_out.send((number, sequence)).ok();
        }
    };
    let mut journal = Journal { queue, index, settled: Vec::new(), through: 0, submitted };
    let working = async move {
        let mut due = None;
        loop {
            let at = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                biased;
                Some((number, sequence)) = placed.recv() => {
                    journal.index.placed(number, sequence);
                    journal.index.drop_if_unwanted(number);
                }
                () = tokio::time::sleep_until(at), if due.is_some() => {
                    due = None;
                    journal.write_down().await;
                }
                request = requests.recv() => {
                    let Some(request) = request else { return };
                    journal.handle(request, &events).await;
                    if journal.settled.len() >= SETTLED_MAX {
                        due = Some(Instant::now());
                    }
                }
            }
            if due.is_none() && journal.has_progress() {
                due = Some(Instant::now() + SETTLE_AFTER);
            }
        }
    };
    tokio::join!(completing, working);
}

impl Journal {
    async fn handle(&mut self, request: ToJournal, events: &mpsc::Sender<Event>) {
        match request {
            ToJournal::Append(message) => {
                let number = message.number;
                let body = record::encode(&message);
                let bytes = body.as_ref().map_or(0, Vec::len);
                self.index.submitted(number, &message.receivers, bytes);
                self.submit(number, body, events).await;
            }
            ToJournal::Retain(message) => {
                let number = message.number;
                let body = record::encode_retained(&message);
                let bytes = body.as_ref().map_or(0, Vec::len);
                self.index.retain(number, &message.topic, message.payload.is_empty(), bytes);
                self.submit(number, body, events).await;
            }
            ToJournal::Settled { client, number } => {
                if let Some(place) = self.index.settled(number, &client) {
                    self.settled.push((number, place, client));
                }
            }
            ToJournal::Forgotten { client } => self.index.forget(&client),
            ToJournal::Flush { done } => {
                self.write_down().await;
                done.send(()).ok();
            }
        }
    }

    async fn submit(&mut self, number: u64, body: Option<Vec<u8>>, events: &mpsc::Sender<Event>) {
        let submitted = match body {
            Some(body) => self.queue.submit(body).await.map_err(|error| refusal(&error)),
            None => Err(Refusal::new(Reason::RequestTooLarge, "session journal", "a name is too long")),
        };
        match submitted {
            // The other end lives as long as this one.
            Ok(appending) => drop(self.submitted.send((number, appending))),
            Err(refusal) => {
                self.index.placed(number, None);
                drop(events.send(Event::Journaled { number, outcome: Err(refusal) }).await);
            }
        }
        self.clean().await;
    }

    fn has_progress(&self) -> bool {
        !self.settled.is_empty() || self.index.done_through() > self.through
    }

    /// Lets go of the front that is for nobody, and writes down what is settled behind it.
    async fn write_down(&mut self) {
        let through = self.index.done_through();
        let mut settled = std::mem::take(&mut self.settled);
        settled.retain(|(_, place, _)| *place > through);
        let outcome = async {
            if !settled.is_empty() {
                let settled: Vec<_> =
                    settled.into_iter().map(|(number, _, client)| (number, client)).collect();
                if let Some(body) = record::encode_settled(&settled) {
                    let sequence = self.queue.append(body).await?;
                    self.index.passed(sequence);
                }
            }
            self.let_go(through).await
        };
        if let Err(error) = outcome.await {
            // What is not written down is delivered again after a crash, no worse.
            tracing::warn!(error = %ErrorChain(&error), "acknowledgements of messages are not on disk");
        }
    }

    async fn let_go(&mut self, through: u64) -> Result<(), QueueError> {
        if through > self.through {
            self.queue.acknowledge(through).await?;
            self.through = through;
        }
        Ok(())
    }

    /// One step of cleaning, if there is too much that is for nobody.
    async fn clean(&mut self) {
        let status = self.queue.status();
        let slack = status.bytes_max / 8;
        if status.bytes <= self.index.bytes().saturating_mul(2).saturating_add(slack) {
            return;
        }
        if let Err(error) = self.clean_step().await {
            tracing::warn!(error = %ErrorChain(&error), "the journal of messages cannot be cleaned");
        }
    }

    async fn clean_step(&mut self) -> Result<(), QueueError> {
        let records = self.queue.read(CLEAN_RECORDS, CLEAN_BYTES).await?;
        let mut last = 0;
        let mut copies = Vec::new();
        for stored in records {
            let copy = match record::decode(&stored.body) {
                Some(Record::Message(mut message)) => {
                    let number = message.number;
                    self.index.receivers(number, stored.sequence).and_then(|receivers| {
                        message.receivers = receivers;
                        Some((number, record::encode(&message)?))
                    })
                }
                // What is behind it waits as well, for a moment.
                Some(Record::Retained(message)) if self.index.is_retaining(&message.topic) => break,
                Some(Record::Retained(message)) => self
                    .index
                    .is_retained(message.number, stored.sequence)
                    .then_some((message.number, stored.body)),
                _ => None,
            };
            last = stored.sequence;
            if let Some((number, body)) = copy {
                copies.push((number, self.queue.submit(body).await?));
            }
        }
        for (number, copy) in copies {
            let sequence = copy.done().await?;
            self.index.placed(number, Some(sequence));
        }
        self.let_go(last.min(self.index.done_through())).await
    }
}

fn refusal(error: &QueueError) -> Refusal {
    let reason = match error {
        QueueError::Full { .. } => Reason::QueueFull,
        QueueError::TooLarge(_) => Reason::RequestTooLarge,
        error if is_behind(error) => Reason::Storage,
        _ => Reason::Internal,
    };
    Refusal::new(reason, "session journal", ErrorChain(error))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;
    use std::sync::Arc;

    use edgewarden_mqtt::TopicName;
    use edgewarden_mqtt::broker::durable::Document;
    use edgewarden_names::{LeafName, ModuleName};
    use zeroize::Zeroizing;

    use super::*;

    const BYTES_MAX: u64 = 256 * 1024;

    fn module(name: &str) -> Principal {
        Principal::Module(ModuleName::parse(name).unwrap())
    }

    fn message(number: u64, receivers: &[&str]) -> Saved<Principal> {
        Saved {
            number,
            receivers: receivers.iter().map(|name| module(name)).collect(),
            from: Principal::Leaf(LeafName::parse("sensor-1").unwrap()),
            topic: TopicName::parse("t").unwrap(),
            payload: Arc::from(vec![7; 500]),
            retain: false,
        }
    }

    /// The journal as a new process finds it.
    async fn open(folder: &Path, sessions: &[&str]) -> (Queue, Index, Vec<Saved<Principal>>) {
        let (queue, index, messages, _) = open_all(folder, sessions).await;
        (queue, index, messages)
    }

    async fn open_all(
        folder: &Path,
        sessions: &[&str],
    ) -> (Queue, Index, Vec<Saved<Principal>>, Vec<SavedRetained<Principal>>) {
        let queue = Queue::open(folder, Zeroizing::new([1; 32]), BYTES_MAX).await.unwrap();
        let records = queue.read(usize::MAX, usize::MAX).await.unwrap();
        let records = records
            .into_iter()
            .map(|stored| (stored.sequence, record::decode(&stored.body).unwrap(), stored.body.len()));
        let sessions: HashMap<_, _> = sessions
            .iter()
            .map(|name| (module(name), Document { since: 5, ..Document::default() }))
            .collect();
        let (index, messages, retained) = Index::rebuild(records.collect(), &sessions);
        (queue, index, messages, retained)
    }

    /// Retained messages are replaced, removed and left alone, many times what fits, beside messages; after each run the
    /// newest of each topic is there.
    #[tokio::test]
    async fn the_newest_retained_message_of_each_topic_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut expected: HashMap<String, u64> = HashMap::new();
        let mut number = 10;
        for run in 0..3 {
            let (queue, index, _, restored) = open_all(folder.path(), &["here"]).await;
            let found: HashMap<String, u64> =
                restored.iter().map(|one| (one.topic.to_string(), one.number)).collect();
            assert_eq!(found, expected, "run {run}");
            let (requests, to_journal) = mpsc::unbounded_channel();
            let (events, mut told) = mpsc::channel(64);
            let serving = tokio::spawn(serve(queue.clone(), index, to_journal, events));
            for n in 0..600 {
                // Two of one topic are on their way at once; one topic is set once and never again.
                let topics = if n == 0 && run == 0 { vec!["once"] } else { vec!["a", "b", "a", "c"] };
                for topic in &topics {
                    number += 1;
                    let ends = *topic == "c" && n % 2 == 1;
                    let payload = if ends { Vec::new() } else { vec![7; 400] };
                    requests
                        .send(ToJournal::Retain(SavedRetained {
                            number,
                            from: module("p"),
                            topic: TopicName::parse(topic).unwrap(),
                            payload: Arc::from(payload),
                            qos: edgewarden_mqtt::packet::Qos::AtLeastOnce,
                        }))
                        .unwrap();
                    if ends {
                        expected.remove(*topic);
                    } else {
                        expected.insert((*topic).to_owned(), number);
                    }
                }
                number += 1;
                requests.send(ToJournal::Append(message(number, &["here"]))).unwrap();
                requests.send(ToJournal::Settled { client: module("here"), number }).unwrap();
                for _ in 0..=topics.len() {
                    let Some(Event::Journaled { outcome, .. }) = told.recv().await else { panic!() };
                    assert_eq!(outcome, Ok(()), "run {run}, {n}");
                }
            }
            drop(requests);
            serving.await.unwrap();
            queue.close().await;
        }
    }

    /// Several times what fits goes through, while what is for one that is away stays and is never lost, nor does anything
    /// come twice for one that has settled it.
    #[tokio::test]
    async fn what_is_for_nobody_is_cleaned_and_what_is_for_somebody_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut waiting = Vec::new();
        let mut number = 10;
        for run in 0..3 {
            let (queue, index, restored) = open(folder.path(), &["here", "away"]).await;
            let numbers: Vec<u64> = restored.iter().map(|message| message.number).collect();
            assert_eq!(numbers, waiting, "run {run}");
            assert!(restored.iter().all(|message| message.receivers == [module("away")]), "run {run}");
            let (requests, to_journal) = mpsc::unbounded_channel();
            let (events, mut told) = mpsc::channel(64);
            let serving = tokio::spawn(serve(queue.clone(), index, to_journal, events));
            for n in 0..1500 {
                number += 1;
                // The oldest of a run, and some in between, are for the one that is away as well.
                let away = n % 300 == 0;
                let receivers: &[&str] = if away { &["away", "here"] } else { &["here"] };
                requests.send(ToJournal::Append(message(number, receivers))).unwrap();
                let Some(Event::Journaled { number: stored, outcome }) = told.recv().await else { panic!() };
                assert_eq!((stored, outcome), (number, Ok(())), "run {run}, message {n}");
                requests.send(ToJournal::Settled { client: module("here"), number }).unwrap();
                waiting.extend(away.then_some(number));
                assert!(queue.status().bytes <= BYTES_MAX);
            }
            let (done, flushed) = oneshot::channel();
            requests.send(ToJournal::Flush { done }).unwrap();
            flushed.await.unwrap();
            drop(requests);
            serving.await.unwrap();
            queue.close().await;
        }
        // A session that began later, and one that is gone, have nothing in it.
        let (queue, index, restored) = open(folder.path(), &["here"]).await;
        assert_eq!((index.len(), restored), (0, Vec::new()));
        queue.close().await;
    }

    #[tokio::test]
    async fn a_full_journal_refuses_and_settling_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let (queue, index, _) = open(folder.path(), &["away"]).await;
        let (requests, to_journal) = mpsc::unbounded_channel();
        let (events, mut told) = mpsc::channel(64);
        let serving = tokio::spawn(serve(queue.clone(), index, to_journal, events));
        let mut number = 10;
        loop {
            number += 1;
            requests.send(ToJournal::Append(message(number, &["away"]))).unwrap();
            let Some(Event::Journaled { outcome, .. }) = told.recv().await else { panic!() };
            if let Err(refusal) = outcome {
                assert_eq!(refusal.reason, Reason::QueueFull);
                break;
            }
        }
        assert!(number > 300, "{number}");
        requests.send(ToJournal::Forgotten { client: module("away") }).unwrap();
        let (done, flushed) = oneshot::channel();
        requests.send(ToJournal::Flush { done }).unwrap();
        flushed.await.unwrap();
        requests.send(ToJournal::Append(message(number + 1, &["away"]))).unwrap();
        let Some(Event::Journaled { outcome, .. }) = told.recv().await else { panic!() };
        assert_eq!(outcome, Ok(()));
        drop(requests);
        serving.await.unwrap();
        queue.close().await;
        let (queue, _, restored) = open(folder.path(), &["away"]).await;
        assert_eq!(restored.len(), 1);
        queue.close().await;
    }
}
