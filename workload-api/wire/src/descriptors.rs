//! File descriptor sets of the services, each with its imports (`google.protobuf.FileDescriptorSet`).

/// `SpiffeWorkloadAPI`.
pub const WORKLOAD: &[u8] = include_bytes!("../../proto/workloadapi.descriptor.bin");
/// Envoy's `SecretDiscoveryService`.
pub const ENVOY: &[u8] = include_bytes!("../../proto/envoy.descriptor.bin");
/// `edgewarden.keys.v1`.
pub const KEYS: &[u8] = include_bytes!("../../proto/keys.descriptor.bin");
/// `edgewarden.secrets.v1`.
pub const SECRETS: &[u8] = include_bytes!("../../proto/secrets.descriptor.bin");
