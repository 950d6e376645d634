//! `deploy`, and `deployment list`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use edgewarden_names::{Architecture, GatewayName, Reason};
use edgewarden_oci::registry::{self, Access};
use edgewarden_platform::durable;
use edgewarden_protocol::deployment::{Deployment, PAYLOAD_TYPE};
use edgewarden_protocol::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use edgewarden_terminal::Waiting;
use serde::Serialize;

use super::common::{Common, label};
use super::document::Document;
use super::exit::Stop;
use super::{key, output};
use crate::admin_api::{CheckRequest, DeploymentRequest, DeploymentView, Machines, MachinesRequest, Meant};
use crate::preflight;
use crate::selection::Labels;

const NO_SELECTOR: &str = "for which gateways? give `--select KEY=VALUE` or a `[selector]` in the document, or `--all` for every one";

/// Arguments of `deploy`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
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
    /// Every gateway of the fleet, also those that are still to join. Needed when there is no label to select by.
    #[arg(long, conflicts_with = "select")]
    all: bool,
    /// Keep it although no gateway has the labels: for those that are still to join.
    #[arg(long, conflicts_with = "out")]
    allow_empty: bool,
    /// Do not judge the images: neither their signatures nor whether they can run. Each gateway does all the same.
    #[arg(long)]
    skip_images: bool,
    /// A registry (`host:port`) to ask in plain HTTP. The image's digest is signed all the same.
    #[arg(long, value_name = "HOST:PORT")]
    plain_http: Vec<String>,
    /// Logins for registries, in the form of Docker's `config.json`, open to nobody else; without it Docker's own file of
    /// the caller (`$DOCKER_CONFIG/config.json`, `~/.docker/config.json`). Gateways have their own.
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Roots (PEM) that registries' certificates may lead to, besides the system's; may be given many times.
    #[arg(long, value_name = "FILE")]
    registry_ca: Vec<PathBuf>,
    /// Say what a gateway would refuse, of the images too, and how many are meant, without signing or sending.
    #[arg(long)]
    check: bool,
    /// Write the signed envelope to a file instead of sending it.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    out: Option<PathBuf>,
    /// Send an envelope that is signed already.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "select", "all", "check", "out"])]
    envelope: Option<PathBuf>,
}

impl Deploy {
    pub(super) async fn run(self, common: &Common) -> Result<(), Stop> {
        let bytes = match (&self.envelope, &self.file) {
            (Some(envelope), _) => {
                let bytes = key::read(envelope, ENVELOPE_BYTES_MAX)?.to_vec();
                // What cannot be read is the fleet's to refuse.
                let envelope: Option<Envelope> = serde_json::from_slice(&bytes).ok();
                if let Some(deployment) =
                    envelope.and_then(|envelope| Deployment::parse(envelope.payload.as_slice()).ok())
                {
                    let machines = self.machines(&deployment.selector, common).await?;
                    self.preflight_images(&deployment, &machines).await?;
                }
                bytes
            }
            (None, Some(file)) => {
                let (deployment, machines) = self.read(file, common).await?;
                self.preflight_images(&deployment, &machines).await?;
                if self.check {
                    return self.checked(&deployment, common).await;
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
        let request = DeploymentRequest { envelope: bytes.into(), allow_empty: self.allow_empty };
        let sent: DeploymentView = common.admin()?.post("/deployments", &request).await?;
        if common.is_json() {
            return output::json(&sent);
        }
        if sent.signer.is_none() {
            eprintln!("dangerous: the fleet carries this deployment unverified");
        }
        say!("{} v{} for {}", sent.name, sent.version, gateways(&sent.gateways));
        Ok(())
    }

    fn registries(&self) -> Result<Access, Stop> {
        let command = registry::Command {
            plain_http: self.plain_http.clone(),
            credentials: self.credentials.clone(),
            ca_files: self.registry_ca.clone(),
        };
        Access::of_command(command, |name| std::env::var(name).ok())
            .map_err(|error| Stop::from(error.refusal()))
    }

    /// Counts by processor of the gateways that are meant. Without a fleet that answers, an envelope can still be made
    /// for a site that is cut off.
    async fn machines(&self, selector: &Labels, common: &Common) -> Result<Machines, Stop> {
        let asked = async {
            let request = MachinesRequest { selector: selector.clone() };
            common.admin()?.post("/deployments/machines", &request).await
        };
        match asked.await {
            Err(_) if self.out.is_some() => Ok(Machines::default()),
            answer => answer,
        }
    }

    /// The same for `--check` and for the deed.
    async fn preflight_images(&self, deployment: &Deployment, machines: &Machines) -> Result<(), Stop> {
        if self.skip_images {
            return Ok(());
        }
        say_machines(machines);
        let waiting = Waiting::begin(&format!("judging the images of {} modules", deployment.modules.len()));
        let judged = preflight::images(deployment, &self.registries()?, &architectures(machines)).await;
        drop(waiting);
        judged.map_err(|problem| {
            let refusal = problem.into_refusal();
            if refusal.reason == Reason::ImageUnavailable {
                eprintln!("note: `--skip-images` goes on without what the registry would say; gateways ask it themselves");
            }
            Stop::from(refusal)
        })
    }

    async fn checked(&self, deployment: &Deployment, common: &Common) -> Result<(), Stop> {
        let document = serde_json::to_vec(deployment).map_err(Stop::failed)?;
        let request = CheckRequest { document: document.into(), allow_empty: self.allow_empty };
        let meant: Meant = common.admin()?.post("/deployments/check", &request).await?;
        if common.is_json() {
            return output::json(&Checked { deployment, gateways: meant });
        }
        eprintln!("the deployment is valid");
        say!("{} v{} is for {}", deployment.name, deployment.version, gateways(&meant));
        for module in &deployment.modules {
            say!("  {}  {}", module.name, module.image);
        }
        Ok(())
    }

    /// The deployment, whole and checked as a gateway will, and what the gateways are that it is for.
    async fn read(&self, file: &Path, common: &Common) -> Result<(Deployment, Machines), Stop> {
        let mut document = Document::read(file)?;
        document.selector.extend(self.select.iter().cloned());
        match (document.selector.is_empty(), self.all) {
            (true, false) => return Err(Stop::usage(NO_SELECTOR)),
            (false, true) => {
                return Err(Stop::usage("`--all` says every gateway, and the document has a selector"));
            }
            _ => {}
        }
        let domain = common.data()?.settings().map_err(Stop::failed)?.trust_domain;
        let version = match document.version {
            Some(version) => version,
            None => next_version(&document.name, common).await?,
        };
        let registries = self.registries()?;
        let machines = self.machines(&document.selector, common).await?;
        let architecture = architectures(&machines).into_iter().next().unwrap_or(Architecture::HERE);
        let folder = file.parent().unwrap_or(Path::new("."));
        let deployment = document.resolve(folder, version, &domain, &registries, architecture).await?;
        // Through the bytes, as on the gateway.
        let payload = serde_json::to_vec(&deployment).map_err(Stop::failed)?;
        let judged = preflight::document(payload, &domain).await;
        Ok((judged.map_err(|problem| Stop::from(problem.into_refusal()))?, machines))
    }
}

/// The processors that images are judged for: those that the gateways reported, this machine's when none did.
fn architectures(machines: &Machines) -> Vec<Architecture> {
    if machines.architectures.is_empty() {
        vec![Architecture::HERE]
    } else {
        machines.architectures.keys().copied().collect()
    }
}

fn say_machines(machines: &Machines) {
    let known =
        machines.architectures.iter().map(|(architecture, count)| format!("linux/{architecture} ({count})"));
    let known = known.collect::<Vec<_>>().join(" and ");
    match (machines.architectures.len(), machines.unknown) {
        (0, _) => eprintln!(
            "note: no gateway that is meant has said its processor; images are judged for linux/{}, which is this machine's",
            Architecture::HERE
        ),
        (1, 0) => {}
        (1, unknown) => eprintln!(
            "note: images are judged for {known}; {unknown} more gateways have not said their processor"
        ),
        _ => eprintln!(
            "note: the gateways that are meant are {known}; an image is for one of them: deploy to each by a label of its own"
        ),
    }
}

async fn next_version(name: &str, common: &Common) -> Result<u64, Stop> {
    let stored: Vec<DeploymentView> = common.admin()?.get("/deployments").await?;
    let newest = stored.iter().filter(|d| d.name == name && d.signer.is_some()).map(|d| d.version).max();
    Ok(newest.unwrap_or(0).saturating_add(1))
}

#[derive(Serialize)]
struct Checked<'a> {
    deployment: &'a Deployment,
    gateways: Meant,
}

fn gateways(meant: &Meant) -> String {
    let names = meant.sample.iter().map(GatewayName::as_str).collect::<Vec<_>>().join(", ");
    match (meant.count, meant.count - meant.sample.len()) {
        (0, _) => "no gateway yet".into(),
        (1, _) => format!("1 gateway: {names}"),
        (count, 0) => format!("{count} gateways: {names}"),
        (count, more) => format!("{count} gateways: {names} and {more} more"),
    }
}

/// Subcommands of `deployment`.
#[derive(Debug, Subcommand)]
pub enum DeploymentCommand {
    /// The newest first, with how many gateways should run each.
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
