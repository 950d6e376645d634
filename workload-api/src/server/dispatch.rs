//! Which service of the socket a call is for: the first part of its path names it (gRPC over HTTP/2, "Requests").

use edgewarden_names::{Reason, Refusal};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::ServiceExt;

use super::sds;
use super::service::{Service, status};
use crate::SECURITY_HEADER;
use crate::workloadapi::spiffe_workload_api_server::{SERVICE_NAME as WORKLOAD_API, SpiffeWorkloadApiServer};

/// Every service that the socket offers.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) workload: SpiffeWorkloadApiServer<Service>,
    pub(super) secrets: sds::Secrets,
}

impl Services {
    pub(super) async fn call(self, request: Request<Body>) -> Response<Body> {
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        let answered = match name {
            WORKLOAD_API => match check_header(request.headers()) {
                Ok(()) => self.workload.oneshot(request).await,
                Err(refusal) => return status(&refusal).into_http(),
            },
            sds::SERVICE_NAME => return self.secrets.call(request).await,
            _ => return Status::unimplemented("this socket does not offer that service").into_http(),
        };
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn check_header(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut values = headers.get_all(SECURITY_HEADER).into_iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Refusal::new(
            Reason::CallerHeader,
            SECURITY_HEADER,
            "the metadata must be there once, with the value `true`",
        )),
    }
}
