//! Two trust domains, end to end: a gateway of one, the fleet of another, and what a module of the gateway is given.

use std::fs;
use std::process::Command;
use std::time::Duration;

use edgewarden_tests::process::{Server, run, wait_for, wait_for_server};
use edgewarden_tests::site::{Keys, REGISTRY, Site};
use edgewarden_tests::{Failure, ensure, sandbox, story};
use serde_json::Value;

const OTHER_FLEET: &str = "127.0.0.1:9443";
const OTHER_BUNDLE: &str = "127.0.0.1:9444";
const OWN_BUNDLE: &str = "127.0.0.1:9445";
const WAIT: Duration = Duration::from_secs(40);
/// Says whenever it begins or ceases to be given a bundle of the other trust domain.
const READER: &str = r#"last=; while :; do
    if edgewarden svid fetch bundle --trust-domain other.example >/dev/null 2>&1; then now=held; else now=none; fi
    if [ "$now" != "$last" ]; then echo "bundle $now"; last=$now; fi
    sleep 0.2
done"#;

/// The other trust domain's fleet.
fn other(site: &Site, arguments: &[&str]) -> Command {
    let mut command = Command::new(site.program("edgewarden-fleet"));
    command.arg("--data").arg(site.path("other")).args(arguments);
    command
}

fn start_other(site: &Site) -> Server {
    let arguments = ["serve", "--listen", OTHER_FLEET, "--bundle-listen", OTHER_BUNDLE];
    let mut server =
        Server::start("the other fleet", &mut other(site, &arguments), &site.path("other.log")).unwrap();
    wait_for_server(&mut server, WAIT, || Ok(std::net::TcpStream::connect(OTHER_BUNDLE)?)).unwrap();
    server
}

fn push_reader(site: &Site) {
    let layout = site.path("reader-layout");
    let mut build = site.edgewarden(&["image", "build", "--binary", "/bin/bash", "--binary", "/bin/sleep"]);
    build.arg("--binary").arg(site.program("edgewarden"));
    run(build.arg("--layout").arg(&layout)).unwrap().ok().unwrap();
    let name = format!("{REGISTRY}/clinic/reader:1");
    let mut push = site.edgewarden(&["image", "push"]);
    run(push.arg(&layout).args([&name, "--plain-http", REGISTRY])).unwrap().ok().unwrap();
    site.sign_image("clinic/reader:1").unwrap();
}

fn deploy(site: &Site, version: u64, endpoint: &str) {
    let federation = format!(
        "[[federation]]\ntrust_domain = 'other.example'\nurl = 'https://{OTHER_BUNDLE}/'\nprofile = {{ \
         kind = 'https_spiffe', endpoint_spiffe_id = '{endpoint}', bundle_file = 'other/bundle.json' }}\n"
    );
    let text = format!(
        "name = 'federation'\nversion = {version}\npolicy = ''\n{federation}\
         [[image_keys]]\nname = 'release'\npublic_key_file = 'image.key.pub'\n\
         [[modules]]\nname = 'reader'\nimage = '{REGISTRY}/clinic/reader:1'\nmemory_bytes = 268435456\n\
         args = ['-c', '''{READER}''']\nfederates_with = ['other.example']\n"
    );
    let file = site.path("deployment.toml");
    fs::write(&file, text).unwrap();
    let mut deploy = site.operator(&["deploy"]);
    deploy.arg(file).arg("--key").arg(site.path("operator.key")).args(["--plain-http", REGISTRY, "--all"]);
    run(&mut deploy).unwrap().ok().unwrap();
}

fn federation(site: &Site) -> Result<Value, Failure> {
    Ok(site.json(&mut site.edgewarden(&["federation", "status"]))?[0].clone())
}

fn refresh(site: &Site) {
    run(&mut site.edgewarden(&["federation", "refresh"])).unwrap().ok().unwrap();
}

fn wait_until(site: &Site, what: &str, mut holds: impl FnMut() -> Result<bool, Failure>) {
    let waited = wait_for(what, WAIT, || {
        let held = holds()?;
        ensure(held, || "not yet".into())
    });
    if let Err(failure) = waited {
        let logs = site.logs("reader").unwrap_or_default();
        let status = federation(site).unwrap_or_default();
        panic!(
            "{failure}\n--- module\n{logs}\n--- federation\n{status}\n--- gateway\n{}",
            site.gateway_log(40)
        );
    }
}

/// Waits for the reason that is shown while an endpoint's answers are not taken.
fn refused(site: &Site, reason: &str) {
    wait_until(site, reason, || {
        refresh(site);
        Ok(federation(site)?["trouble"]["refusal"]["reason"] == reason)
    });
}

fn module_says(site: &Site, what: &str) {
    wait_until(site, what, || Ok(site.logs("reader")?.lines().last() == Some(what)));
}

fn two_trust_domains(site: &mut Site) {
    run(&mut other(site, &["init", "--trust-domain", "other.example", "--name", "127.0.0.1"]))
        .unwrap()
        .ok()
        .unwrap();
    let mut server = start_other(site);
    deploy(site, 1, "spiffe://other.example/fleet");
    site.wait_for_modules(&["reader"]).unwrap();
    module_says(site, "bundle held");
    wait_until(site, "the endpoint's own word", || Ok(!federation(site)?["held"]["confirmed"].is_null()));
    let sequence = federation(site).unwrap()["held"]["sequence"].clone();

    // The endpoint is away, and the gateway starts again without it.
    server.stop();
    refused(site, "federation.unavailable");
    site.crash_gateway().unwrap();
    site.start_gateway().unwrap();
    let mut fetch = site.edgewarden(&["federation", "status"]);
    assert!(run(&mut fetch).unwrap().ok().unwrap().contains("other.example"));
    assert_eq!(federation(site).unwrap()["held"]["sequence"], sequence);

    // It comes back with an older bundle.
    let file = site.path("other/bundle.json");
    let mut bundle: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    bundle["spiffe_sequence"] = 1.into();
    fs::write(&file, bundle.to_string()).unwrap();
    let mut server = start_other(site);
    refused(site, "federation.rollback");
    assert_eq!(federation(site).unwrap()["held"]["sequence"], sequence);

    // Another identity is expected than the endpoint has: nothing of it is taken, the first bundle counts.
    deploy(site, 2, "spiffe://other.example/somebody-else");
    wait_until(site, "the new deployment", || Ok(federation(site)?["held"]["sequence"] == 1));
    refused(site, "federation.untrusted");

    // With the right one all is well again: the operator has said that the older one is meant.
    deploy(site, 3, "spiffe://other.example/fleet");
    wait_until(site, "an answer that is taken", || {
        let status = federation(site)?;
        Ok(status["trouble"].is_null() && !status["held"]["confirmed"].is_null())
    });
    assert_eq!(site.logs("reader").unwrap().lines().last(), Some("bundle held"));
    server.stop();
}

/// The way back: the keys that our gateway signs JWT-SVIDs with are in our fleet's bundle.
fn our_own_bundle(site: &mut Site) {
    site.restart_fleet(&["--bundle-listen", OWN_BUNDLE]).unwrap();
    let file = site.path("fleet/bundle.json");
    wait_until(site, "the gateway's JWT keys in the bundle", || {
        let bundle: Value = serde_json::from_str(&fs::read_to_string(&file)?).unwrap_or_default();
        let keys = bundle["keys"].as_array().cloned().unwrap_or_default();
        Ok(keys.iter().any(|key| key["use"] == "jwt-svid")
            && keys.iter().any(|key| key["use"] == "x509-svid"))
    });
}

#[test]
fn federated_trust_domains() {
    let gateway = "federated-trust-domains";
    sandbox::test(module_path!(), "federated_trust_domains", || {
        let folder = tempfile::tempdir().unwrap();
        let mut site = Site::new(&folder.path().join("site"), gateway, Keys::Software).unwrap();
        if let Err(failure) = story::run(&mut site, &["manufacture", "fleet", "enrol"]) {
            panic!("{failure}\n--- gateway log\n{}", site.gateway_log(40));
        }
        site.start_registry().unwrap();
        site.make_image_key().unwrap();
        push_reader(&site);
        site.start_gateway().unwrap();
        two_trust_domains(&mut site);
        our_own_bundle(&mut site);
    });
    sandbox::remove_cgroups(gateway);
}
