//! Connections of a module's socket: its callers, and strangers, who have places of their own.

use std::time::Duration;

use edgewarden_platform::accepting::Accepting;
use edgewarden_platform::harden::is_reserved;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// The connections that are served, by who made them.
#[derive(Debug)]
pub struct Connections {
    accepting: Accepting,
    callers: JoinSet<()>,
    strangers: JoinSet<()>,
    callers_max: usize,
    strangers_max: usize,
}

impl Connections {
    /// `what` names the connections in the log: "to the Workload API".
    pub fn new(what: &'static str, callers_max: usize, strangers_max: usize) -> Self {
        Self {
            accepting: Accepting::new(what),
            callers: JoinSet::new(),
            strangers: JoinSet::new(),
            callers_max,
            strangers_max,
        }
    }

    /// The next connection. Cancel-safe.
    pub async fn next(&mut self, listener: &UnixListener) -> UnixStream {
        loop {
            tokio::select! {
                Some(_) = self.callers.join_next() => {}
                Some(_) = self.strangers.join_next() => {}
                (stream, _) = self.accepting.next(|| listener.accept()) => {
                    if is_reserved(&stream) {
                        tracing::warn!("connection closed: this process has too many files open");
                    } else {
                        return stream;
                    }
                }
            }
        }
    }

    /// Serves a connection of a caller, or drops it when all places are taken.
    pub fn caller(&mut self, serving: impl Future<Output = ()> + Send + 'static) {
        take(&mut self.callers, self.callers_max, serving);
    }

    /// Serves a connection of a stranger, or drops it when all places are taken.
    pub fn stranger(&mut self, serving: impl Future<Output = ()> + Send + 'static) {
        take(&mut self.strangers, self.strangers_max, serving);
    }

    /// Closes all connections, those of callers after `last_words` at the latest. Strangers are not waited for: they could
    /// hold up every end.
    pub async fn close(mut self, last_words: Duration) {
        let told = async { while self.callers.join_next().await.is_some() {} };
        // A caller that does not read cannot be told.
        drop(tokio::time::timeout(last_words, told).await);
        self.callers.shutdown().await;
        self.strangers.shutdown().await;
    }
}

fn take(places: &mut JoinSet<()>, max: usize, serving: impl Future<Output = ()> + Send + 'static) {
    if places.len() < max {
        places.spawn(serving);
    } else {
        tracing::debug!("connection closed: too many on this socket");
    }
}
