//! Reports of gateways, committed together: one write to the disk for all that came during the last.

use edgewarden_names::{GatewayName, Reason, Refusal, UnixTime};
use edgewarden_protocol::uplink::Report;
use tokio::sync::{mpsc, oneshot};

use crate::Problem;
use crate::store::Store;
use crate::store::devices::NewReport;

/// Most reports of one commit, and most that wait for the next: who comes then waits to be heard.
const BATCH_MAX: usize = 256;

/// Sender of reports to the one task that commits them. Clones share the task.
#[derive(Debug, Clone)]
pub struct Reports(mpsc::Sender<Waiting>);

#[derive(Debug)]
struct Waiting {
    gateway: GatewayName,
    report: Report,
    seen: UnixTime,
    kept: oneshot::Sender<Result<(), Refusal>>,
}

impl Waiting {
    fn report(&self) -> NewReport<'_> {
        NewReport { gateway: &self.gateway, report: &self.report, seen: self.seen }
    }
}

impl Reports {
    /// The sender, and the task that commits what it sends, which runs until it is dropped.
    pub fn new(store: Store) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = mpsc::channel(BATCH_MAX);
        (Self(sender), keep(store, receiver))
    }

    /// Commits a gateway's report. Returns when it is on the disk.
    pub async fn keep(&self, gateway: &GatewayName, report: Report, seen: UnixTime) -> Result<(), Problem> {
        let failed =
            || Problem::from(Refusal::new(Reason::Internal, "report", "the fleet failed; see its log"));
        let (kept, answer) = oneshot::channel();
        self.0.send(Waiting { gateway: gateway.clone(), report, seen, kept }).await.map_err(|_| failed())?;
        Ok(answer.await.map_err(|_| failed())??)
    }
}

async fn keep(store: Store, mut receiver: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let reports: Vec<_> = batch.iter().map(Waiting::report).collect();
        // Said in the log once, however many hear of it.
        let kept = store.keep_reports(&reports).await.map_err(|error| Problem::from(error).into_refusal());
        for one in batch.drain(..) {
            // Who has gone meanwhile needs no answer.
            let _ = one.kept.send(kept.clone());
        }
    }
}
