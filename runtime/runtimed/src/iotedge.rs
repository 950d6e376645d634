//! The variables by which Azure's SDKs find the IoT Edge workload API and know whom they speak for.

use edgewarden_names::{GatewayName, ModuleName, TrustDomain};

/// The gateway is the device; the trust domain stands where the hub's name is expected, as the audience of tokens. The
/// gateway's host name is the one that its broker's certificate has and that `/etc/hosts` resolves.
pub fn env<'a>(
    gateway: &'a GatewayName,
    trust_domain: &'a TrustDomain,
    module: &'a ModuleName,
    generation: &'a str,
) -> [(&'static str, &'a str); 8] {
    [
        ("IOTEDGE_WORKLOADURI", "unix:///run/edgewarden/workload.sock"),
        ("IOTEDGE_MODULEID", module.as_str()),
        ("IOTEDGE_MODULEGENERATIONID", generation),
        ("IOTEDGE_DEVICEID", gateway.as_str()),
        ("IOTEDGE_IOTHUBHOSTNAME", trust_domain.as_str()),
        ("IOTEDGE_GATEWAYHOSTNAME", "gateway"),
        ("IOTEDGE_APIVERSION", "2022-08-03"),
        ("IOTEDGE_AUTHSCHEME", "sasToken"),
    ]
}
