//! Step 6: each module holds its own certificate, checked by a stock library, rotated without a broken connection.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::{Shown, lines_with};
use crate::process::{run, wait_for};
use crate::site::Site;
use crate::{Failure, ensure};

const WAIT: Duration = Duration::from_secs(30);

pub fn identify(site: &mut Site) -> Shown {
    let connected = wait_for("analytics to reach alerts", WAIT, || line(site, "analytics", "connected to"))?;
    let before = count(site, "svid rotated")?;
    run(&mut site.edgewarden(&["svid", "rotate", "analytics"]))?.ok()?;
    let rotated = wait_for("the rotation", WAIT, || {
        ensure(count(site, "svid rotated")? > before, || "not rotated yet".into())?;
        line(site, "analytics", "svid rotated")
    })?;
    ensure(rotated.contains("connections broken: 0"), || format!("rotation broke a connection: {rotated}"))?;
    let chain = openssl_accepts(site)?;
    Ok(vec![
        "modules hold X.509-SVIDs by the stock SPIFFE library and speak mutual TLS".into(),
        connected,
        rotated,
        chain,
    ])
}

fn line(site: &Site, module: &str, word: &str) -> Result<String, Failure> {
    let logs = site.logs(module)?;
    let found = lines_with(&logs, word).last().map(|line| (*line).to_owned());
    found.ok_or_else(|| {
        Failure(format!("{module} did not print `{word}`:\n{}", crate::process::tail(&logs, 10)))
    })
}

fn count(site: &Site, word: &str) -> Result<usize, Failure> {
    Ok(lines_with(&site.logs("analytics")?, word).len())
}

/// An independent verifier checks the chain that `alerts` shows on its port.
fn openssl_accepts(site: &Site) -> Result<String, Failure> {
    let status = site.status()?;
    let alerts = crate::site::module(&status, "alerts").ok_or_else(|| Failure::new("no module alerts"))?;
    let pid = alerts["pid"].to_string();
    // From inside the module's own network: nobody else may connect to it.
    let mut show = Command::new("nsenter");
    show.args(["--target", &pid, "--net", "openssl", "s_client", "-connect", "127.0.0.1:9443", "-showcerts"]);
    let shown = run(&mut show)?.stdout;
    let certificates: Vec<&str> = shown.split("-----BEGIN CERTIFICATE-----").skip(1).collect();
    let pem = |body: &str| {
        let end = body.split("-----END CERTIFICATE-----").next().unwrap_or_default();
        format!("-----BEGIN CERTIFICATE-----{end}-----END CERTIFICATE-----\n")
    };
    let [leaf, issuers @ ..] = certificates.as_slice() else {
        return Err(Failure(format!("alerts showed no certificate:\n{shown}")));
    };
    let (leaf_file, issuer_file) = (site.path("alerts-leaf.pem"), site.path("alerts-issuers.pem"));
    fs::write(&leaf_file, pem(leaf))?;
    fs::write(&issuer_file, issuers.iter().map(|body| pem(body)).collect::<String>())?;
    let mut verify = Command::new("openssl");
    verify.args(["verify", "-CAfile"]).arg(site.path("fleet/root.pem"));
    run(verify.arg("-untrusted").arg(issuer_file).arg(&leaf_file))?.ok()?;
    let mut text = Command::new("openssl");
    let san = run(text.args(["x509", "-noout", "-ext", "subjectAltName", "-in"]).arg(&leaf_file))?.ok()?;
    let id = san.split([',', '\n']).find_map(|name| name.trim().strip_prefix("URI:")).unwrap_or_default();
    ensure(id.ends_with("/module/alerts"), || format!("the certificate of alerts names `{id}`"))?;
    Ok(format!("openssl verify accepts the chain of {id} ({} certificates)", certificates.len()))
}
