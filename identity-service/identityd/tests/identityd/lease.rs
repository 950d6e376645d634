//! A gateway that is offline for as long as its lease lasts, and longer.

use crate::common;
use edgewarden_testkit::samples;

use std::sync::Arc;

use common::clocks::Clocks;
use common::{DAY, Gateway, Key, document, until};
use edgewarden_ca::{CaSigner as _, chain};
use edgewarden_metrics::door::SOCKET;
use edgewarden_names::{LeafName, Reason};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::config::Keystore;
use edgewarden_protocol::control::{LeafAllowed, Reply, Request, Status};
use edgewarden_protocol::enrol::{Enrolled, VerdictState};
use edgewarden_protocol::leaf::renewal_statement;
use edgewarden_simulator_tpm::{Scenario, SimulatedTpm};

struct Site {
    gateway: Gateway,
    clocks: Arc<Clocks>,
    key: Key,
    chain: Vec<Bytes>,
}

impl Site {
    async fn leased_for(days: u32) -> Self {
        let clocks = Arc::new(Clocks::right());
        let mut gateway = Gateway::new();
        gateway.clocks = Some(Arc::clone(&clocks));
        gateway.start().await.unwrap();
        let enrolled = gateway.enrolled_for(DAY * days, clocks.wall()).await;
        gateway.ask(Request::EnrolAccept(Box::new(enrolled))).await.unwrap();
        gateway.deploy(&document(1)).await;
        let name = LeafName::parse("sensor-1").unwrap();
        let allow = Request::LeafAllow { leaf: name.clone(), lifetime_seconds: 600 };
        let Reply::LeafToken(LeafAllowed { token, .. }) = gateway.ask(allow).await.unwrap() else { panic!() };
        let key = Key::generate();
        let issue = Request::LeafIssue { leaf: name, token, csr: key.csr() };
        let Reply::Certificate(issued) = gateway.ask(issue).await.unwrap() else { panic!() };
        Self { gateway, clocks, key, chain: issued.chain }
    }

    /// The status once every certificate of the gateway's own is valid, or none is.
    async fn settled(&self, day: u32, valid: bool) -> Status {
        until(&format!("day {day}: certificates {valid}"), async || {
            let status = self.gateway.status().await;
            let now = status.time.now;
            let good = |end: Option<edgewarden_names::UnixTime>| end.is_some_and(|end| now < end);
            let mut ends = status.identities.iter().map(|identity| identity.expires);
            let all = !status.identities.is_empty() && ends.all(|end| good(end) == valid);
            Some(status).filter(|_| all)
        })
        .await
    }

    /// The leaf device renews when a third of its certificate's life is over. False when it is refused.
    async fn renew_leaf(&mut self) -> bool {
        let next = Key::generate();
        let csr = next.csr();
        let statement = renewal_statement(self.chain[0].as_slice(), csr.as_slice());
        let proof = self.key.sign(&statement).unwrap().into();
        let request = Request::LeafRenew { chain: self.chain.clone(), csr, proof };
        match self.gateway.ask(request).await {
            Ok(Reply::Certificate(issued)) => {
                (self.chain, self.key) = (issued.chain, next);
                true
            }
            _ => false,
        }
    }
}

async fn health(gateway: &Gateway) -> (u16, String) {
    samples::health(&gateway.layout().identity_run().join(SOCKET)).await
}

fn says_so(status: &Status) -> bool {
    status.refusals.iter().any(|(_, refusal)| refusal.reason == Reason::IdentityExpiring)
}

/// True when `gatewayd` is told of the end, for its alert.
async fn is_told(gateway: &Gateway, status: &Status) -> bool {
    let Reply::Snapshot(snapshot) = gateway.ask(Request::Watch { seen: 0 }).await.unwrap() else { panic!() };
    let expiry = snapshot.standing.into_iter().find(|one| one.refusal.reason == Reason::IdentityExpiring);
    assert!(expiry.iter().all(|one| one.expires == status.lease.map(|lease| lease.ends)), "{expiry:?}");
    expiry.is_some()
}

#[tokio::test]
async fn a_lease_of_forty_days_is_lived_day_by_day_to_its_end_and_beyond() {
    let mut site = Site::leased_for(40).await;
    for day in 1..=39 {
        site.clocks.pass(DAY);
        let status = site.settled(day, true).await;
        // From the first third on it is said, in the status that people and the fleet see.
        assert_eq!(says_so(&status), day > 13, "day {day}: {:?}", status.refusals);
        assert_eq!(status.lease.unwrap().overdue, day > 13, "day {day}");
        assert_eq!(is_told(&site.gateway, &status).await, day > 13, "day {day}");
        let ends = status.gateway_ca_expires.unwrap();
        assert!(status.issuing_ca_expires.unwrap() <= ends, "no issuer outlives its own");
        assert!(status.identities.iter().all(|identity| identity.expires.unwrap() <= ends));
        if day % 3 == 0 {
            assert!(site.renew_leaf().await, "day {day}");
            let facts = chain::facts(site.chain[0].as_slice()).unwrap();
            assert!(facts.not_after <= ends, "a leaf's is cut to the end of the lease");
        }
    }
    assert_eq!(health(&site.gateway).await, (200, "ok".into()));
    // The end: nobody has a certificate, and that is said.
    site.clocks.pass(DAY * 2);
    let status = site.settled(41, false).await;
    assert_eq!(health(&site.gateway).await, (503, Reason::IdentityUnavailable.code().into()));
    assert!(says_so(&status) && is_told(&site.gateway, &status).await, "{:?}", status.refusals);
    assert!(!site.renew_leaf().await);
    site.gateway.restart().await;
    site.settled(41, false).await;
    // The fleet is back: everything is as before.
    let newer = site.gateway.enrolled_for(DAY * 40, site.clocks.wall()).await;
    site.gateway.ask(Request::EnrolAccept(Box::new(newer))).await.unwrap();
    let status = site.settled(41, true).await;
    assert!(!says_so(&status) && !status.lease.unwrap().overdue, "{:?}", status.refusals);
    assert!(!is_told(&site.gateway, &status).await);
}

#[tokio::test]
async fn a_lease_of_a_year_is_lived_to_its_end() {
    let mut site = Site::leased_for(365).await;
    let mut day = 0;
    while day < 357 {
        // As the devices of a site do: within the seven days of their certificates.
        site.clocks.pass(DAY * 6);
        day += 6;
        let status = site.settled(day, true).await;
        assert_eq!(says_so(&status), day > 125, "day {day}");
        assert!(site.renew_leaf().await, "day {day}");
    }
    site.clocks.pass(DAY * 9);
    site.settled(366, false).await;
    assert!(!site.renew_leaf().await);
}

/// Joins whatever the keystore is, for so many days.
async fn join(gateway: &Gateway, days: u32) {
    let Reply::AuditKey(key) = gateway.ask(Request::AuditKey).await.unwrap() else { panic!() };
    let now = edgewarden_names::UnixTime::now();
    let name = common::gateway_name();
    let issued = gateway.root.certify_gateway_ca(key.point.as_slice(), &name, DAY * days, now).unwrap();
    let enrolled = Enrolled {
        gateway_ca: issued.chain_der[0].clone().into(),
        root: gateway.root.certificate_der().into(),
        verdict: common::verdict(VerdictState::Fresh),
    };
    gateway.ask(Request::EnrolAccept(Box::new(enrolled))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_long_lease_another_boot_issues_nothing_until_it_is_judged() {
    for (days, closes) in [(365, true), (30, false)] {
        let mut gateway = Gateway::new();
        let mut tpm = SimulatedTpm::start(&gateway.folder.path().join("tpm"), Scenario::Normal).unwrap();
        gateway.config.keystore =
            Keystore::DangerousSimulatedTpm { address: ([127, 0, 0, 1], tpm.port()).into() };
        gateway.config.attestation.event_log = tpm.event_log();
        gateway.start().await.unwrap();
        join(&gateway, days).await;
        gateway.deploy(&document(1)).await;
        let has_certificates = async |gateway: &Gateway, expected: bool| {
            until(&format!("{days} days: certificates {expected}"), async || {
                let status = gateway.status().await;
                let has = status.identities.iter().all(|identity| identity.expires.is_some());
                Some(status).filter(|_| has == expected)
            })
            .await
        };
        has_certificates(&gateway, true).await;
        // The same firmware and kernel again.
        gateway.stop().await;
        tpm.reboot(Scenario::Normal).unwrap();
        gateway.start_again().await;
        has_certificates(&gateway, true).await;
        // Another kernel.
        gateway.stop().await;
        tpm.reboot(Scenario::ChangedKernel).unwrap();
        gateway.start_again().await;
        let status = has_certificates(&gateway, !closes).await;
        if closes {
            assert!(status.lease.unwrap().renewal_due <= status.time.now, "the fleet is asked at once");
            let name = LeafName::parse("sensor-1").unwrap();
            let allow = Request::LeafAllow { leaf: name.clone(), lifetime_seconds: 600 };
            let Reply::LeafToken(LeafAllowed { token, .. }) = gateway.ask(allow).await.unwrap() else {
                panic!()
            };
            let issue = Request::LeafIssue { leaf: name, token, csr: Key::generate().csr() };
            assert_eq!(gateway.refused(issue).await, Reason::AttestFailed);
            assert_eq!(gateway.refused(Request::StorageKey).await, Reason::AttestFailed);
        }
        // The fleet judges it, and it is good.
        join(&gateway, days).await;
        has_certificates(&gateway, true).await;
    }
}
