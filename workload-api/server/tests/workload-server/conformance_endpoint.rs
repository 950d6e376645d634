//! The rules of the SPIFFE Workload Endpoint, and of the streams, each with a test of its name (docs/workload-api.md).

use crate::common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{ID, Served, bundles_with, request};
use edgewarden_names::{Reason, TrustDomain};
use edgewarden_svid::Bundles;
use edgewarden_workload_server::STREAMS_MAX;
use edgewarden_workload_wire::workloadapi::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
};
use tokio::net::UnixStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const FOREIGN: &str = "partner.example";

fn with<T>(metadata: &MetadataMap, message: T) -> Request<T> {
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata.clone();
    request
}

/// Every call of the service, with this metadata: how each of them ends.
async fn all_calls(served: &Served, metadata: &MetadataMap) -> Vec<(&'static str, Result<(), Status>)> {
    let mut client = served.client().await;
    let audience = vec!["db".to_owned()];
    let jwt = JwtsvidRequest { audience, ..Default::default() };
    let token = served.token(&["db"]).await;
    let validate = ValidateJwtsvidRequest { audience: "db".into(), svid: token };
    vec![
        ("FetchX509SVID", client.fetch_x509svid(with(metadata, X509svidRequest {})).await.map(drop)),
        (
            "FetchX509Bundles",
            client.fetch_x509_bundles(with(metadata, X509BundlesRequest {})).await.map(drop),
        ),
        ("FetchJWTSVID", client.fetch_jwtsvid(with(metadata, jwt)).await.map(drop)),
        ("FetchJWTBundles", client.fetch_jwt_bundles(with(metadata, JwtBundlesRequest {})).await.map(drop)),
        ("ValidateJWTSVID", client.validate_jwtsvid(with(metadata, validate)).await.map(drop)),
    ]
}

/// Workload Endpoint section 3.
#[tokio::test]
async fn must_reject_calls_without_the_security_header() {
    let served = Served::new();
    for values in [
        &[][..],
        &["false"],
        &["TRUE"],
        &["True"],
        &["1"],
        &[""],
        &["true,true"],
        &["true", "true"],
        &["true", "false"],
    ] {
        let mut metadata = MetadataMap::new();
        for value in values {
            metadata.append("workload.spiffe.io", value.parse().unwrap());
        }
        for (call, answer) in all_calls(&served, &metadata).await {
            assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument, "{call} {values:?}");
        }
    }
    for (call, answer) in all_calls(&served, request(()).metadata()).await {
        assert!(answer.is_ok(), "{call}: {answer:?}");
    }
}

/// Workload API section 4.1 and 6.3.
#[tokio::test]
async fn should_answer_permission_denied_to_callers_without_an_identity() {
    for reason in [Reason::CallerNotModule, Reason::CallerUnknown] {
        let served = Served::new();
        let metadata = request(()).metadata().clone();
        let token = served.token(&["db"]).await;
        *served.source.refuse_callers.lock().unwrap() = Some(reason);
        let mut client = served.client().await;
        let jwt = JwtsvidRequest { audience: vec!["db".into()], ..Default::default() };
        let validate = ValidateJwtsvidRequest { audience: "db".into(), svid: token };
        for answer in [
            client.fetch_x509svid(with(&metadata, X509svidRequest {})).await.map(drop),
            client.fetch_x509_bundles(with(&metadata, X509BundlesRequest {})).await.map(drop),
            client.fetch_jwtsvid(with(&metadata, jwt)).await.map(drop),
            client.fetch_jwt_bundles(with(&metadata, JwtBundlesRequest {})).await.map(drop),
            client.validate_jwtsvid(with(&metadata, validate)).await.map(drop),
        ] {
            assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied, "{reason}");
        }
    }
}

/// Workload Endpoint section 6.
#[tokio::test]
async fn should_answer_unavailable_while_there_is_no_identity_yet() {
    let served = Served::new();
    let metadata = request(()).metadata().clone();
    let token = served.token(&["db"]).await;
    *served.source.refuse_identity.lock().unwrap() = Some(Reason::IdentityUnavailable);
    let mut client = served.client().await;
    let jwt = JwtsvidRequest { audience: vec!["db".into()], ..Default::default() };
    let validate = ValidateJwtsvidRequest { audience: "db".into(), svid: token };
    for answer in [
        client.fetch_x509svid(with(&metadata, X509svidRequest {})).await.map(drop),
        client.fetch_x509_bundles(with(&metadata, X509BundlesRequest {})).await.map(drop),
        client.fetch_jwtsvid(with(&metadata, jwt)).await.map(drop),
        client.fetch_jwt_bundles(with(&metadata, JwtBundlesRequest {})).await.map(drop),
        client.validate_jwtsvid(with(&metadata, validate)).await.map(drop),
    ] {
        assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    }
}

/// The WIT-SVID profile is incubating: a server without it says so (WIT-SVID, Workload API section).
#[tokio::test]
async fn must_answer_unimplemented_to_what_it_does_not_serve() {
    let served = Served::new();
    for path in [
        "/SpiffeWorkloadAPI/FetchWITSVID",
        "/SpiffeWorkloadAPI/FetchWITBundles",
        "/SpiffeWorkloadAPI/Nothing",
        "/spiffe.broker.API/FetchX509SVID",
        "/spiffeworkloadapi/FetchX509SVID",
        "/",
    ] {
        let mut grpc = tonic::client::Grpc::new(served.channel().await);
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<X509svidRequest, X509svidRequest>::default();
        let answer = grpc.unary(request(X509svidRequest {}), path.parse().unwrap(), codec).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{path}");
    }
}

/// Workload API section 4.2: the service needs no credentials of the workload, and no TLS.
#[tokio::test]
async fn must_not_require_tls_or_client_authentication() {
    let served = Served::new();
    // A plain connection, and no metadata but the header.
    let mut stream =
        served.client().await.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().svids.len(), 1);
}

/// Workload API section 4.1.
#[tokio::test]
async fn must_send_the_first_message_of_a_stream_at_once() {
    let served = Served::new();
    let mut client = served.client().await;
    // Nothing changes meanwhile: what comes is not a change.
    client
        .fetch_x509svid(request(X509svidRequest {}))
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let bundles = client.fetch_x509_bundles(request(X509BundlesRequest {})).await.unwrap();
    bundles.into_inner().message().await.unwrap().unwrap();
    let bundles = client.fetch_jwt_bundles(request(JwtBundlesRequest {})).await.unwrap();
    bundles.into_inner().message().await.unwrap().unwrap();
}

/// Workload API section 4.1: a message replaces the one before; what it leaves out is withdrawn.
#[tokio::test]
async fn must_send_the_whole_state_in_every_message() {
    let served = Served::new();
    let mut client = served.client().await;
    let mut svids = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    let mut x509 = client.fetch_x509_bundles(request(X509BundlesRequest {})).await.unwrap().into_inner();
    let mut jwt = client.fetch_jwt_bundles(request(JwtBundlesRequest {})).await.unwrap().into_inner();
    assert!(svids.message().await.unwrap().unwrap().federated_bundles.is_empty());
    assert_eq!(x509.message().await.unwrap().unwrap().bundles.len(), 1);
    assert_eq!(jwt.message().await.unwrap().unwrap().bundles.len(), 1);

    // Another trust domain is federated with, and no longer.
    let own = Bundles::clone(&served.source.bundles.borrow());
    let root = common::root().der;
    served.source.bundles.send_replace(Arc::new(federated(&own, root.clone())));
    let message = svids.message().await.unwrap().unwrap();
    assert_eq!(message.svids.len(), 1);
    assert_eq!(message.federated_bundles[&format!("spiffe://{FOREIGN}")], root);
    let message = x509.message().await.unwrap().unwrap();
    assert_eq!((message.bundles.len(), &message.bundles[&format!("spiffe://{FOREIGN}")][..]), (2, &root[..]));
    assert_eq!(jwt.message().await.unwrap().unwrap().bundles.len(), 2);

    served.source.bundles.send_replace(Arc::new(own));
    assert!(svids.message().await.unwrap().unwrap().federated_bundles.is_empty());
    assert_eq!(x509.message().await.unwrap().unwrap().bundles.len(), 1);
    assert_eq!(jwt.message().await.unwrap().unwrap().bundles.len(), 1);
}

fn federated(own: &Bundles, root: Vec<u8>) -> Bundles {
    let domain = TrustDomain::parse(FOREIGN).unwrap();
    let mut jwt = (*own.jwt).clone();
    jwt.insert(domain.clone(), Arc::default());
    Bundles { jwt: Arc::new(jwt), foreign_x509: Arc::new([(domain, vec![root])].into()) }
}

/// SPIFFE Trust Domain and Bundle, section 3: bundles are kept apart.
#[tokio::test]
async fn must_not_merge_bundles_of_two_trust_domains() {
    let served = Served::new();
    let own = Bundles::clone(&served.source.bundles.borrow());
    let root = common::root().der;
    served.source.bundles.send_replace(Arc::new(federated(&own, root.clone())));
    let mut client = served.client().await;
    let message =
        client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner().message().await;
    let message = message.unwrap().unwrap();
    assert_eq!(message.svids[0].bundle, served.source.authority.der);
    assert!(!message.federated_bundles.contains_key("spiffe://plant.example"));
}

/// A bundle that changes is not a new identity: X.509 streams stay quiet, and JWT streams say it.
#[tokio::test]
async fn should_not_send_what_has_not_changed() {
    let served = Served::new();
    let mut client = served.client().await;
    let mut svids = client.fetch_x509svid(request(X509svidRequest {})).await.unwrap().into_inner();
    let first = svids.message().await.unwrap().unwrap();
    let mut jwt = client.fetch_jwt_bundles(request(JwtBundlesRequest {})).await.unwrap().into_inner();
    let before = jwt.message().await.unwrap().unwrap();
    served.source.bundles.send_replace(Arc::new(bundles_with(&[&served.source.jwt], 2)));
    assert_ne!(jwt.message().await.unwrap().unwrap(), before);
    served.source.rotate();
    // The next message is the rotated certificate, and not the old one again.
    assert_ne!(svids.message().await.unwrap().unwrap(), first);
}

/// Edgewarden's own services on the same socket.
const BESIDE: [&str; 2] = ["edgewarden.keys.v1.Keys", "edgewarden.secrets.v1.Secrets"];

async fn health(served: &Served, service: &str) -> Result<ServingStatus, Status> {
    let mut client = HealthClient::new(served.channel().await);
    let answer = client.check(HealthCheckRequest { service: service.into() }).await?;
    Ok(answer.into_inner().status())
}

#[tokio::test]
async fn health_says_whether_an_identity_can_be_given() {
    let served = Served::new();
    for service in ["", "SpiffeWorkloadAPI", "grpc.reflection.v1.ServerReflection"].into_iter().chain(BESIDE)
    {
        assert_eq!(health(&served, service).await.unwrap(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(health(&served, "other").await.unwrap_err().code(), Code::NotFound);
    *served.source.refuse_identity.lock().unwrap() = Some(Reason::IdentityUnavailable);
    assert_eq!(health(&served, "").await.unwrap(), ServingStatus::NotServing);
    *served.source.refuse_callers.lock().unwrap() = Some(Reason::CallerNotModule);
    assert_eq!(health(&served, "").await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_watch_of_health_follows_the_identity_and_counts_as_a_stream() {
    let served = Served::new();
    let mut client = HealthClient::new(served.channel().await);
    let watch = |service: &str| HealthCheckRequest { service: service.into() };
    let mut updates = client.watch(watch("SpiffeWorkloadAPI")).await.unwrap().into_inner();
    assert_eq!(updates.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    *served.source.refuse_identity.lock().unwrap() = Some(Reason::IdentityUnavailable);
    served.source.give(None);
    assert_eq!(updates.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    *served.source.refuse_identity.lock().unwrap() = None;
    served.source.rotate();
    assert_eq!(updates.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut unknown = client.watch(watch("other")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);

    let mut open = vec![updates, unknown];
    let mut refused = None;
    let mut clients = Vec::new();
    while open.len() <= STREAMS_MAX && refused.is_none() {
        if open.len() % 128 == 0 || clients.is_empty() {
            clients.push(HealthClient::new(served.channel().await));
        }
        match clients.last_mut().unwrap().watch(watch("")).await {
            Ok(stream) => open.push(stream.into_inner()),
            Err(status) => refused = Some(status),
        }
    }
    assert_eq!(open.len(), STREAMS_MAX);
    assert!(refused.unwrap().message().starts_with("caller.budget: "));
    // Other callers' streams end when they are callers no more.
    *served.source.refuse_callers.lock().unwrap() = Some(Reason::CallerNotModule);
    for mut stream in open {
        while stream.message().await.unwrap().is_some() {}
    }
}

/// Asks one version of reflection.
macro_rules! reflect {
    ($served:expr, $version:ident, $asked:ident, $text:expr) => {{
        use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version::{ServerReflectionRequest, server_reflection_response};
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::$asked($text.to_owned())),
        };
        let mut client = ServerReflectionClient::new($served.channel().await);
        let answers = client.server_reflection_info(futures_util::stream::iter([request])).await;
        match answers {
            Err(status) => Err(status),
            Ok(answers) => {
                let answer = answers.into_inner().message().await.unwrap().unwrap();
                match answer.message_response.unwrap() {
                    server_reflection_response::MessageResponse::ListServicesResponse(list) => {
                        Ok(list.service.into_iter().map(|service| service.name).collect::<Vec<_>>().join(" "))
                    }
                    server_reflection_response::MessageResponse::FileDescriptorResponse(files) => {
                        let file: prost_types::FileDescriptorProto =
                            prost::Message::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
                        Ok(file.name().to_owned())
                    }
                    other => Ok(format!("{other:?}")),
                }
            }
        }
    }};
}

/// Workload API section 3: servers SHOULD reflect.
#[tokio::test]
async fn should_serve_reflection() {
    let served = Served::new();
    for listed in [reflect!(served, v1, ListServices, ""), reflect!(served, v1alpha, ListServices, "")] {
        let listed = listed.unwrap();
        for service in ["SpiffeWorkloadAPI"].into_iter().chain(BESIDE) {
            assert!(listed.split(' ').any(|name| name == service), "{service} is not in {listed}");
        }
    }
    for (symbol, file) in [
        ("SpiffeWorkloadAPI", "workloadapi.proto"),
        ("SpiffeWorkloadAPI.FetchX509SVID", "workloadapi.proto"),
        ("google.protobuf.Struct", "google/protobuf/struct.proto"),
        ("edgewarden.keys.v1.Keys", "keys.proto"),
        ("edgewarden.secrets.v1.WatchResponse.secrets", "secrets.proto"),
    ] {
        assert_eq!(reflect!(served, v1, FileContainingSymbol, symbol).unwrap(), file);
        assert_eq!(reflect!(served, v1alpha, FileContainingSymbol, symbol).unwrap(), file);
        assert_eq!(reflect!(served, v1, FileByFilename, file).unwrap(), file);
    }
    let unknown = reflect!(served, v1, FileContainingSymbol, "SpiffeWorkloadAPI.Nothing").unwrap();
    assert!(unknown.starts_with("ErrorResponse"), "{unknown}");
    *served.source.refuse_callers.lock().unwrap() = Some(Reason::CallerNotModule);
    assert_eq!(reflect!(served, v1, ListServices, "").unwrap_err().code(), Code::PermissionDenied);
}

/// A call that fits no budget or rule leaves nothing behind.
#[tokio::test]
async fn refused_calls_hold_no_streams() {
    let served = Served::new();
    for _ in 0..3 {
        drop(all_calls(&served, &MetadataMap::new()).await);
    }
    assert_eq!(served.source.streams.load(Ordering::SeqCst), 0);
    drop(UnixStream::connect(&served.socket).await.unwrap());
    assert_eq!(ID.matches("spiffe://").count(), 1);
}
