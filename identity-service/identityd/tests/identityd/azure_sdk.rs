//! Azure's own SDKs as clients, from inside a container. They are set up by their package managers, once; where there is
//! no such manager or no network, the test says that it was skipped.

use crate::common;

use std::process::{Command, Output, Stdio};

use common::container::Container;
use common::fetched::set_up;
use common::iotedge::{Running, Site};
use edgewarden_names::pem;
use serde_json::{Value, json};

/// As `runtimed` sets them, but for the place of the socket.
fn variables(running: &Running) -> Vec<(String, String)> {
    let pairs = [
        ("IOTEDGE_WORKLOADURI", format!("unix://{}", running.socket.display())),
        ("IOTEDGE_MODULEID", running.module.clone()),
        ("IOTEDGE_MODULEGENERATIONID", running.generation.clone()),
        ("IOTEDGE_DEVICEID", "gw-1".into()),
        ("IOTEDGE_IOTHUBHOSTNAME", "plant.example".into()),
        ("IOTEDGE_GATEWAYHOSTNAME", "gateway".into()),
        ("IOTEDGE_APIVERSION", "2022-08-03".into()),
        ("IOTEDGE_AUTHSCHEME", "sasToken".into()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

fn run(command: &Command, inside: Option<&Container>) -> Output {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    copy.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let mut command = inside.map_or(copy, |container| container.command(command));
    command.stdin(Stdio::null()).output().unwrap()
}

/// The last line that the program printed.
fn printed(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next_back().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Checks a program's output: the trust bundle, and a token with what was signed for it.
fn check(site: &Site, running: &Running, said: &Value) {
    let root = pem::one(said["bundle"].as_str().unwrap(), pem::CERTIFICATE).unwrap();
    assert_eq!(root.as_slice(), site.gateway.root.certificate_der());
    let signed = said["signed"].as_str().unwrap();
    assert!(signed.contains("%2Fdevices%2Fgw-1%2Fmodules%2Falerts"), "{signed}");
    let data = said["data"].as_str().unwrap();
    assert_eq!(running.sign("primary", data).1, json!({"digest": said["digest"]}), "{said}");
}

const PYTHON: &str = r#"
import base64, json, urllib.parse
from azure.iot.device import IoTHubModuleClient
from azure.iot.device.iothub import edge_hsm
import os

client = IoTHubModuleClient.create_from_edge_environment()
config = client._mqtt_pipeline.pipeline_configuration
token = dict(part.split("=", 1) for part in str(config.sastoken).split(" ", 1)[1].split("&"))
data = token["sr"] + "\n" + token["se"]
print(json.dumps({
    "bundle": config.server_verification_cert,
    "signed": token["sr"],
    "data": base64.b64encode(data.encode()).decode(),
    "digest": urllib.parse.unquote(token["sig"]),
}))
os._exit(0)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_for_python_makes_a_client_from_its_environment() {
    let Some(folder) = set_up("azure-sdk-python", |folder| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
        pip.arg(folder).arg("azure-iot-device==2.14.0");
        pip
    }) else {
        return;
    };
    let site = Site::new().await;
    let alerts = site.start("alerts").await;
    let python = |variables: Vec<(String, String)>| {
        let mut command = Command::new("python3");
        command.args(["-c", PYTHON]).env("PYTHONPATH", &folder).envs(variables);
        command
    };
    let good = python(variables(&alerts));
    check(&site, &alerts, &printed(&run(&good, Some(&alerts.container))));

    // The same program elsewhere, or that says it is somebody else.
    let refused = |output: &Output| {
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("IoTEdgeError") && said.contains("403"), "{said}");
    };
    refused(&run(&good, None));
    refused(&run(&good, Some(&Container::new())));
    for (variable, value) in [("IOTEDGE_MODULEID", "analytics"), ("IOTEDGE_MODULEGENERATIONID", "99")] {
        let mut bad = python(variables(&alerts));
        bad.env(variable, value);
        refused(&run(&bad, Some(&alerts.container)));
    }
}

const NODE: &str = r"
const path = require('path');
const sdk = path.join(process.argv[1], 'node_modules', 'azure-iot-device', 'dist');
const { IotEdgeAuthenticationProvider } = require(path.join(sdk, 'iotedge_authentication_provider'));
const env = process.env;
const config = {
    workloadUri: env.IOTEDGE_WORKLOADURI, deviceId: env.IOTEDGE_DEVICEID, moduleId: env.IOTEDGE_MODULEID,
    iothubHostName: env.IOTEDGE_IOTHUBHOSTNAME, authScheme: env.IOTEDGE_AUTHSCHEME,
    gatewayHostName: env.IOTEDGE_GATEWAYHOSTNAME, generationId: env.IOTEDGE_MODULEGENERATIONID,
};
const provider = new IotEdgeAuthenticationProvider(config);
const fail = (error) => { console.error(String(error)); process.exit(1); };
provider.getTrustBundle((error, bundle) => {
    if (error) fail(error);
    provider.getDeviceCredentials((error, credentials) => {
        if (error) fail(error);
        const token = new URLSearchParams(credentials.sharedAccessSignature.split(' ')[1]);
        const audience = encodeURIComponent(token.get('sr'));
        console.log(JSON.stringify({
            bundle, signed: audience,
            data: Buffer.from(audience + '\n' + token.get('se')).toString('base64'),
            digest: token.get('sig'),
        }));
        process.exit(0);
    });
});
";

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_for_node_signs_and_finds_its_trust() {
    let Some(folder) = set_up("azure-sdk-node", |folder| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional", "--prefix"]);
        npm.arg(folder).arg("azure-iot-device@1.18.4");
        npm
    }) else {
        return;
    };
    let site = Site::new().await;
    let alerts = site.start("alerts").await;
    let mut node = Command::new("node");
    node.args(["-e", NODE]).arg(&folder).envs(variables(&alerts));
    check(&site, &alerts, &printed(&run(&node, Some(&alerts.container))));
    let refused = run(&node, None);
    assert!(!refused.status.success() && refused.stdout.is_empty());
}
