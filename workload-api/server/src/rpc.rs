//! The calls of `SpiffeWorkloadAPI`, from the path of a request to the bytes of its answer.
//!
//! In place of the generated server, for the sake of streams: that one encodes each message anew for each of them, and
//! leaves the bytes, a private key among them, in a buffer that nobody wipes. Requests are read, and refused, by tonic
//! all the same.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use edgewarden_names::Refusal;
use edgewarden_workload_wire::codec::ProstCodec;
use edgewarden_workload_wire::workloadapi::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use futures_util::stream::empty;
use hyper::body::{Body as HttpBody, Frame};
use prost::bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::server::Grpc;
use tonic::{Code, Status};
use tower::service_fn;

use crate::encoded::Streamed;
use crate::jwt;
use crate::limits::REQUEST_BYTES_MAX;
use crate::service::Service;
use crate::source::IdentitySource;
use crate::stream::Updates;

/// The service has no package: its name alone is the first part of a path.
pub(super) const SERVICE_NAME: &str = "SpiffeWorkloadAPI";

pub(super) async fn call(service: &Service, request: Request<Body>) -> Response<Body> {
    match request.uri().path() {
        "/SpiffeWorkloadAPI/FetchX509SVID" => {
            stream::<X509svidRequest, X509svidResponse>(service, request).await
        }
        "/SpiffeWorkloadAPI/FetchX509Bundles" => {
            stream::<X509BundlesRequest, X509BundlesResponse>(service, request).await
        }
        "/SpiffeWorkloadAPI/FetchJWTBundles" => {
            stream::<JwtBundlesRequest, JwtBundlesResponse>(service, request).await
        }
        "/SpiffeWorkloadAPI/FetchJWTSVID" => {
            unary::<JwtsvidRequest, JwtsvidResponse>(service, request, jwt::fetch).await
        }
        "/SpiffeWorkloadAPI/ValidateJWTSVID" => {
            unary::<ValidateJwtsvidRequest, ValidateJwtsvidResponse>(service, request, jwt::validated).await
        }
        _ => Status::unimplemented("this gateway does not offer that call").into_http(),
    }
}

fn grpc<Q, A>() -> Grpc<ProstCodec<A, Q>>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + 'static,
{
    Grpc::new(ProstCodec::default()).apply_max_message_size_config(Some(REQUEST_BYTES_MAX), None)
}

async fn unary<Q, A>(
    service: &Service,
    request: Request<Body>,
    answer: fn(&dyn IdentitySource, &Q) -> Result<A, Refusal>,
) -> Response<Body>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + 'static,
{
    let call = service_fn(async |request: tonic::Request<Q>| {
        let _turn = service.turns.mine().await;
        service.answer(&request, answer)
    });
    grpc::<Q, A>().unary(call, request).await
}

async fn stream<Q, M>(service: &Service, request: Request<Body>) -> Response<Body>
where
    Q: prost::Message + Default + 'static,
    M: Streamed,
{
    let opened = Mutex::new(None);
    let open = service_fn(async |request: tonic::Request<Q>| {
        let _turn = service.turns.mine().await;
        let updates = service.open::<Q, M>(&request)?;
        *opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(updates);
        // Its place is taken by the updates below.
        Ok::<_, Status>(tonic::Response::new(empty::<Result<M, Status>>()))
    });
    let response = grpc::<Q, M>().server_streaming(open, request).await;
    let updates = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
    match updates {
        Some(updates) => response.map(|_| Body::new(Answer { updates: Some(updates) })),
        None => response,
    }
}

/// Messages, then the status, which ends it (gRPC over HTTP/2, "Responses").
struct Answer {
    /// `None` when the status has been said.
    updates: Option<Updates>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(updates) = &mut self.updates else { return Poll::Ready(None) };
        let status = match ready!(updates.as_mut().poll_next(cx)) {
            Some(Ok(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Err(status)) => status,
            None => Status::new(Code::Ok, ""),
        };
        self.updates = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.updates.is_none()
    }
}
