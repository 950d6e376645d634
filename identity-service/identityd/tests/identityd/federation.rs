//! Other trust domains through the sockets of modules: who is given what, how long it stays, and what is not taken.

use crate::common;

use std::path::Path;
use std::time::Duration;

use common::modules::{Instance, Site};
use common::{DAY, domain, until};
use edgewarden_ca::RootCa;
use edgewarden_names::{Reason, Refusal, SpiffeId, TrustDomain, UnixTime, pem};
use edgewarden_protocol::control::{Reply, Request};
use edgewarden_protocol::federation::Federated;
use edgewarden_svid::bundle::TrustBundle;
use edgewarden_svid::jwt::{Audience, JwtKeys, SigningKey};
use edgewarden_transport::foreign::spiffe_client_config;
use edgewarden_workload_client::bundles::fetch_roots;
use edgewarden_workload_client::{fetch_jwt_bundles, validate_jwt_svid};
use serde_json::{Value, json};

/// Another trust domain: what it shows, and what it signs with.
struct Other {
    domain: TrustDomain,
    root: RootCa,
    key: SigningKey,
}

impl Other {
    fn new(name: &str) -> Self {
        let domain = TrustDomain::parse(name).unwrap();
        let root = RootCa::create(&domain, DAY, UnixTime::now()).unwrap();
        Self { domain, root, key: SigningKey::generate().unwrap() }
    }

    fn bundle(&self, sequence: u64) -> TrustBundle {
        let jwt =
            JwtKeys { keys: vec![self.key.public(None).into()], sequence, refresh_hint_seconds: Some(7) };
        TrustBundle { x509: vec![self.root.certificate_der().to_vec()], jwt }
    }

    fn token(&self) -> String {
        let id = SpiffeId::parse(&format!("{}/billing", self.domain.id())).unwrap();
        let audience = Audience::parse(&["alerts".into()]).unwrap();
        let now = UnixTime::now();
        self.key.issue(&id, &audience, now, now.plus(Duration::from_secs(60))).unwrap().to_string()
    }

    fn web(&self) -> Value {
        let ca = pem::encode(pem::CERTIFICATE, self.root.certificate_der());
        json!({"trust_domain": self.domain, "url": "https://127.0.0.1:9/", "profile": {"kind": "https_web", "ca": ca}})
    }

    fn spiffe(&self, sequence: u64) -> Value {
        let bundle = String::from_utf8(self.bundle(sequence).to_json()).unwrap();
        let id = format!("{}/fleet", self.domain.id());
        let profile = json!({"kind": "https_spiffe", "endpoint_spiffe_id": id, "bundle": bundle});
        json!({"trust_domain": self.domain, "url": "https://127.0.0.1:9/", "profile": profile})
    }
}

async fn deploy(site: &mut Site, federation: &[Value], alerts: &[&str]) {
    site.deploy(&["alerts", "sensor"], |document| {
        document["federation"] = json!(federation);
        let module =
            document["modules"].as_array_mut().unwrap().iter_mut().find(|one| one["name"] == "alerts");
        module.unwrap()["federates_with"] = json!(alerts);
    })
    .await;
}

async fn list(site: &Site) -> Vec<Federated> {
    match site.gateway.ask(Request::FederationList).await.unwrap() {
        Reply::Federation(all) => all,
        other => panic!("{other:?}"),
    }
}

async fn hand_over(site: &Site, other: &Other, bundle: &[u8]) -> Result<Reply, Refusal> {
    let endpoint =
        list(site).await.into_iter().find(|one| one.trust_domain == other.domain).unwrap().endpoint;
    let trust_domain = other.domain.clone();
    site.gateway
        .ask(Request::FederationFetched { trust_domain, endpoint, bundle: bundle.to_vec().into() })
        .await
}

async fn socket(instance: &mut Instance) -> std::path::PathBuf {
    instance.client().await;
    instance.relay.as_ref().unwrap().socket.clone()
}

async fn x509_of(socket: &Path, domain: &TrustDomain) -> Option<Vec<Vec<u8>>> {
    let mut roots = fetch_roots(socket).await.unwrap();
    assert!(roots.contains_key(&common::domain()), "our own is always there");
    roots.remove(domain)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_believes_the_trust_domains_that_its_deployment_names() {
    let mut site = Site::new().await;
    let (other, third) = (Other::new("other.example"), Other::new("third.example"));
    deploy(&mut site, &[other.web(), third.spiffe(3)], &["other.example"]).await;
    let (mut alerts, mut sensor) = (site.start("alerts", 2).await, site.start("sensor", 3).await);
    let (inside, outside) = (socket(&mut alerts).await, socket(&mut sensor).await);

    // Nothing is known of it yet: no bundle, no trust.
    assert_eq!(x509_of(&inside, &other.domain).await, None);
    assert!(validate_jwt_svid(&inside, "alerts", &other.token()).await.is_err());
    let listed = list(&site).await;
    assert!(listed[0].held.is_none() && listed[1].held.as_ref().unwrap().confirmed.is_none());
    assert_eq!(listed[0].refresh_seconds, 300);

    hand_over(&site, &other, &other.bundle(5).to_json()).await.unwrap();
    assert_eq!(x509_of(&inside, &other.domain).await, Some(other.bundle(5).x509));
    let id = validate_jwt_svid(&inside, "alerts", &other.token()).await.unwrap();
    assert_eq!(id.as_str(), "spiffe://other.example/billing");
    assert_eq!(fetch_jwt_bundles(&inside).await.unwrap()[&other.domain].keys.len(), 1);
    // The hint of 7 seconds is below the bound.
    assert_eq!(list(&site).await[0].refresh_seconds, 60);

    // Not for the other module, and not of a trust domain that this one does not name.
    assert_eq!(x509_of(&outside, &other.domain).await, None);
    assert!(validate_jwt_svid(&outside, "alerts", &other.token()).await.is_err());
    assert_eq!(x509_of(&inside, &third.domain).await, None);
    assert!(validate_jwt_svid(&inside, "alerts", &third.token()).await.is_err());
    // A key of one trust domain does not speak for another.
    let forged =
        Other { domain: third.domain.clone(), root: Other::new("third.example").root, key: other.key };
    assert!(validate_jwt_svid(&inside, "alerts", &forged.token()).await.is_err());

    // The operator's word ends it.
    deploy(&mut site, &[third.spiffe(3)], &["third.example"]).await;
    assert_eq!(x509_of(&inside, &other.domain).await, None);
    assert_eq!(x509_of(&inside, &third.domain).await, Some(third.bundle(3).x509));
    assert!(validate_jwt_svid(&inside, "alerts", &third.token()).await.is_ok());
    assert_eq!(domain().as_str(), "plant.example");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_bundle_outlives_bad_ones_and_a_restart() {
    let mut site = Site::new().await;
    let other = Other::new("other.example");
    deploy(&mut site, &[other.web()], &["other.example"]).await;
    let good = other.bundle(5);
    hand_over(&site, &other, &good.to_json()).await.unwrap();

    let stranger = Other::new("stranger.example");
    let mut foreign = stranger.bundle(9);
    foreign.jwt.keys.clear();
    for (name, bad, reason) in [
        ("rolled back", other.bundle(4).to_json(), Reason::FederationRollback),
        ("without a sequence", TrustBundle::default().to_json(), Reason::FederationRollback),
        (
            "changed under its sequence",
            Other::new("other.example").bundle(5).to_json(),
            Reason::FederationRollback,
        ),
        ("another trust domain's root", foreign.to_json(), Reason::FederationBundle),
        ("a page", b"<html>".to_vec(), Reason::FederationBundle),
        ("nothing", Vec::new(), Reason::FederationBundle),
        ("huge", vec![b' '; 200 * 1024], Reason::FederationBundle),
    ] {
        assert_eq!(hand_over(&site, &other, &bad).await.unwrap_err().reason, reason, "{name}");
    }
    let endpoint = list(&site).await[0].endpoint.clone();
    let refusal = Refusal::new(Reason::FederationUntrusted, "x", "another certificate");
    let failed = Request::FederationFailed { trust_domain: other.domain.clone(), endpoint, refusal };
    site.gateway.ask(failed).await.unwrap();
    let shown = list(&site).await.remove(0);
    let trouble = shown.trouble.unwrap();
    assert_eq!(trouble.refusal.reason, Reason::FederationUntrusted);
    assert_eq!(shown.held.as_ref().unwrap().sequence, 5);

    site.gateway.stop().await;
    site.gateway.start().await.unwrap();
    let mut alerts = site.start("alerts", 2).await;
    let inside = socket(&mut alerts).await;
    let held = until("the identity after the restart", async || fetch_roots(&inside).await.ok()).await;
    assert_eq!(held.get(&other.domain), Some(&good.x509));
    assert!(validate_jwt_svid(&inside, "alerts", &other.token()).await.is_ok());
    // Still no way back.
    let refused = hand_over(&site, &other, &other.bundle(4).to_json()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::FederationRollback);
    hand_over(&site, &other, &other.bundle(6).to_json()).await.unwrap();
    assert_eq!(list(&site).await[0].trouble, None);
    let events = site.gateway.events().await;
    assert_eq!(
        events.iter().filter(|event| *event == "federation.changed").count(),
        1,
        "only the sequence rose"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_domain_that_comes_back_has_no_old_trouble() {
    let mut site = Site::new().await;
    let other = Other::new("other.example");
    deploy(&mut site, &[other.web()], &[]).await;
    let endpoint = list(&site).await[0].endpoint.clone();
    let refusal = Refusal::new(Reason::FederationUnavailable, "x", "nobody answers");
    let failed = Request::FederationFailed { trust_domain: other.domain.clone(), endpoint, refusal };
    site.gateway.ask(failed).await.unwrap();
    assert_eq!(list(&site).await[0].trouble.as_ref().unwrap().failures, 1);
    // Nobody looks while it is not deployed.
    deploy(&mut site, &[], &[]).await;
    deploy(&mut site, &[other.web()], &[]).await;
    assert_eq!(list(&site).await[0].trouble, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_for_the_endpoint_that_was_asked() {
    let mut site = Site::new().await;
    let other = Other::new("other.example");
    deploy(&mut site, &[other.web()], &[]).await;
    let old = list(&site).await[0].endpoint.clone();
    deploy(&mut site, &[other.spiffe(5)], &[]).await;
    for (domain, endpoint) in [
        (other.domain.clone(), old.clone()),
        (TrustDomain::parse("plant.example").unwrap(), list(&site).await[0].endpoint.clone()),
        (TrustDomain::parse("unknown.example").unwrap(), old),
    ] {
        // A bundle that reads well under each of the names.
        let bundle = b"{\"keys\":[],\"spiffe_sequence\":9}".to_vec().into();
        let asked = Request::FederationFetched { trust_domain: domain.clone(), endpoint, bundle };
        assert_eq!(site.gateway.refused(asked).await, Reason::FederationUnknown, "{domain}");
    }
    assert_eq!(list(&site).await[0].held.as_ref().unwrap().sequence, 5);
    assert_eq!(list(&site).await[0].trouble, None);
    let told = serde_json::to_value(&list(&site).await[0].told_by).unwrap();
    assert_eq!(told["spiffe"]["id"], "spiffe://other.example/fleet");
    let id = SpiffeId::parse("spiffe://other.example/fleet").unwrap();
    assert!(spiffe_client_config(id, &other.bundle(5).x509).is_ok());
}

#[tokio::test]
async fn a_deployment_whose_endpoints_cannot_be_told_is_refused() {
    let site = Site::new().await;
    let other = Other::new("other.example");
    let with = |change: &dyn Fn(&mut Value), mut endpoint: Value| {
        change(&mut endpoint);
        let mut document = common::document(7);
        document["federation"] = json!([endpoint]);
        site.gateway.operator.sign(&document)
    };
    let stranger = String::from_utf8(Other::new("third.example").bundle(1).to_json()).unwrap();
    for (name, envelope) in [
        ("no PEM", with(&|e| e["profile"]["ca"] = json!("CA"), other.web())),
        ("no certificate", with(&|e| e["profile"]["ca"] = json!("\n"), other.web())),
        ("no bundle", with(&|e| e["profile"]["bundle"] = json!("{}"), other.spiffe(1))),
        ("no authority", with(&|e| e["profile"]["bundle"] = json!("{\"keys\":[]}"), other.spiffe(1))),
        ("another's bundle", with(&|e| e["profile"]["bundle"] = json!(stranger), other.spiffe(1))),
        (
            "another's endpoint",
            with(&|e| e["profile"]["endpoint_spiffe_id"] = json!("spiffe://x/y"), other.spiffe(1)),
        ),
        ("our own", with(&|e| e["trust_domain"] = json!("plant.example"), other.web())),
    ] {
        let reason = site.gateway.refused(Request::DeploymentAccept(envelope)).await;
        assert_eq!(reason, Reason::DeploymentInvalid, "{name}");
    }
}
