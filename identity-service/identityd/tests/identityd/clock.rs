//! `identityd` on a machine whose clocks go wrong.

use crate::common;

use std::sync::Arc;
use std::time::Duration;

use common::clocks::Clocks;
use common::{DAY, Gateway, document, until};
use edgewarden_names::{LeafName, Reason, UnixTime};
use edgewarden_protocol::control::{LeafAllowed, Reply, Request, Status, TimeBy, ToldTime};

const HOUR: i64 = 3600;

struct Site {
    gateway: Gateway,
    clocks: Arc<Clocks>,
}

impl Site {
    async fn new() -> Self {
        let clocks = Arc::new(Clocks::right());
        let mut gateway = Gateway::new();
        gateway.clocks = Some(Arc::clone(&clocks));
        gateway.start().await.unwrap();
        gateway.join().await;
        gateway.deploy(&document(1)).await;
        let site = Self { gateway, clocks };
        site.works("at first").await;
        site
    }

    async fn told(&self) -> ToldTime {
        match self.gateway.ask(Request::Watch { seen: 0 }).await.unwrap() {
            Reply::Snapshot(snapshot) => snapshot.time,
            other => panic!("{other:?}"),
        }
    }

    /// Time that the other daemons go by.
    async fn now(&self) -> UnixTime {
        UnixTime(u64::try_from((self.told().await.offset_millis + self.clocks.boot_millis()) / 1000).unwrap())
    }

    async fn status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        until(what, async || Some(self.gateway.status().await).filter(|status| wanted(status))).await
    }

    /// A leaf device gets a certificate that every peer takes at the time that is believed, and modules have theirs.
    async fn works(&self, when: &str) {
        let now = self.now().await;
        let status = self
            .status(&format!("certificates {when}"), |status| {
                let ends = status.identities.iter().map(|identity| identity.expires);
                let ends = ends.chain([status.issuing_ca_expires]);
                ends.into_iter().all(|end| end.is_some_and(|end| now < end && end <= now.plus(9 * DAY)))
            })
            .await;
        assert!(!status.identities.is_empty());
        let name = LeafName::parse("sensor-1").unwrap();
        let request = Request::LeafAllow { leaf: name.clone(), lifetime_seconds: 600 };
        let Reply::LeafToken(LeafAllowed { token, .. }) = self.gateway.ask(request).await.unwrap() else {
            panic!()
        };
        let key = common::Key::generate();
        let csr = key.csr();
        let issued = self.gateway.ask(Request::LeafIssue { leaf: name, token, csr }).await;
        let Ok(Reply::Certificate(certificate)) = issued else { panic!("{when}: {issued:?}") };
        let chain: Vec<Vec<u8>> = certificate.chain.iter().map(|der| der.0.clone()).collect();
        let roots = [certificate.root.0.clone()];
        let judged = edgewarden_svid::judge_chain(&chain, &roots, &common::domain(), self.now().await);
        judged.unwrap_or_else(|refusal| panic!("{when}: {refusal}"));
    }

    async fn believes(&self, by: TimeBy) -> Status {
        self.status(&format!("it goes by {by:?}"), |status| status.time.by == by).await
    }

    async fn doubts(&self) {
        self.status("it doubts", |status| status.time.doubted.is_some()).await;
    }
}

#[tokio::test]
async fn a_clock_that_leaps_and_comes_back_changes_no_certificate() {
    let site = Site::new().await;
    let before = site.gateway.status().await;
    for leap in [26 * HOUR, 40 * 24 * HOUR, -26 * HOUR, -400 * 24 * HOUR] {
        let told = site.told().await.offset_millis;
        site.clocks.leap(leap, false);
        site.doubts().await;
        site.clocks.pass(Duration::from_secs(15));
        let status = site.gateway.status().await;
        assert_eq!(status.identities, before.identities, "{leap}");
        assert_eq!(status.issuing_ca_expires, before.issuing_ca_expires, "{leap}");
        assert_eq!(site.told().await.offset_millis, told, "the others go by the same time");
        let refusal = status.refusals.iter().find(|(_, refusal)| refusal.reason == Reason::ClockDoubted);
        assert!(refusal.is_some(), "{:?}", status.refusals);
        site.clocks.leap(-leap, false);
        site.status("no doubt is left", |status| status.time.doubted.is_none()).await;
    }
    site.works("afterwards").await;
    assert!(site.gateway.events().await.contains(&"clock.doubted".to_owned()));
}

#[tokio::test]
async fn a_clock_that_leaps_to_and_fro_does_not_fill_the_audit_log() {
    let site = Site::new().await;
    let offset = site.told().await.offset_millis;
    let heard = async || {
        site.gateway.ask(Request::TimeHeard { offset_millis: offset }).await.unwrap();
    };
    for n in 1..40 {
        site.clocks.leap(n * HOUR, false);
        heard().await;
        assert!(site.gateway.status().await.time.doubted.is_some(), "{n}");
        site.clocks.leap(-n * HOUR, false);
        heard().await;
    }
    let events = site.gateway.events().await;
    let doubts = events.iter().filter(|event| *event == "clock.doubted").count();
    assert!((1..=8).contains(&doubts), "{doubts} of 39");
    // Once it is allowed again, the others are counted.
    site.clocks.pass(Duration::from_secs(1200));
    site.clocks.leap(HOUR, false);
    heard().await;
    let Reply::Audit(entries) = site.gateway.ask(Request::Audit { last: 1000 }).await.unwrap() else {
        panic!()
    };
    let last = entries.iter().rfind(|entry| entry.event == "clock.doubted").unwrap();
    assert!(last.detail.contains("more changes of this kind were not written"), "{}", last.detail);
}

#[tokio::test]
async fn what_was_issued_under_a_false_time_is_issued_anew_when_the_truth_returns() {
    // A day leaves the gateway CA valid, so that everything is issued as of tomorrow; forty do not.
    for leap in [26 * HOUR, 40 * 24 * HOUR] {
        let site = Site::new().await;
        let truth = site.now().await;
        site.clocks.leap(leap, true);
        site.doubts().await;
        site.clocks.pass(Duration::from_secs(61));
        site.believes(TimeBy::TimeService).await;
        assert!(site.now().await.after(truth).as_secs() >= leap.unsigned_abs());
        if leap == 26 * HOUR {
            site.works("by a time that is false").await;
        }
        site.clocks.leap(-leap, true);
        site.doubts().await;
        site.clocks.pass(Duration::from_secs(61));
        site.status("the truth is believed", |status| status.time.doubted.is_none()).await;
        assert!(site.now().await.after(truth) < Duration::from_secs(600));
        site.works("when the truth has returned").await;
        let events = site.gateway.events().await;
        assert_eq!(events.iter().filter(|event| *event == "clock.believed").count(), 2, "{events:?}");
    }
}

#[tokio::test]
async fn a_kill_or_a_reboot_makes_no_leap_true() {
    let mut site = Site::new().await;
    let told = site.told().await.offset_millis;
    site.clocks.leap(26 * HOUR, false);
    site.doubts().await;
    site.gateway.restart().await;
    site.doubts().await;
    assert_eq!(site.told().await.offset_millis, told);
    site.works("after a restart with a clock that is not believed").await;
    // The battery is dead: the machine wakes in 1970, and goes on from what it knew.
    let last = site.now().await;
    site.gateway.stop().await;
    site.clocks.reboot(UnixTime(60));
    site.gateway.start_again().await;
    site.believes(TimeBy::Floor).await;
    let now = site.now().await;
    // The test's machine was off for no time at all: what it has been up is on top.
    assert!(
        now.plus(Duration::from_secs(700)) >= last && now <= last.plus(Duration::from_secs(20)),
        "{now} {last}"
    );
    site.works("in 1970").await;
    assert!(site.told().await.unsure, "the fleet's word is wanted");
    // The fleet says what time it is.
    let truth = i64::try_from(last.0).unwrap() * 1000 + 3_600_000 - site.clocks.boot_millis();
    site.gateway.ask(Request::TimeHeard { offset_millis: truth }).await.unwrap();
    site.believes(TimeBy::Fleet).await;
    assert_eq!(site.told().await, ToldTime { offset_millis: truth, unsure: true });
    site.works("by the fleet's word").await;
}

#[tokio::test]
async fn the_operator_is_not_locked_out_and_nobody_leads_below_what_was_signed() {
    let site = Site::new().await;
    site.clocks.leap(26 * HOUR, false);
    site.doubts().await;
    site.gateway.ask(Request::TimeAccept).await.unwrap();
    site.believes(TimeBy::Operator).await;
    site.works("by the operator's word").await;
    // Without any word: after a day.
    site.clocks.leap(26 * HOUR, false);
    site.doubts().await;
    let status = site.gateway.status().await;
    assert!(status.time.doubted.unwrap().believed_from.is_some(), "when it is believed is said");
    site.clocks.pass(DAY);
    site.believes(TimeBy::Patience).await;
    site.works("after a day").await;
    site.clocks.leap(-30 * 24 * HOUR, true);
    site.doubts().await;
    site.clocks.pass(2 * DAY);
    let before = i64::try_from(site.clocks.wall().0).unwrap() * 1000 - site.clocks.boot_millis();
    for request in [Request::TimeAccept, Request::TimeHeard { offset_millis: before }] {
        assert_eq!(site.gateway.refused(request).await, Reason::ClockDoubted);
    }
    let doubted = site.gateway.status().await.time.doubted.unwrap();
    assert_eq!(doubted.believed_from, None);
}
