//! Routing of a call to a service of the socket: the first part of its path names it (gRPC over HTTP/2, "Requests").

use std::sync::Arc;

use edgewarden_names::{Reason, Refusal};
use edgewarden_workload_wire::SECURITY_HEADER;
use edgewarden_workload_wire::keysapi::keys_server::{KeysServer, SERVICE_NAME as KEYS};
use edgewarden_workload_wire::secrets_v1::secrets_server::{SERVICE_NAME as SECRETS, SecretsServer};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic_health::pb::health_server::{HealthServer, SERVICE_NAME as HEALTH};
use tonic_reflection::pb::v1::server_reflection_server as v1;
use tonic_reflection::pb::v1alpha::server_reflection_server as v1alpha;
use tower::ServiceExt;

use crate::arriving::Arriving;
use crate::health::Health;
use crate::keys::{KEYS_REQUEST_BYTES_MAX, KeysService};
use crate::limits::REQUEST_BYTES_MAX;
use crate::reflection::Reflection;
use crate::service::Service;
use crate::status::status;
use crate::{rpc, sds, secrets};

/// Every service that the socket offers.
#[derive(Clone)]
pub(super) struct Services {
    workload: Arc<Service>,
    health: HealthServer<Health>,
    reflection: v1::ServerReflectionServer<Reflection>,
    reflection_alpha: v1alpha::ServerReflectionServer<Reflection>,
    secrets: sds::Secrets,
    deployment_secrets: SecretsServer<secrets::Service>,
    keys: KeysServer<KeysService>,
    arriving: Arriving,
}

impl Services {
    pub(super) fn new(
        service: Arc<Service>,
        secrets: sds::Secrets,
        deployment_secrets: SecretsServer<secrets::Service>,
    ) -> Self {
        let reflection = Arc::new(Reflection(Arc::clone(&service)));
        let bytes = REQUEST_BYTES_MAX;
        Self {
            health: HealthServer::new(Health(Arc::clone(&service))).max_decoding_message_size(bytes),
            reflection: v1::ServerReflectionServer::from_arc(Arc::clone(&reflection))
                .max_decoding_message_size(bytes),
            reflection_alpha: v1alpha::ServerReflectionServer::from_arc(reflection)
                .max_decoding_message_size(bytes),
            keys: KeysServer::new(KeysService {
                source: Arc::clone(&service.source),
                turns: service.turns.clone(),
            })
            .max_decoding_message_size(KEYS_REQUEST_BYTES_MAX),
            workload: service,
            arriving: Arriving::new(),
            secrets,
            deployment_secrets: deployment_secrets.max_decoding_message_size(bytes),
        }
    }

    pub(super) async fn call(self, request: Request<Body>) -> Response<Body> {
        // Held until the answer begins.
        let _place = match self.arriving.begin() {
            Ok(place) => place,
            Err(status) => return status.into_http(),
        };
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        let is_exchange = matches!(name, sds::SERVICE_NAME | v1::SERVICE_NAME | v1alpha::SERVICE_NAME);
        let request = if is_exchange { request } else { self.arriving.bound(request).await };
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        let answered = match name {
            rpc::SERVICE_NAME => match check_header(request.headers()) {
                Ok(()) => return rpc::call(&self.workload, request).await,
                Err(refusal) => return status(&refusal).into_http(),
            },
            // These two give no identity, and generic tools that ask them know nothing of our header.
            HEALTH => self.health.oneshot(request).await,
            v1::SERVICE_NAME => self.reflection.oneshot(request).await,
            v1alpha::SERVICE_NAME => self.reflection_alpha.oneshot(request).await,
            sds::SERVICE_NAME => return self.secrets.call(request).await,
            SECRETS => match check_header(request.headers()) {
                Ok(()) => self.deployment_secrets.oneshot(request).await,
                Err(refusal) => return status(&refusal).into_http(),
            },
            KEYS => match check_header(request.headers()) {
                Ok(()) => self.keys.oneshot(request).await,
                Err(refusal) => return status(&refusal).into_http(),
            },
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
