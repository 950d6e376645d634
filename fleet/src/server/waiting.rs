//! Gateways whose requests are held, and which of them a change concerns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edgewarden_names::GatewayName;
use tokio::sync::Notify;

use crate::selection::{Labels, selects};

type Waiters = HashMap<GatewayName, HashMap<u64, Waiter>>;

/// Held requests by gateway, several of one gateway too. Each is woken when a change concerns its gateway.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<(u64, Waiters)>);

#[derive(Debug)]
struct Waiter {
    /// Unknown until the gateway has been looked at: until then every change concerns it.
    labels: Option<Arc<Labels>>,
    wake: Arc<Notify>,
}

/// One held request; forgotten when dropped.
#[derive(Debug)]
pub struct Wait<'a> {
    waiting: &'a Waiting,
    gateway: &'a GatewayName,
    number: u64,
    wake: Arc<Notify>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, (u64, Waiters)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to hold a request of this gateway: from here on no change is missed.
    pub fn enter<'a>(&'a self, gateway: &'a GatewayName) -> Wait<'a> {
        let wake = Arc::new(Notify::new());
        let mut all = self.lock();
        all.0 += 1;
        let number = all.0;
        let waiter = Waiter { labels: None, wake: Arc::clone(&wake) };
        all.1.entry(gateway.clone()).or_default().insert(number, waiter);
        Wait { waiting: self, gateway, number, wake }
    }

    /// Wakes the held requests of a gateway of which something has changed.
    pub fn wake(&self, gateway: &GatewayName) {
        let all = self.lock();
        for waiter in all.1.get(gateway).into_iter().flat_map(HashMap::values) {
            waiter.wake.notify_one();
        }
    }

    /// Wakes the held requests of all gateways that this selects. Returns how many were woken.
    pub fn wake_selected(&self, selector: &Labels) -> usize {
        let all = self.lock();
        let concerned =
            |waiter: &&Waiter| waiter.labels.as_ref().is_none_or(|labels| selects(selector, labels));
        let mut woken = 0;
        for waiter in all.1.values().flat_map(HashMap::values).filter(concerned) {
            waiter.wake.notify_one();
            woken += 1;
        }
        woken
    }
}

impl Wait<'_> {
    /// Notes the gateway's labels, from the look that follows [`Waiting::enter`] or a wake.
    pub fn looked(&self, labels: &Labels) {
        let mut all = self.waiting.lock();
        let own = all.1.get_mut(self.gateway).and_then(|waiters| waiters.get_mut(&self.number));
        if let Some(waiter) = own
            && waiter.labels.as_deref() != Some(labels)
        {
            waiter.labels = Some(Arc::new(labels.clone()));
        }
    }

    /// Completes when something has changed since the last time. Cancel-safe.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut all = self.waiting.lock();
        if let Some(waiters) = all.1.get_mut(self.gateway) {
            waiters.remove(&self.number);
            if waiters.is_empty() {
                all.1.remove(self.gateway);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn labels(site: &str) -> Labels {
        Labels::from([("site".to_owned(), site.to_owned())])
    }

    async fn woken(wait: &Wait<'_>) -> bool {
        tokio::time::timeout(Duration::from_millis(20), wait.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_change_wakes_whom_it_concerns() {
        let waiting = Waiting::default();
        let [one, two, three] = ["gw-1", "gw-2", "gw-3"].map(|name| GatewayName::parse(name).unwrap());
        let (clinic, plant, unseen) = (waiting.enter(&one), waiting.enter(&two), waiting.enter(&three));
        clinic.looked(&labels("clinic"));
        plant.looked(&labels("plant"));
        assert_eq!(
            waiting.wake_selected(&labels("clinic")),
            2,
            "the clinic's, and who has not been looked at"
        );
        assert!(woken(&clinic).await && woken(&unseen).await && !woken(&plant).await);
        assert!(!woken(&clinic).await, "once");
        assert_eq!(waiting.wake_selected(&Labels::new()), 3);
        // What came while nobody waited is not lost.
        assert!(woken(&plant).await);
        waiting.wake(&two);
        assert!(woken(&plant).await);
        drop((clinic, plant, unseen));
        assert!(waiting.lock().1.is_empty());
    }
}
