//! Resident keys: what is refused before a key is asked for.

use crate::common;

use common::{Served, request};
use edgewarden_names::Reason;
use edgewarden_workload_wire::keysapi::keys_client::KeysClient;
use edgewarden_workload_wire::keysapi::{ListKeysRequest, UnsealRequest};
use tonic::{Code, Request};

#[tokio::test]
async fn the_security_header_holds_for_keys_too() {
    let served = Served::new();
    let mut client = KeysClient::new(served.channel().await);
    for values in [&[][..], &["false"], &["true", "true"], &["1"]] {
        let mut unmarked = Request::new(UnsealRequest::default());
        for value in values {
            unmarked.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
        }
        let Err(status) = client.unseal(unmarked).await else { panic!("{values:?} was answered") };
        assert_eq!(status.code(), Code::InvalidArgument, "{values:?}");
        assert!(status.message().starts_with("caller.header: "), "{status}");
    }
}

#[tokio::test]
async fn a_socket_without_keys_says_so_to_its_callers_alone() {
    let served = Served::new();
    let mut client = KeysClient::new(served.channel().await);
    let status = client.list_keys(request(ListKeysRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    *served.source.refuse_callers.lock().unwrap() = Some(Reason::CallerNotModule);
    let status = client.list_keys(request(ListKeysRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}
