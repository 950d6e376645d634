//! Step 8: what must not happen does not, and each refusal says why with its reason code.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Shown, deploy, flow, sign};
use crate::process::{run, wait_for};
use crate::site::{Keys, REGISTRY, Site, module, names_reason};
use crate::{Failure, ensure};

const WAIT: Duration = Duration::from_secs(30);

pub fn all(site: &mut Site) -> Shown {
    let mut shown = vec!["every attempt was refused, with its reason".to_owned()];
    shown.extend(images(site)?);
    shown.push(wrong_key(site)?);
    shown.push(older_version(site)?);
    shown.push(foreign_process(site)?);
    shown.push(unnamed_flow(site)?);
    shown.push(foreign_topic(site)?);
    if site.keys == Keys::SimulatedTpm {
        shown.push(changed_kernel(site)?);
    }
    Ok(shown)
}

/// An image without a signature, and one whose tag was moved to other content with the old signature beside it.
pub fn images(site: &Site) -> Result<Vec<String>, Failure> {
    site.push_image("sensor", "clinic/unsigned:1")?;
    site.push_image("analytics", "clinic/moved:1")?;
    site.sign_image("clinic/moved:1")?;
    let signed = tag_digest("clinic/moved", "1")?;
    let moved = site.push_image("sensor", "clinic/moved:1")?;
    let moved = moved.rsplit_once("sha256:").map_or("", |(_, hex)| hex).to_owned();
    let signature = registry("GET", &format!("/v2/clinic/moved/manifests/sha256-{signed}.sig"), "")?;
    registry("PUT", &format!("/v2/clinic/moved/manifests/sha256-{moved}.sig"), &signature)?;

    let extra = |text: String| {
        let module = |name: &str| {
            format!("\n[[modules]]\nname = \"{name}\"\nimage = \"{REGISTRY}/clinic/{name}:1\"\n")
        };
        // Arrays of tables may follow in any order, so that appending is enough.
        format!("{text}{}{}", module("unsigned"), module("moved"))
    };
    deploy::send(site, 2, "operator.key", extra)?.refused("image.unsigned")?;
    // Who deploys it all the same meets the gateway's refusal.
    deploy::send_unjudged(site, 2, "operator.key", extra)?.ok()?;
    for (name, reason) in [("unsigned", "image.unsigned"), ("moved", "image.digest_mismatch")] {
        wait_for("the refusal of an image", WAIT, || {
            let status = site.status()?;
            let module = module(&status, name).ok_or_else(|| Failure(format!("no module {name} yet")))?;
            ensure(module["reason"]["reason"] == reason, || format!("module {name} is {module}"))
        })?;
    }
    // The good modules of the same deployment run all the same.
    site.wait_for_modules(&sign::MODULES)?;
    deploy::send(site, 3, "operator.key", |text| text)?.ok()?;
    wait_for("version 3", WAIT, || {
        let status = site.status()?;
        ensure(status["identity"]["deployment"][1] == 3, || "not yet in force".into())
    })?;
    site.wait_for_modules(&sign::MODULES)?;
    Ok(vec![
        "image.unsigned: an image that nobody signed".into(),
        "image.digest_mismatch: an image whose tag was moved after signing".into(),
    ])
}

/// A fleet server in the wrong hands carries it: the gateway itself refuses.
pub fn wrong_key(site: &mut Site) -> Result<String, Failure> {
    site.restart_fleet(&["--dangerous-carry-unverified"])?;
    deploy::send(site, 9, "stranger.key", |text| text)?.ok()?;
    wait_for("the refusal of a foreign deployment", WAIT, || {
        let status = site.status()?;
        ensure(names_reason(&status, "deployment.signature"), || "not refused yet".into())?;
        ensure(status["identity"]["deployment"][1] == 3, || "it took force".into())
    })?;
    site.restart_fleet(&[])?;
    deploy::send(site, 9, "stranger.key", |text| text)?.refused("deployment.signature")?;
    Ok("deployment.signature: a deployment signed by a key that is not pinned, even from a stolen fleet server".into())
}

/// An envelope that was good once, given to the gateway again.
pub fn older_version(site: &Site) -> Result<String, Failure> {
    let envelope = site.path("old-deployment.json");
    deploy::write_envelope(site, 1, "operator.key", &envelope)?;
    run(site.edgewarden(&["deployment", "apply"]).arg(&envelope))?.refused("deployment.rollback")?;
    Ok("deployment.rollback: a deployment older than the one in force".into())
}

/// A process of the host, root even, asks on a module's socket.
pub fn foreign_process(site: &Site) -> Result<String, Failure> {
    let status = site.status()?;
    let instance = module(&status, "analytics").map(|module| module["instance"].clone()).unwrap_or_default();
    let folder = format!("run/edgewarden/identityd/workload/{}", instance.as_str().unwrap_or_default());
    let socket: PathBuf = site.root().join(folder).join("api.sock");
    run(site.edgewarden(&["svid", "fetch", "--socket"]).arg(socket))?.refused("caller.not_module")?;
    Ok("caller.not_module: a process outside the container on the module's socket".into())
}

/// From the network of one module to a port of another that no rule names.
pub fn unnamed_flow(site: &Site) -> Result<String, Failure> {
    let status = site.status()?;
    let of = |name: &str| module(&status, name).ok_or_else(|| Failure(format!("no module {name}")));
    let pid = of("alerts")?["pid"].to_string();
    let to = of("analytics")?["address"].as_str().unwrap_or_default().to_owned();
    let mut connect = Command::new("nsenter");
    let attempt = format!("exec 3<>/dev/tcp/{to}/9443");
    connect.args(["--target", &pid, "--net", "timeout", "2", "bash", "-c", &attempt]);
    ensure(!run(&mut connect)?.status.success(), || "the connection was not blocked".into())?;
    wait_for("the audit of a blocked flow", WAIT, || {
        let audit = run(&mut site.edgewarden(&["audit", "show", "--last", "200"]))?.ok()?;
        let told = audit.lines().any(|line| line.contains("policy.denied") && line.contains("9443"));
        ensure(told, || "the audit log does not have it".into())
    })?;
    Ok("policy.denied: a module opening a flow that no rule names (blocked in the kernel, logged)".into())
}

pub fn foreign_topic(site: &Site) -> Result<String, Failure> {
    let mut publish = flow::sensor(site, flow::SENSOR, &["--limit", "1", "--topic", "leaf/sensor-2/glucose"]);
    ensure(!run(&mut publish)?.status.success(), || "the sensor could publish on another's topic".into())?;
    wait_for("the audit of a foreign topic", WAIT, || {
        let audit = run(&mut site.edgewarden(&["audit", "show", "--last", "200"]))?.ok()?;
        let told = audit.lines().any(|line| line.contains("policy.denied") && line.contains("sensor-2"));
        ensure(told, || "the audit log does not have it".into())
    })?;
    Ok("policy.denied: a sensor publishing on another sensor's topic".into())
}

/// The same TPM after a boot with another kernel: it proves exactly that, and gets no certificate for it.
pub fn changed_kernel(site: &Site) -> Result<String, Failure> {
    site.power_cut()?;
    site.boot("changed-kernel")?;
    let said = run(&mut site.edgewarden(&["renew"]))?.refused("attest.reference")?;
    let status = site.status()?;
    ensure(status["identity"]["verdict"]["state"] == "failed", || "the verdict did not fail".into())?;
    site.power_cut()?;
    site.boot("normal")?;
    run(&mut site.edgewarden(&["renew"]))?.ok()?;
    site.wait_for_modules(&sign::MODULES)?;
    let why = said.lines().next().unwrap_or_default().trim_start_matches("refused: ");
    Ok(format!("{why} (a boot with a changed kernel that asked to renew)"))
}

fn tag_digest(repository: &str, tag: &str) -> Result<String, Failure> {
    let head = http("GET", &format!("/v2/{repository}/manifests/{tag}"), "")?;
    let digest = head.lines().find_map(|line| line.strip_prefix("Docker-Content-Digest: sha256:"));
    digest.map(|hex| hex.trim().to_owned()).ok_or_else(|| Failure(format!("no digest in: {head}")))
}

/// Asks the registry as an attacker with write access does. Returns the body of an answer of 2xx.
fn registry(method: &str, path: &str, body: &str) -> Result<String, Failure> {
    let answer = http(method, path, body)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure(status.starts_with('2'), || format!("{method} {path}: {answer}"))?;
    Ok(body.to_owned())
}

fn http(method: &str, path: &str, body: &str) -> Result<String, Failure> {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let mut stream = TcpStream::connect(REGISTRY)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {REGISTRY}\r\nAccept: {MANIFEST}\r\nContent-Type: {MANIFEST}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
