//! gRPC server reflection (grpc.reflection.v1 and v1alpha): which services the socket has, and their descriptors.
//!
//! Everything it tells is public text. As with health, no security header, but the socket's own callers only.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use edgewarden_workload_wire::descriptors;
use futures_util::Stream;
use futures_util::stream::unfold;
use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

use crate::limits::EXCHANGES_MAX;
use crate::places::take;
use crate::service::{Service, own_caller};

/// The descriptor sets that are offered: each has its imports with it.
const DESCRIPTORS: [&[u8]; 7] = [
    descriptors::WORKLOAD,
    descriptors::ENVOY,
    descriptors::KEYS,
    descriptors::SECRETS,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

pub(super) struct Reflection(pub(super) Arc<Service>);

/// Files by name, which file defines a symbol, and the services. One for all sockets.
#[derive(Default)]
struct Catalogue {
    files: HashMap<String, Vec<u8>>,
    symbols: HashMap<String, String>,
    services: Vec<String>,
}

/// The names of the services that are offered.
pub(super) fn services() -> impl Iterator<Item = &'static str> {
    catalogue().services.iter().map(String::as_str)
}

fn catalogue() -> &'static Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| {
        let mut catalogue = Catalogue::default();
        // Ours and constant: that all of them can be read is tested.
        for set in DESCRIPTORS.iter().filter_map(|set| FileDescriptorSet::decode(*set).ok()) {
            set.file.iter().for_each(|file| catalogue.add(file));
        }
        catalogue.services.sort();
        catalogue
    })
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.into() } else { format!("{scope}.{name}") }
}

impl Catalogue {
    fn add(&mut self, file: &FileDescriptorProto) {
        if self.files.insert(file.name().into(), file.encode_to_vec()).is_some() {
            return;
        }
        for message in &file.message_type {
            self.message(file.name(), file.package(), message);
        }
        for one in &file.enum_type {
            self.enumeration(file.name(), file.package(), one);
        }
        for service in &file.service {
            let name = join(file.package(), service.name());
            for method in &service.method {
                self.symbols.insert(join(&name, method.name()), file.name().into());
            }
            self.symbols.insert(name.clone(), file.name().into());
            self.services.push(name);
        }
    }

    fn message(&mut self, file: &str, scope: &str, message: &DescriptorProto) {
        let name = join(scope, message.name());
        for nested in &message.nested_type {
            self.message(file, &name, nested);
        }
        for nested in &message.enum_type {
            self.enumeration(file, &name, nested);
        }
        for field in &message.field {
            self.symbols.insert(join(&name, field.name()), file.into());
        }
        self.symbols.insert(name, file.into());
    }

    fn enumeration(&mut self, file: &str, scope: &str, one: &EnumDescriptorProto) {
        // Values stand in the scope around their enumeration, as in C++.
        for value in &one.value {
            self.symbols.insert(join(scope, value.name()), file.into());
        }
        self.symbols.insert(join(scope, one.name()), file.into());
    }

    fn containing(&self, symbol: &str) -> Option<&Vec<u8>> {
        self.files.get(self.symbols.get(symbol)?)
    }
}

/// Both versions of the protocol are the same but for the names of their types.
macro_rules! serve_version {
    ($version:ident) => {
        mod $version {
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            use tonic_reflection::pb::$version::server_reflection_server::ServerReflection;
            use tonic_reflection::pb::$version::{
                ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
                ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
            };

            use super::*;

            fn not_found() -> MessageResponse {
                let error_message = "there is nothing of that name here".into();
                MessageResponse::ErrorResponse(ErrorResponse {
                    error_code: Code::NotFound.into(),
                    error_message,
                })
            }

            fn answer(request: ServerReflectionRequest) -> ServerReflectionResponse {
                let file = |found: Option<&Vec<u8>>| {
                    found.map_or_else(not_found, |file| {
                        let file_descriptor_proto = vec![file.clone()];
                        MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
                            file_descriptor_proto,
                        })
                    })
                };
                let catalogue = catalogue();
                let found = match &request.message_request {
                    Some(MessageRequest::ListServices(_)) => {
                        let service = services().map(|name| ServiceResponse { name: name.into() }).collect();
                        MessageResponse::ListServicesResponse(ListServiceResponse { service })
                    }
                    Some(MessageRequest::FileByFilename(name)) => file(catalogue.files.get(name)),
                    Some(MessageRequest::FileContainingSymbol(name)) => file(catalogue.containing(name)),
                    // proto3 has no extensions.
                    Some(MessageRequest::AllExtensionNumbersOfType(name))
                        if catalogue.symbols.contains_key(name) =>
                    {
                        MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                            base_type_name: name.clone(),
                            extension_number: Vec::new(),
                        })
                    }
                    _ => not_found(),
                };
                ServerReflectionResponse {
                    valid_host: request.host.clone(),
                    original_request: Some(request),
                    message_response: Some(found),
                }
            }

            #[async_trait]
            impl ServerReflection for Reflection {
                type ServerReflectionInfoStream =
                    Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

                async fn server_reflection_info(
                    &self,
                    request: Request<Streaming<ServerReflectionRequest>>,
                ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
                    own_caller(&self.0, &request)?;
                    let permit = take(&self.0.exchanges, EXCHANGES_MAX)?;
                    let state = (request.into_inner(), self.0.stopped.clone(), permit);
                    let answers = unfold(state, async |(mut requests, mut stopped, permit)| {
                        let request = tokio::select! {
                            _ = stopped.changed() => return None,
                            request = requests.message() => request.ok()??,
                        };
                        Some((Ok(answer(request)), (requests, stopped, permit)))
                    });
                    Ok(Response::new(Box::pin(answers)))
                }
            }
        }
    };
}

serve_version!(v1);
serve_version!(v1alpha);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descriptor_can_be_read_and_is_complete() {
        let catalogue = catalogue();
        for set in DESCRIPTORS {
            let set = FileDescriptorSet::decode(set).unwrap();
            for file in &set.file {
                assert!(catalogue.files.contains_key(file.name()));
                assert!(file.dependency.iter().all(|import| catalogue.files.contains_key(import)));
            }
        }
        let expected = [
            "SpiffeWorkloadAPI",
            crate::sds::SERVICE_NAME,
            edgewarden_workload_wire::keysapi::keys_server::SERVICE_NAME,
            edgewarden_workload_wire::secrets_v1::secrets_server::SERVICE_NAME,
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ];
        for name in expected {
            assert!(services().any(|service| service == name), "{name}");
        }
        for symbol in [
            "SpiffeWorkloadAPI.FetchJWTSVID",
            "X509SVID.hint",
            "envoy.service.secret.v3.SecretDiscoveryService.DeltaSecrets",
            "google.protobuf.Struct.FieldsEntry",
            "edgewarden.secrets.v1.Secrets.Watch",
            "edgewarden.secrets.v1.WatchResponse.secrets",
        ] {
            assert!(catalogue.containing(symbol).is_some(), "{symbol}");
        }
    }
}
