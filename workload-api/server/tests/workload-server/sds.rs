//! Envoy's secret discovery service, called by raw gRPC, so that a test may break each rule.

use crate::common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{ID, Served, channel_over, request};
use edgewarden_names::{Reason, TrustDomain, pem};
use edgewarden_svid::Bundles;
use edgewarden_workload_server::EXCHANGES_MAX;
use edgewarden_workload_server::sds::{NAME_BYTES_MAX, NAMES_MAX, REQUEST_BYTES_MAX, UNANSWERED_MAX};
use edgewarden_workload_wire::envoy::envoy::config::core::v3::{
    BuildVersion, DataSource, Node, data_source::Specifier,
};
use edgewarden_workload_wire::envoy::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use edgewarden_workload_wire::envoy::envoy::extensions::transport_sockets::tls::v3::{
    Secret, SpiffeCertValidatorConfig,
};
use edgewarden_workload_wire::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use edgewarden_workload_wire::envoy::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use edgewarden_workload_wire::envoy::envoy::r#type::v3::SemanticVersion;
use edgewarden_workload_wire::envoy::google::rpc;
use edgewarden_workload_wire::workloadapi::X509svidRequest;
use futures_util::Stream;
use futures_util::stream::unfold;
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const DOMAIN: &str = "spiffe://plant.example";

async fn client(served: &Served) -> SecretDiscoveryServiceClient<Channel> {
    SecretDiscoveryServiceClient::new(channel_over(UnixStream::connect(&served.socket).await.unwrap()).await)
}

fn outgoing<T: Send + 'static>(requests: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send + 'static {
    unfold(requests, async |mut requests| requests.recv().await.map(|request| (request, requests)))
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn envoy() -> Node {
    let version = SemanticVersion { major_number: 1, minor_number: 40 };
    Node { metadata: None, user_agent_build_version: Some(BuildVersion { version: Some(version) }) }
}

fn ask(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest { resource_names: strings(names), ..DiscoveryRequest::default() }
}

/// The request of a client that took the response, and now wants these names.
fn ack(response: &DiscoveryResponse, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        ..ask(names)
    }
}

fn nack() -> rpc::Status {
    rpc::Status { code: 13, message: "cannot use it\u{1b}[31m".repeat(1000) }
}

/// A stream of the state of the world.
struct Whole {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Whole {
    async fn open(served: &Served, first: DiscoveryRequest) -> Self {
        Self::over(&mut client(served).await, first).await
    }

    async fn over(client: &mut SecretDiscoveryServiceClient<Channel>, first: DiscoveryRequest) -> Self {
        let (requests, receiver) = mpsc::channel(256);
        requests.send(first).await.unwrap();
        let responses = client.stream_secrets(outgoing(receiver)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn send(&self, request: DiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> DiscoveryResponse {
        self.responses.message().await.unwrap().unwrap()
    }

    async fn refusal(&mut self) -> Status {
        loop {
            match self.responses.message().await {
                Ok(response) => assert!(response.is_some(), "the stream ended well"),
                Err(status) => return status,
            }
        }
    }
}

struct Incremental {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Incremental {
    async fn open(served: &Served, first: DeltaDiscoveryRequest) -> Self {
        let (requests, receiver) = mpsc::channel(256);
        requests.send(first).await.unwrap();
        let responses = client(served).await.delta_secrets(outgoing(receiver)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        self.responses.message().await.unwrap().unwrap()
    }

    async fn refusal(&mut self) -> Status {
        loop {
            match self.responses.message().await {
                Ok(response) => assert!(response.is_some(), "the stream ended well"),
                Err(status) => return status,
            }
        }
    }
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { resource_names_subscribe: strings(names), ..DeltaDiscoveryRequest::default() }
}

fn unsubscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { resource_names_unsubscribe: strings(names), ..DeltaDiscoveryRequest::default() }
}

fn text(source: Option<DataSource>) -> String {
    let Some(Specifier::InlineBytes(bytes)) = source.unwrap().specifier else { panic!("no bytes") };
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A secret as a line: its name, and what it is.
fn shown(resource: &prost_types::Any) -> (String, String) {
    assert_eq!(resource.type_url, SECRET_TYPE);
    let secret = Secret::decode(resource.value.as_slice()).unwrap();
    let what = match secret.r#type.unwrap() {
        Type::TlsCertificate(certificate) => {
            format!("{}{}", text(certificate.certificate_chain), text(certificate.private_key))
        }
        Type::ValidationContext(context) => match context.custom_validator_config {
            None => format!("plain {}", text(context.trusted_ca)),
            Some(validator) => {
                assert!(context.trusted_ca.is_none());
                assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
                let config = validator.typed_config.unwrap();
                assert_eq!(
                    config.type_url,
                    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
                );
                let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
                let domains = config.trust_domains.into_iter();
                domains.map(|domain| [domain.name, text(domain.trust_bundle)].join(" ")).collect()
            }
        },
    };
    (secret.name, what)
}

fn all_shown(response: &DiscoveryResponse) -> Vec<(String, String)> {
    assert_eq!(response.type_url, SECRET_TYPE);
    response.resources.iter().map(shown).collect()
}

fn certificate_of(served: &Served) -> String {
    let context = served.source.current.lock().unwrap().as_ref().unwrap().borrow().clone().unwrap();
    format!("{}{}", pem::chain(&context.chain_der), *pem::encode_secret(pem::PRIVATE_KEY, &context.key_pkcs8))
}

fn roots_of(served: &Served) -> String {
    format!("plant.example {}", pem::chain(std::slice::from_ref(&served.source.authority.der)))
}

#[tokio::test]
async fn each_name_has_its_secret() {
    let served = Served::new();
    let mut client = client(&served).await;
    let (certificate, roots) = (certificate_of(&served), roots_of(&served));
    let line = |name: &str, what: &str| (name.to_owned(), what.to_owned());
    for (names, expected) in [
        (&["default"][..], vec![line("default", &certificate)]),
        (&[ID], vec![line(ID, &certificate)]),
        (&["ROOTCA"], vec![line("ROOTCA", &roots)]),
        (&[DOMAIN], vec![line(DOMAIN, &roots)]),
        (&["ALL"], vec![line("ALL", &roots)]),
        (
            &["default", "ROOTCA", "ALL", "default", DOMAIN],
            vec![
                line("ALL", &roots),
                line("ROOTCA", &roots),
                line("default", &certificate),
                line(DOMAIN, &roots),
            ],
        ),
        (&[], vec![line(DOMAIN, &roots), line(ID, &certificate)]),
        (&["*"], vec![line(DOMAIN, &roots), line(ID, &certificate)]),
        (
            &["*", "default"],
            vec![line("default", &certificate), line(DOMAIN, &roots), line(ID, &certificate)],
        ),
    ] {
        let request = DiscoveryRequest { node: Some(envoy()), ..ask(names) };
        let response = client.fetch_secrets(request).await.unwrap().into_inner();
        assert_eq!(all_shown(&response), expected, "{names:?}");
    }
    assert_eq!(served.source.streams.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_without_the_spiffe_validator_gets_plain_roots_of_one_trust_domain() {
    let served = Served::new();
    let mut client = client(&served).await;
    let response = client.fetch_secrets(ask(&["ROOTCA"])).await.unwrap().into_inner();
    let plain = format!("plain {}", pem::chain(std::slice::from_ref(&served.source.authority.der)));
    assert_eq!(all_shown(&response), [("ROOTCA".to_owned(), plain)]);
    let status = client.fetch_secrets(ask(&["ALL"])).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("SPIFFE certificate validator"), "{status}");
}

#[tokio::test]
async fn what_the_module_does_not_have_is_refused() {
    let served = Served::new();
    for name in [
        "spiffe://plant.example/gateway/gw-1/module/other",
        "spiffe://plant.example/gateway/gw-1/module/analytics/",
        "spiffe://plant.example/",
        "spiffe://other.example",
        "plant.example",
        "DEFAULT",
        "rootca",
        "all",
        " ",
        "default\n",
    ] {
        for names in [&[name][..], &["default", name], &["*", name]] {
            let fetched = client(&served).await.fetch_secrets(ask(names)).await.map(drop).unwrap_err();
            let streamed = Whole::open(&served, ask(names)).await.refusal().await;
            let incremental = Incremental::open(&served, subscribe(names)).await.refusal().await;
            for status in [fetched, streamed, incremental] {
                assert_eq!(status.code(), Code::InvalidArgument, "{names:?}");
                assert!(status.message().starts_with("sds.name: "), "{status}");
            }
        }
    }
    assert_eq!(served.source.streams.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn requests_are_bounded() {
    let served = Served::new();
    let many: Vec<String> = (0..=NAMES_MAX).map(|n| format!("name-{n}")).collect();
    let long = vec!["x".repeat(NAME_BYTES_MAX + 1)];
    for (names, reason) in [
        (many, "request.too_large: "),
        (long, "request.invalid: "),
        (vec![String::new()], "request.invalid: "),
    ] {
        let request = DiscoveryRequest { resource_names: names.clone(), ..DiscoveryRequest::default() };
        let fetched = client(&served).await.fetch_secrets(request.clone()).await.map(drop).unwrap_err();
        let streamed = Whole::open(&served, request).await.refusal().await;
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: names.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        let incremental = Incremental::open(&served, request).await.refusal().await;
        let request =
            DeltaDiscoveryRequest { resource_names_unsubscribe: names, ..DeltaDiscoveryRequest::default() };
        let unsubscribed = Incremental::open(&served, request).await.refusal().await;
        for status in [fetched, streamed, incremental, unsubscribed] {
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().starts_with(reason), "{status}");
        }
    }
    // A stream's subscriptions add up.
    let mut stream = Incremental::open(&served, subscribe(&["default"])).await;
    stream.next().await;
    for n in 0..NAMES_MAX {
        // Each is unknown, and taken back before an answer is due.
        let mut request = unsubscribe(&[&format!("name-{n}")]);
        request.resource_names_subscribe = vec![ID.to_owned()];
        stream.send(request).await;
        stream.next().await;
    }

    let large = DiscoveryRequest { version_info: "x".repeat(REQUEST_BYTES_MAX), ..ask(&["default"]) };
    assert_eq!(Whole::open(&served, large).await.refusal().await.code(), Code::OutOfRange);
    let fits = DiscoveryRequest { version_info: "x".repeat(REQUEST_BYTES_MAX - 64), ..ask(&["default"]) };
    Whole::open(&served, fits).await.next().await;
}

#[tokio::test]
async fn only_secrets_are_served() {
    let served = Served::new();
    for (type_url, served_too) in [
        ("", true),
        (SECRET_TYPE, true),
        ("type.googleapis.com/envoy.config.cluster.v3.Cluster", false),
        ("envoy.extensions.transport_sockets.tls.v3.Secret", false),
    ] {
        let request = DiscoveryRequest { type_url: type_url.into(), ..ask(&["default"]) };
        let fetched = client(&served).await.fetch_secrets(request).await;
        let request = DeltaDiscoveryRequest { type_url: type_url.into(), ..subscribe(&["default"]) };
        let mut incremental = Incremental::open(&served, request).await;
        if served_too {
            fetched.map(drop).unwrap();
            incremental.next().await;
        } else {
            for status in [fetched.map(drop).unwrap_err(), incremental.refusal().await] {
                assert_eq!(status.code(), Code::InvalidArgument);
                assert!(status.message().starts_with("request.invalid: "), "{status}");
            }
        }
    }
}

#[tokio::test]
async fn a_rotation_is_pushed_to_whom_it_concerns() {
    let served = Served::new();
    let first = DiscoveryRequest { node: Some(envoy()), ..ask(&["default"]) };
    let mut certificate = Whole::open(&served, first).await;
    let mut roots = Whole::open(&served, DiscoveryRequest { node: Some(envoy()), ..ask(&["ROOTCA"]) }).await;
    let before = certificate.next().await;
    let roots_before = roots.next().await;
    // From here on the client leaves out who it is.
    certificate.send(ack(&before, &["default"])).await;
    roots.send(ack(&roots_before, &["ROOTCA"])).await;

    served.source.rotate();
    let after = certificate.next().await;
    assert_eq!(all_shown(&after), [("default".to_owned(), certificate_of(&served))]);
    assert!(before.nonce != after.nonce && before.version_info != after.version_info);

    let mut other = common::issue(&served.source.authority, ID);
    Arc::get_mut(&mut other).unwrap().bundle_der.push(common::root().der);
    served.source.give(Some(Arc::clone(&other)));
    // The roots had not changed before.
    let roots_after = roots.next().await;
    let expected = format!("plant.example {}", pem::chain(&other.bundle_der));
    assert_eq!(all_shown(&roots_after), [("ROOTCA".to_owned(), expected)]);
    assert_eq!(roots_after.nonce, "2");
}

#[tokio::test]
async fn a_version_is_the_same_on_each_stream() {
    let served = Served::new();
    let one = Whole::open(&served, ask(&["default"])).await.next().await;
    let again = DiscoveryRequest { version_info: one.version_info.clone(), ..ask(&["default"]) };
    // It is sent again all the same: the client may have lost it.
    let two = Whole::open(&served, again).await.next().await;
    assert_eq!(one.version_info, two.version_info);
    assert_eq!(all_shown(&one), all_shown(&two));
}

#[tokio::test]
async fn acknowledged_and_rejected_responses_are_not_repeated() {
    let served = Served::new();
    let mut stream = Whole::open(&served, ask(&["default"])).await;
    let first = stream.next().await;
    stream.send(ack(&first, &["default"])).await;
    stream.send(DiscoveryRequest { error_detail: Some(nack()), ..ack(&first, &["default"]) }).await;
    // Less is no reason either.
    stream.send(ack(&first, &[])).await;
    // A rejection with a change of names is answered for the change.
    let more = DiscoveryRequest {
        error_detail: Some(nack()),
        version_info: String::new(),
        ..ack(&first, &["ROOTCA"])
    };
    stream.send(more).await;
    let second = stream.next().await;
    assert_eq!((second.nonce.as_str(), second.resources.len()), ("2", 1));
    assert_eq!(all_shown(&second)[0].0, "ROOTCA");

    let mut stream = Incremental::open(&served, subscribe(&["default"])).await;
    let first = stream.next().await;
    let acknowledged = DeltaDiscoveryRequest { response_nonce: first.nonce, ..subscribe(&[]) };
    stream.send(acknowledged.clone()).await;
    stream.send(DeltaDiscoveryRequest { error_detail: Some(nack()), ..acknowledged }).await;
    stream.send(subscribe(&["ROOTCA"])).await;
    let second = stream.next().await;
    assert_eq!((second.nonce.as_str(), second.resources[0].name.as_str()), ("2", "ROOTCA"));
}

#[tokio::test]
async fn a_request_from_before_the_last_response_is_ignored() {
    let served = Served::new();
    let mut stream = Whole::open(&served, ask(&["default"])).await;
    let first = stream.next().await;
    served.source.rotate();
    let second = stream.next().await;
    stream.send(ack(&first, &["ROOTCA"])).await;
    stream.send(DiscoveryRequest { response_nonce: "made up".into(), ..ask(&["ROOTCA"]) }).await;
    stream.send(ack(&second, &["ALL", "default"])).await;
    let status = stream.refusal().await;
    // What was ignored was not answered: the next is to the last request, which asks for too much of an old client.
    assert!(status.message().contains("`ALL`"), "{status}");
    // The nonce of an earlier stream is no reason to ignore a first request.
    let carried = DiscoveryRequest { response_nonce: "7".into(), ..ask(&["default"]) };
    Whole::open(&served, carried).await.next().await;
}

#[tokio::test]
async fn incremental_responses_have_what_is_new() {
    let served = Served::new();
    let first = DeltaDiscoveryRequest { node: Some(envoy()), ..subscribe(&["default", "ROOTCA"]) };
    let mut stream = Incremental::open(&served, first).await;
    let names = |response: &DeltaDiscoveryResponse| {
        assert!(response.removed_resources.is_empty() && response.type_url == SECRET_TYPE);
        response.resources.iter().map(|resource| resource.name.clone()).collect::<Vec<_>>()
    };
    let before = stream.next().await;
    assert_eq!(names(&before), ["ROOTCA", "default"]);
    let roots = shown(before.resources[0].resource.as_ref().unwrap());
    assert_eq!(roots, ("ROOTCA".to_owned(), roots_of(&served)));

    served.source.rotate();
    let after = stream.next().await;
    assert_eq!(names(&after), ["default"]);
    assert_ne!(after.resources[0].version, before.resources[1].version);
    let certificate = shown(after.resources[0].resource.as_ref().unwrap());
    assert_eq!(certificate, ("default".to_owned(), certificate_of(&served)));

    // Asked for again, it is sent again.
    stream.send(subscribe(&["default"])).await;
    assert_eq!(names(&stream.next().await), ["default"]);
    // What nobody wants any longer is not sent.
    stream.send(unsubscribe(&["default", "never"])).await;
    stream.send(subscribe(&[DOMAIN])).await;
    assert_eq!(names(&stream.next().await), [DOMAIN]);
    served.source.rotate();
    stream.send(subscribe(&[DOMAIN])).await;
    assert_eq!(names(&stream.next().await), [DOMAIN]);
}

#[tokio::test]
async fn an_incremental_stream_may_ask_for_all() {
    let served = Served::new();
    for first in [subscribe(&[]), subscribe(&["*"])] {
        let mut stream = Incremental::open(&served, first).await;
        let names = |response: &DeltaDiscoveryResponse| {
            response.resources.iter().map(|resource| resource.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&stream.next().await), [DOMAIN, ID]);
        served.source.rotate();
        assert_eq!(names(&stream.next().await), [ID]);
        stream.send(subscribe(&["default", ID])).await;
        assert_eq!(names(&stream.next().await), ["default", ID]);
        // One of these is still covered, and the client is told which.
        stream.send(unsubscribe(&["default", ID])).await;
        let told = stream.next().await;
        assert_eq!(names(&told), [ID]);
        assert_eq!(told.removed_resources, ["default"]);
        // An empty list is nothing new later.
        stream.send(subscribe(&[])).await;
        stream.send(unsubscribe(&["*"])).await;
        for _ in 0..2 {
            stream.send(subscribe(&[DOMAIN])).await;
            assert_eq!(names(&stream.next().await), [DOMAIN]);
            served.source.rotate();
        }
    }
}

#[tokio::test]
async fn a_caller_is_judged_at_each_request_and_before_each_push() {
    for rotated in [false, true] {
        let served = Served::new();
        let mut whole = Whole::open(&served, ask(&["default"])).await;
        let first = whole.next().await;
        let mut incremental = Incremental::open(&served, subscribe(&["default"])).await;
        incremental.next().await;
        *served.source.refuse_callers.lock().unwrap() = Some(Reason::CallerNotModule);
        if rotated {
            served.source.rotate();
        } else {
            whole.send(ack(&first, &["default"])).await;
            incremental.send(subscribe(&[])).await;
        }
        for status in [whole.refusal().await, incremental.refusal().await] {
            assert_eq!(status.code(), Code::PermissionDenied);
            assert!(status.message().starts_with("caller.not_module: "), "{status}");
        }
        let status = client(&served).await.fetch_secrets(ask(&[])).await.map(drop).unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        let (_requests, receiver) = mpsc::channel(1);
        let status = client(&served).await.stream_secrets(outgoing(receiver)).await.map(drop).unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(served.source.streams.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn streams_end_with_the_instance() {
    let served = Served::new();
    let mut whole = Whole::open(&served, ask(&["default"])).await;
    whole.next().await;
    let mut incremental = Incremental::open(&served, subscribe(&["default"])).await;
    incremental.next().await;
    // Also one that has asked for nothing yet.
    let (requests, receiver) = mpsc::channel(1);
    let mut silent = client(&served).await.stream_secrets(outgoing(receiver)).await.unwrap().into_inner();
    served.source.give(None);
    for status in
        [whole.refusal().await, incremental.refusal().await, silent.message().await.map(drop).unwrap_err()]
    {
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), "identity.unavailable: the instance has ended");
    }
    drop(requests);
    let status = client(&served).await.fetch_secrets(ask(&[])).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(served.source.streams.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_may_end_its_stream() {
    let served = Served::new();
    let Whole { requests, mut responses } = Whole::open(&served, ask(&["default"])).await;
    responses.message().await.unwrap().unwrap();
    drop(requests);
    assert!(responses.message().await.unwrap().is_none());
    assert_eq!(served.source.streams.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_that_only_talks_is_ended() {
    let served = Served::new();
    let mut stream = Whole::open(&served, ask(&["default"])).await;
    let first = stream.next().await;
    for _ in 0..UNANSWERED_MAX {
        stream.send(ack(&first, &["default"])).await;
    }
    // As many as these are good.
    stream.send(ack(&first, &["ROOTCA"])).await;
    let second = stream.next().await;
    for _ in 0..=UNANSWERED_MAX {
        stream.send(ack(&second, &["ROOTCA"])).await;
    }
    let status = stream.refusal().await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().starts_with("caller.budget: "), "{status}");
}

#[tokio::test]
async fn streams_have_a_budget_and_leave_that_of_identities_alone() {
    let served = Served::new();
    let mut held = Vec::new();
    let mut busy = client(&served).await;
    for _ in 0..EXCHANGES_MAX {
        let mut stream = Whole::over(&mut busy, ask(&["ROOTCA"])).await;
        stream.next().await;
        held.push(stream);
    }
    let (_requests, receiver) = mpsc::channel(1);
    let streamed = client(&served).await.stream_secrets(outgoing(receiver)).await.map(drop).unwrap_err();
    let fetched = client(&served).await.fetch_secrets(ask(&[])).await.map(drop).unwrap_err();
    for status in [streamed, fetched] {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().starts_with("caller.budget: "), "{status}");
    }
    let mut svids =
        served.client().await.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    svids.message().await.unwrap().unwrap();
    held.pop();
    while client(&served).await.fetch_secrets(ask(&[])).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn foreign_trust_domains_are_given_and_each_change_is_pushed() {
    let served = Served::new();
    let foreign = "spiffe://other.example";
    let root = common::root().der;
    let set = |roots: Option<&Vec<u8>>| {
        served.source.bundles.send_modify(|bundles| {
            let roots = roots.map(|root| (TrustDomain::parse("other.example").unwrap(), vec![root.clone()]));
            let all = roots.into_iter().collect();
            *bundles = Arc::new(Bundles { foreign_x509: Arc::new(all), ..(**bundles).clone() });
        });
    };
    set(None);
    let mut all = Whole::open(&served, DiscoveryRequest { node: Some(envoy()), ..ask(&["ALL"]) }).await;
    assert_eq!(all_shown(&all.next().await), [("ALL".to_owned(), roots_of(&served))]);
    set(Some(&root));
    let both = format!("{}other.example {}", roots_of(&served), pem::chain(std::slice::from_ref(&root)));
    assert_eq!(all_shown(&all.next().await), [("ALL".to_owned(), both)]);

    let mut whole = Whole::open(&served, ask(&[foreign])).await;
    whole.next().await;
    let mut incremental = Incremental::open(&served, subscribe(&[foreign])).await;
    incremental.next().await;
    set(None);
    assert_eq!(all_shown(&all.next().await), [("ALL".to_owned(), roots_of(&served))]);
    assert_eq!(incremental.next().await.removed_resources, [foreign]);
    assert!(whole.refusal().await.message().starts_with("sds.name: "));
}
