//! Devices as people see them: what the command line and the dashboard show.

use edgewarden_names::{GatewayName, UnixTime};
use edgewarden_protocol::uplink::{DeploymentReport, ModuleState};

use super::state::Shared;
use crate::Problem;
use crate::admin_api::{DeploymentView, DeviceDetail, DeviceView};
use crate::selection::{self, Candidate};
use crate::store::devices::Device;

/// Events that a device's page shows.
const EVENTS_SHOWN: u32 = 50;

pub async fn devices(shared: &Shared) -> Result<Vec<DeviceView>, Problem> {
    let stored = shared.store.deployments().await?;
    let now = UnixTime::now();
    Ok(shared.store.devices().await?.iter().map(|device| view(shared, device, &stored, now)).collect())
}

pub async fn detail(shared: &Shared, gateway: &GatewayName) -> Result<Option<DeviceDetail>, Problem> {
    let Some(device) = shared.store.device(gateway).await? else { return Ok(None) };
    let stored = shared.store.deployments().await?;
    let view = view(shared, &device, &stored, UnixTime::now());
    let (mut modules, mut refusals, mut policy_epoch) = (Vec::new(), Vec::new(), None);
    if let Some(report) = device.report {
        modules = report.modules;
        refusals = report.refusals;
        refusals.reverse();
        policy_epoch = report.policy_epoch;
    }
    Ok(Some(DeviceDetail {
        device: view,
        checks: device.verdict.checks,
        modules,
        policy_epoch,
        refusals,
        events: shared.store.events(Some(gateway), EVENTS_SHOWN).await?,
        messages: shared.store.message_count(gateway).await?,
    }))
}

/// The stored deployments, newest first, each with the gateways that should run it.
pub async fn deployments(shared: &Shared) -> Result<Vec<DeploymentView>, Problem> {
    let stored = shared.store.deployments().await?;
    let devices = shared.store.devices().await?;
    let chosen: Vec<_> = devices
        .iter()
        .filter_map(|device| Some((device, selection::choose(&stored, &device.labels, shared.carry)?.id)))
        .collect();
    let view = |candidate: &Candidate| DeploymentView {
        name: candidate.name.clone(),
        version: candidate.version,
        digest: candidate.digest.clone(),
        selector: candidate.selector.clone(),
        signer: candidate.signer.clone(),
        gateways: chosen
            .iter()
            .filter(|(_, id)| *id == candidate.id)
            .map(|(device, _)| device.name.clone())
            .collect(),
    };
    Ok(stored.iter().rev().map(view).collect())
}

fn view(shared: &Shared, device: &Device, stored: &[Candidate], now: UnixTime) -> DeviceView {
    let wanted = selection::choose(stored, &device.labels, shared.carry);
    let report = device.report.as_ref();
    let modules = report.map(|report| report.modules.as_slice()).unwrap_or_default();
    DeviceView {
        name: device.name.clone(),
        labels: device.labels.clone(),
        hardware: device.verdict.hardware.clone(),
        verdict: device.state(now),
        verdict_at: device.verdict.at,
        verdict_expires: device.verdict.expires,
        reference: device.verdict.reference.clone(),
        refusal: device.refusal.clone(),
        wanted: wanted.map(|c| DeploymentReport { name: c.name.clone(), version: c.version }),
        running: report.and_then(|report| report.deployment.clone()),
        modules_running: modules.iter().filter(|module| module.state == ModuleState::Running).count(),
        modules_total: modules.len(),
        software_version: report.map(|report| report.software_version.clone()),
        enrolled: device.enrolled,
        seen: device.seen,
    }
}
