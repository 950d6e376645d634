//! Our client, and a stock one, against the server.

use crate::common;

use std::sync::Arc;

use common::{ID, Served};
use edgewarden_names::Reason;
use edgewarden_svid::X509Context;
use edgewarden_workload_client::{self as client, FetchError};
use spiffe::{WorkloadApiClient, X509Source};

fn same(one: &X509Context, other: &X509Context) -> bool {
    one.id == other.id
        && one.chain_der == other.chain_der
        && one.key_pkcs8 == other.key_pkcs8
        && one.bundle_der == other.bundle_der
}

#[tokio::test]
async fn an_identity_is_fetched_whole() {
    let served = Served::new();
    let given = served.source.rotate();
    let fetched = client::fetch_once(&served.socket).await.unwrap();
    assert!(same(&fetched, &given));
    assert_eq!(fetched.trust_domain, given.trust_domain);
}

#[tokio::test]
async fn a_fetch_that_fails_says_how() {
    let mut served = Served::new();
    *served.source.refuse_callers.lock().unwrap() = Some(Reason::CallerNotModule);
    let error = client::fetch_once(&served.socket).await.unwrap_err();
    assert!(matches!(&error, FetchError::Refused(status) if status.code() == tonic::Code::PermissionDenied));
    assert!(error.to_string().contains("caller.not_module"), "{error}");
    served.stop().await;
    assert!(matches!(client::fetch_once(&served.socket).await, Err(FetchError::Connect { .. })));
}

#[tokio::test]
async fn a_follower_survives_its_server_and_keeps_the_last_good_identity() {
    let mut served = Served::new();
    let mut current = client::follow(served.socket.clone());
    let first = current.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    served.stop().await;
    assert!(same(current.borrow().as_ref().unwrap(), &first));

    let second = served.source.rotate();
    served.start();
    current.wait_for(|context| context.as_ref().is_some_and(|context| same(context, &second))).await.unwrap();
    let third = served.source.rotate();
    current.wait_for(|context| context.as_ref().is_some_and(|context| same(context, &third))).await.unwrap();
    assert_eq!(current.borrow().as_ref().unwrap().id.as_str(), ID);
}

#[tokio::test]
async fn a_follower_may_come_before_its_server() {
    let mut served = Served::new();
    served.stop().await;
    let mut current = client::follow(served.socket.clone());
    assert!(current.borrow().is_none());
    served.start();
    current.wait_for(Option::is_some).await.unwrap();
}

#[tokio::test]
async fn a_follower_that_nobody_holds_ends() {
    let served = Served::new();
    let mut current = client::follow(served.socket.clone());
    current.wait_for(Option::is_some).await.unwrap();
    drop(current);
    while served.source.streams.load(std::sync::atomic::Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stock_client_gets_what_the_specification_promises() {
    let served = Served::new();
    let endpoint = format!("unix:{}", served.socket.display());
    let stock = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
    let given = served.source.rotate();
    let context = stock.fetch_x509_context().await.unwrap();
    let svid = context.default_svid().unwrap();
    assert_eq!(svid.spiffe_id().to_string(), ID);
    assert_eq!(svid.cert_chain()[0].as_bytes(), given.chain_der[0]);
    let bundles = stock.fetch_x509_bundles().await.unwrap();
    assert_eq!(bundles.len(), 1);
    assert!(stock.fetch_x509_svid().await.is_ok());

    *served.source.refuse_callers.lock().unwrap() = Some(Reason::CallerNotModule);
    assert!(stock.fetch_x509_svid().await.is_err());
}

#[tokio::test]
async fn a_stock_source_follows_a_rotation() {
    let served = Served::new();
    let endpoint = format!("unix:{}", served.socket.display());
    let source = X509Source::builder().endpoint(&endpoint).build().await.unwrap();
    let mut updated = source.updated();
    let before = source.svid().unwrap();
    let given = served.source.rotate();
    updated.changed().await.unwrap();
    let after = source.svid().unwrap();
    assert!(!Arc::ptr_eq(&before, &after));
    assert_eq!(after.cert_chain()[0].as_bytes(), given.chain_der[0]);
    source.shutdown().await;
}
