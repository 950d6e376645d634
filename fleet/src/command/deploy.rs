//! `deploy`, and `deployment list`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use edgewarden_names::{Epoch, GatewayName, TrustDomain};
use edgewarden_platform::durable;
use edgewarden_protocol::config::Runtime;
use edgewarden_protocol::deployment::{Deployment, PAYLOAD_TYPE};
use edgewarden_protocol::dsse::ENVELOPE_BYTES_MAX;
use serde::Serialize;

use super::document::Document;
use super::exit::Stop;
use super::{Common, key, label, output};
use crate::admin_api::{DeploymentRequest, DeploymentView, DeviceView};
use crate::selection::selects;

#[derive(Debug, Args)]
pub struct Deploy {
    /// The deployment, TOML.
    #[arg(required_unless_present = "envelope", conflicts_with = "envelope")]
    file: Option<PathBuf>,
    /// The operator's private key (PEM, PKCS#8).
    #[arg(long, value_name = "FILE", required_unless_present_any = ["check", "envelope"])]
    key: Option<PathBuf>,
    /// Only gateways with this label; may be given many times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    select: Vec<(String, String)>,
    /// A registry (`host:port`) to ask in plain HTTP. The image's digest is signed all the same.
    #[arg(long, value_name = "HOST:PORT")]
    plain_http: Vec<String>,
    /// Say what is wrong, and which gateways are meant, without signing or sending.
    #[arg(long)]
    check: bool,
    /// Write the signed envelope to a file instead of sending it.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    out: Option<PathBuf>,
    /// Send an envelope that is signed already.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "select", "check", "out"])]
    envelope: Option<PathBuf>,
}

impl Deploy {
    pub(super) async fn run(self, common: &Common) -> Result<(), Stop> {
        let bytes = match (&self.envelope, &self.file) {
            (Some(envelope), _) => key::read(envelope, ENVELOPE_BYTES_MAX)?.to_vec(),
            (None, Some(file)) => {
                let deployment = self.read(file, common).await?;
                if self.check {
                    return checked(&deployment, common).await;
                }
                let Some(key) = &self.key else { return Err(Stop::usage("`--key` is missing")) };
                let payload = serde_json::to_vec(&deployment).map_err(Stop::failed)?;
                serde_json::to_vec(&key::sign(key, PAYLOAD_TYPE, payload)?).map_err(Stop::failed)?
            }
            (None, None) => return Err(Stop::usage("a deployment file or `--envelope` is missing")),
        };
        if let Some(out) = &self.out {
            return durable::write(out, &bytes, 0o644)
                .map_err(|error| Stop::Failed(format!("cannot write `{}`: {error}", out.display())));
        }
        let sent: DeploymentView =
            common.admin()?.post("/deployments", &DeploymentRequest { envelope: bytes.into() }).await?;
        if common.is_json() {
            return output::json(&sent);
        }
        if sent.signer.is_none() {
            eprintln!("dangerous: the fleet carries this deployment unverified");
        }
        say!("{} v{} for {}", sent.name, sent.version, gateways(&sent.gateways));
        Ok(())
    }

    /// The deployment, whole and checked as a gateway will.
    async fn read(&self, file: &Path, common: &Common) -> Result<Deployment, Stop> {
        let mut document = Document::read(file)?;
        document.selector.extend(self.select.iter().cloned());
        let domain = common.data()?.settings().map_err(Stop::failed)?.trust_domain;
        let version = match document.version {
            Some(version) => version,
            None => next_version(&document.name, common).await?,
        };
        let registries = Runtime { plain_http_registries: self.plain_http.clone(), ..Runtime::default() };
        let folder = file.parent().unwrap_or(Path::new("."));
        let deployment = document.resolve(folder, version, &domain, &registries).await?;
        check(&deployment, &domain).await?;
        Ok(deployment)
    }
}

async fn next_version(name: &str, common: &Common) -> Result<u64, Stop> {
    let stored: Vec<DeploymentView> = common.admin()?.get("/deployments").await?;
    let newest = stored.iter().filter(|d| d.name == name && d.signer.is_some()).map(|d| d.version).max();
    Ok(newest.unwrap_or(0).saturating_add(1))
}

async fn check(deployment: &Deployment, domain: &TrustDomain) -> Result<(), Stop> {
    if deployment.trust_domain != *domain {
        return Err(Stop::Failed(format!(
            "the deployment is for `{}`, this fleet is `{domain}`",
            deployment.trust_domain
        )));
    }
    // Through the bytes, as on the gateway.
    Deployment::parse(&serde_json::to_vec(deployment).map_err(Stop::failed)?)?;
    // The name of a gateway is in no policy: any will do to see whether it compiles.
    let gateway = GatewayName::parse("gateway").map_err(Stop::failed)?;
    let deployment = deployment.clone();
    tokio::task::spawn_blocking(move || {
        edgewarden_policy::compile(&deployment, &gateway, Epoch(1)).map(drop)
    })
    .await
    .map_err(Stop::failed)??;
    Ok(())
}

#[derive(Serialize)]
struct Checked<'a> {
    deployment: &'a Deployment,
    gateways: Vec<GatewayName>,
}

async fn checked(deployment: &Deployment, common: &Common) -> Result<(), Stop> {
    let devices: Vec<DeviceView> = common.admin()?.get("/devices").await?;
    let meant = devices.into_iter().filter(|device| selects(&deployment.selector, &device.labels));
    let checked = Checked { deployment, gateways: meant.map(|device| device.name).collect() };
    if common.is_json() {
        return output::json(&checked);
    }
    eprintln!("the deployment is valid");
    say!("{} v{} is for {}", deployment.name, deployment.version, gateways(&checked.gateways));
    for module in &deployment.modules {
        say!("  {}  {}", module.name, module.image);
    }
    Ok(())
}

fn gateways(names: &[GatewayName]) -> String {
    match names {
        [] => "no gateway yet".into(),
        names => names.iter().map(GatewayName::as_str).collect::<Vec<_>>().join(", "),
    }
}

#[derive(Debug, Subcommand)]
pub enum DeploymentCommand {
    /// The newest first, with the gateways that should run each.
    List,
}

impl DeploymentCommand {
    pub(super) async fn run(self, common: &Common) -> Result<(), Stop> {
        let stored: Vec<DeploymentView> = common.admin()?.get("/deployments").await?;
        if common.is_json() {
            return output::json(&stored);
        }
        let row = |d: &DeploymentView| {
            let signer = d.signer.clone().unwrap_or_else(|| "not verified (dangerous)".into());
            vec![
                d.name.clone(),
                d.version.to_string(),
                crate::text::labels(&d.selector),
                signer,
                gateways(&d.gateways),
            ]
        };
        output::table(
            &["NAME", "VERSION", "SELECTOR", "SIGNED BY", "GATEWAYS"],
            &stored.iter().map(row).collect::<Vec<_>>(),
        );
        Ok(())
    }
}
