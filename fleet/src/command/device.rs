//! `device list`, `show`, `label`, `remove`.

use clap::Subcommand;
use edgewarden_names::{GatewayName, Reason, UnixTime};
use edgewarden_protocol::uplink::DeploymentReport;
use edgewarden_terminal::shortened;

use super::client::Admin;
use super::common::{Common, distinct, label};
use super::exit::Stop;
use super::output;
use crate::admin_api::{
    CertificateState, DeviceDetail, DeviceLabels, DevicePage, DeviceState, DeviceView, Done, LabelRequest,
};
use crate::text;
use crate::when::{age, date};

const TEXT_MAX: usize = 400;

/// Subcommands of `device`.
#[derive(Debug, Subcommand)]
pub enum Device {
    /// Every gateway, a line each; those that need somebody first. With `-o json` by name.
    List,
    /// One gateway: what was checked, what runs, what was refused.
    Show { name: GatewayName },
    /// Give a gateway labels, or take some away. Others stay.
    Label {
        name: GatewayName,
        #[arg(value_name = "KEY=VALUE", value_parser = label, required_unless_present = "remove")]
        labels: Vec<(String, String)>,
        /// Take this label away. Repeat for more.
        #[arg(long, value_name = "KEY")]
        remove: Vec<String>,
    },
    /// Forget a gateway: its certificates are good for nothing here any more, and its name is free.
    Remove { name: GatewayName },
}

impl Device {
    pub(super) async fn run(self, common: &Common) -> Result<(), Stop> {
        let admin = common.admin()?;
        match self {
            Self::List if common.is_json() => {
                let (mut array, mut pages) = (output::JsonArray::default(), Pages::new(&admin));
                while let Some(devices) = pages.next().await? {
                    array.add(&devices)?;
                }
                array.end();
            }
            Self::List => {
                let (mut devices, mut pages) = (Vec::new(), Pages::new(&admin));
                while let Some(more) = pages.next().await? {
                    devices.extend(more);
                }
                devices.sort_by_key(|device| device.state);
                list(&devices, UnixTime::now());
            }
            Self::Show { name } => {
                let detail: DeviceDetail = admin.get(&format!("/devices/{name}")).await?;
                if common.is_json() {
                    return output::json(&detail);
                }
                show(&detail, UnixTime::now());
            }
            Self::Label { name, labels, remove } => {
                let request = LabelRequest { set: distinct(labels)?, remove };
                let now: DeviceLabels = admin.post(&format!("/devices/{name}/labels"), &request).await?;
                if common.is_json() {
                    return output::json(&now);
                }
                eprintln!(
                    "hint: {name} runs only what fits its own `[gateway.labels]` too; make them the same there"
                );
                say!("{}", text::labels(&now.labels));
            }
            Self::Remove { name } => {
                let done: Done = admin.post(&format!("/devices/{name}/remove"), &()).await?;
                if common.is_json() {
                    return output::json(&done);
                }
                eprintln!("{name} is removed");
            }
        }
        Ok(())
    }
}

/// All gateways by name, page by page.
struct Pages<'a> {
    admin: &'a Admin,
    /// None at the end.
    path: Option<String>,
}

impl<'a> Pages<'a> {
    fn new(admin: &'a Admin) -> Self {
        Self { admin, path: Some("/devices".into()) }
    }

    async fn next(&mut self) -> Result<Option<Vec<DeviceView>>, Stop> {
        let Some(path) = self.path.take() else { return Ok(None) };
        let DevicePage { devices, next } = self.admin.get(&path).await?;
        self.path = next.map(|name| format!("/devices?after={name}"));
        Ok(Some(devices))
    }
}

fn list(devices: &[DeviceView], now: UnixTime) {
    if devices.is_empty() {
        eprintln!("no gateway has joined\nhint: edgewarden-fleet token create --gateway NAME");
        return;
    }
    let row = |device: &DeviceView| {
        vec![
            device.name.to_string(),
            device.state.as_str().to_owned(),
            text::labels(&device.labels),
            device.hardware.clone(),
            verdict(device, now),
            text::certificate(device, now),
            deployment(device.wanted.as_ref()),
            deployment(device.running.as_ref()),
            format!("{}/{}", device.modules_running, device.modules_total),
            device.seen.map_or_else(|| "never".into(), |seen| format!("{} ago", age(seen, now))),
        ]
    };
    output::table(
        &[
            "GATEWAY",
            "STATE",
            "LABELS",
            "HARDWARE",
            "ATTESTATION",
            "CERTIFICATE",
            "WANTED",
            "RUNNING",
            "MODULES",
            "SEEN",
        ],
        &devices.iter().map(row).collect::<Vec<_>>(),
    );
    let count = |state: DeviceState| {
        let count = devices.iter().filter(|device| device.state == state).count();
        (count > 0).then(|| format!("{count} {}", state.as_str()))
    };
    let counts: Vec<_> = DeviceState::ALL.into_iter().filter_map(count).collect();
    eprintln!("{} gateways: {}", devices.len(), counts.join(", "));
    let certificates = |state| devices.iter().filter(|device| device.certificate_state() == state).count();
    let (expiring, expired) =
        (certificates(CertificateState::Expiring), certificates(CertificateState::Expired));
    if expiring + expired > 0 {
        eprintln!("certificates: {expired} expired, {expiring} expiring (renewal overdue)");
        eprintln!("hint: {}", Reason::IdentityExpiring.next_step());
    }
}

fn verdict(device: &DeviceView, now: UnixTime) -> String {
    let why = device.refusal.as_ref().map_or_else(String::new, |refusal| format!(" {}", refusal.reason));
    format!("{}{why} ({} ago)", device.verdict.as_str(), age(device.verdict_at, now))
}

fn deployment(deployment: Option<&DeploymentReport>) -> String {
    deployment.map_or_else(|| "-".into(), |deployment| format!("{} v{}", deployment.name, deployment.version))
}

fn certificate(device: &DeviceView, now: UnixTime) -> String {
    let ends =
        device.certificate.map_or_else(String::new, |certificate| format!(" ({})", date(certificate.ends)));
    format!("{}{ends}", text::certificate(device, now))
}

fn show(detail: &DeviceDetail, now: UnixTime) {
    let device = &detail.device;
    let mut facts = vec![
        ("gateway", device.name.to_string()),
        ("state", device.state.as_str().to_owned()),
        ("labels", text::labels(&device.labels)),
        ("hardware", device.hardware.clone()),
        ("attestation", format!("{}, good until {}", verdict(device, now), date(device.verdict_expires))),
        ("certificate", certificate(device, now)),
        ("reference", device.reference.clone().unwrap_or_else(|| "-".into())),
        ("wanted", deployment(device.wanted.as_ref())),
        ("running", deployment(device.running.as_ref())),
        ("joined", date(device.enrolled)),
        ("seen", device.seen.map_or_else(|| "never".into(), date)),
        (
            "messages",
            format!("{} kept, {} dropped at the cap", detail.messages.kept, detail.messages.dropped),
        ),
    ];
    if let Some(epoch) = detail.policy_epoch {
        facts.push(("policy epoch", epoch.to_string()));
    }
    if let Some(version) = &device.software_version {
        facts.push(("software", version.clone()));
    }
    if let Some(architecture) = device.architecture {
        facts.push(("processor", architecture.to_string()));
    }
    output::facts(&facts);
    if device.certificate_state() != CertificateState::Good {
        say!("  next: {}", Reason::IdentityExpiring.next_step());
    }
    say!("\nchecks");
    for check in &detail.checks {
        let mark = if check.passed { '✓' } else { '✗' };
        say!("  {mark} {}: {}", shortened(&check.name, TEXT_MAX), shortened(&check.detail, TEXT_MAX));
    }
    if let Some(refusal) = &device.refusal {
        say!("  {}\n  next: {}", shortened(&refusal.to_string(), TEXT_MAX), refusal.reason.next_step());
    }
    say!("\nmodules");
    for module in &detail.modules {
        let why = module.reason.as_ref().map_or_else(String::new, |refusal| format!("  {refusal}"));
        let line = format!(
            "{}  {}  {} restarts  {}{why}",
            module.name,
            module.state.as_str(),
            module.restarts,
            module.image
        );
        say!("  {}", shortened(&line, TEXT_MAX * 2));
        if let Some(update) = &module.update {
            let why = update.reason.as_ref().map_or_else(String::new, |refusal| format!("  {refusal}"));
            let line = format!("update {}  {}{why}", update.state.as_str(), update.image);
            say!("    {}", shortened(&line, TEXT_MAX * 2));
        }
    }
    say!("\nrefusals");
    for report in &detail.refusals {
        say!("  {}  {}", date(report.at), shortened(&report.refusal.to_string(), TEXT_MAX));
        say!("    next: {}", report.refusal.reason.next_step());
    }
    say!("\nevents");
    for event in &detail.events {
        let reason = event.reason.as_ref().map_or_else(String::new, |reason| format!("{reason}: "));
        say!("  {}  {reason}{}", date(event.at), shortened(&event.text, TEXT_MAX));
    }
}
