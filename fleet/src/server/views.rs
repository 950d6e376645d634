//! Devices as people see them: what the command line and the dashboard show.

use std::collections::HashMap;
use std::time::Duration;

use edgewarden_names::{Digest, GatewayName, UnixTime};
use edgewarden_protocol::enrol::VerdictState;
use edgewarden_protocol::uplink::{DeploymentReport, ModuleReport, ModuleState};

use super::catalogue::Deployments;
use super::state::Shared;
use crate::Problem;
use crate::admin_api::{
    CertificateState, CertificateView, DeploymentView, DeviceDetail, DevicePage, DeviceState, DeviceView,
    Machines, Meant,
};
use crate::selection::{Candidate, Labels, selects};
use crate::store::devices::Device;

/// Events that a device's page shows.
const EVENTS_SHOWN: u32 = 50;
/// A gateway says something at least every minute, and is away for a moment when it starts anew.
pub const NOT_SEEN_AFTER: Duration = Duration::from_secs(300);
/// Most gateways of one page.
pub const PAGE_MAX: u32 = 1000;

/// One page of gateways by name, those after `after`.
pub async fn page(shared: &Shared, after: Option<&GatewayName>, limit: u32) -> Result<DevicePage, Problem> {
    let limit = limit.clamp(1, PAGE_MAX);
    let stored = shared.deployments().await?;
    let now = UnixTime::now();
    let found = shared.store.devices_after(after, limit).await?;
    let devices: Vec<_> = found.iter().map(|device| view(device, &stored, now)).collect();
    let full = devices.len() as u64 >= u64::from(limit);
    let next = devices.last().filter(|_| full).map(|last| last.name.clone());
    Ok(DevicePage { devices, next })
}

/// All gateways, those that need somebody first.
pub async fn devices(shared: &Shared) -> Result<Vec<DeviceView>, Problem> {
    let stored = shared.deployments().await?;
    let now = UnixTime::now();
    let mut devices: Vec<_> =
        shared.store.devices().await?.iter().map(|device| view(device, &stored, now)).collect();
    devices.sort_by_key(|device| device.state);
    Ok(devices)
}

/// One gateway in full; `None` when no such gateway is enrolled.
pub async fn detail(shared: &Shared, gateway: &GatewayName) -> Result<Option<DeviceDetail>, Problem> {
    let Some(device) = shared.store.device(gateway).await? else { return Ok(None) };
    let stored = shared.deployments().await?;
    let view = view(&device, &stored, UnixTime::now());
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
    let stored = shared.deployments().await?;
    let mut meant = meant(&stored, shared.store.device_labels().await?);
    Ok(stored
        .all()
        .iter()
        .rev()
        .map(|one| deployment(one, meant.remove(&one.id).unwrap_or_default()))
        .collect())
}

/// The stored deployment with this digest, with the gateways that should run it.
pub async fn deployment_of(shared: &Shared, digest: &Digest) -> Result<Option<DeploymentView>, Problem> {
    let stored = shared.deployments().await?;
    let Some(one) = stored.all().iter().find(|one| one.digest == *digest) else { return Ok(None) };
    let mut meant = meant(&stored, shared.store.device_labels().await?);
    Ok(Some(deployment(one, meant.remove(&one.id).unwrap_or_default())))
}

/// The gateways that a selector names.
pub fn selected(selector: &Labels, gateways: Vec<(GatewayName, Labels)>) -> Meant {
    let mut meant = Meant::default();
    for (gateway, _) in gateways.into_iter().filter(|(_, labels)| selects(selector, labels)) {
        meant.add(gateway);
    }
    meant
}

/// Counts by processor of the gateways that a selector names.
pub async fn machines(shared: &Shared, selector: &Labels) -> Result<Machines, Problem> {
    let mut machines = Machines::default();
    let all = shared.store.device_architectures().await?;
    for (_, architecture) in all.into_iter().filter(|(labels, _)| selects(selector, labels)) {
        match architecture {
            Some(architecture) => *machines.architectures.entry(architecture).or_default() += 1,
            None => machines.unknown += 1,
        }
    }
    Ok(machines)
}

/// The gateways that each deployment reaches, by its number in the store.
fn meant(stored: &Deployments, gateways: Vec<(GatewayName, Labels)>) -> HashMap<i64, Meant> {
    let mut meant: HashMap<i64, Meant> = HashMap::new();
    for (gateway, labels) in gateways {
        if let Some(wanted) = stored.wanted(&labels) {
            meant.entry(wanted.id).or_default().add(gateway);
        }
    }
    meant
}

fn deployment(candidate: &Candidate, gateways: Meant) -> DeploymentView {
    DeploymentView {
        name: candidate.name.clone(),
        version: candidate.version,
        digest: candidate.digest.clone(),
        selector: candidate.selector.clone(),
        signer: candidate.signer.clone(),
        gateways,
    }
}

/// `true` for a module that is refused, or whose update is: the one that runs in its place is not what was deployed
/// either.
fn is_refused(module: &ModuleReport) -> bool {
    let update = module.update.as_ref().map(|update| update.state);
    module.state == ModuleState::Refused || update == Some(ModuleState::Refused)
}

fn view(device: &Device, stored: &Deployments, now: UnixTime) -> DeviceView {
    let wanted = stored.wanted(&device.labels);
    let report = device.report.as_ref();
    let modules = report.map(|report| report.modules.as_slice()).unwrap_or_default();
    let in_state = |state| modules.iter().filter(|module| module.state == state).count();
    let mut view = DeviceView {
        name: device.name.clone(),
        state: DeviceState::Good,
        labels: device.labels.clone(),
        hardware: device.verdict.hardware.clone(),
        verdict: device.state(now),
        verdict_at: device.verdict.at,
        verdict_expires: device.verdict.expires,
        reference: device.verdict.reference.clone(),
        refusal: device.refusal.clone(),
        wanted: wanted.map(|c| DeploymentReport { name: c.name.clone(), version: c.version }),
        running: report.and_then(|report| report.deployment.clone()),
        modules_running: in_state(ModuleState::Running),
        modules_refused: modules.iter().filter(|module| is_refused(module)).count(),
        modules_total: modules.len(),
        software_version: report.map(|report| report.software_version.clone()),
        architecture: report.and_then(|report| report.architecture),
        enrolled: device.enrolled,
        seen: device.seen,
        certificate: device.certificate.map(|certificate| CertificateView {
            state: certificate.state(now),
            overdue: certificate.overdue,
            ends: certificate.ends,
        }),
    };
    view.state = state(&view, now);
    view
}

/// The worst that is to be said.
fn state(device: &DeviceView, now: UnixTime) -> DeviceState {
    let certificate = device.certificate_state();
    let not_seen = device.seen.is_none_or(|seen| now.after(seen) >= NOT_SEEN_AFTER);
    [
        (device.verdict == VerdictState::Failed, DeviceState::Failed),
        (certificate == CertificateState::Expired, DeviceState::Expired),
        (device.modules_refused > 0, DeviceState::Refused),
        (certificate == CertificateState::Expiring, DeviceState::Expiring),
        (not_seen, DeviceState::NotSeen),
        (device.modules_running < device.modules_total, DeviceState::Down),
        (device.verdict != VerdictState::Fresh, DeviceState::Stale),
        (device.wanted.is_some() && device.wanted != device.running, DeviceState::Behind),
    ]
    .into_iter()
    .find_map(|(is, state)| is.then_some(state))
    .unwrap_or(DeviceState::Good)
}

#[cfg(test)]
mod tests {
    use edgewarden_protocol::uplink::ModuleUpdate;

    use super::*;

    const NOW: UnixTime = UnixTime(1_000_000);

    type Change<'a> = &'a dyn Fn(&mut DeviceView);

    #[test]
    fn a_gateway_is_headed_by_the_worst_of_it() {
        let good = DeviceView {
            name: GatewayName::parse("gw-1").unwrap(),
            state: DeviceState::Good,
            labels: Labels::new(),
            hardware: "tpm".into(),
            verdict: VerdictState::Fresh,
            verdict_at: NOW,
            verdict_expires: NOW,
            reference: None,
            refusal: None,
            wanted: Some(DeploymentReport { name: "a".into(), version: 2 }),
            running: Some(DeploymentReport { name: "a".into(), version: 2 }),
            modules_running: 2,
            modules_refused: 0,
            modules_total: 2,
            software_version: None,
            architecture: None,
            enrolled: NOW,
            seen: Some(NOW),
            certificate: None,
        };
        let certificate = |state| Some(CertificateView { state, overdue: NOW, ends: NOW });
        let changes: [(Change<'_>, DeviceState); 12] = [
            (&|_| (), DeviceState::Good),
            (&|d| d.running = None, DeviceState::Behind),
            (&|d| d.wanted = None, DeviceState::Good),
            (&|d| d.verdict = VerdictState::Stale, DeviceState::Stale),
            (&|d| d.modules_running = 1, DeviceState::Down),
            (&|d| d.seen = None, DeviceState::NotSeen),
            (&|d| d.seen = Some(NOW.minus(NOT_SEEN_AFTER)), DeviceState::NotSeen),
            (&|d| d.certificate = certificate(CertificateState::Good), DeviceState::Good),
            (&|d| d.certificate = certificate(CertificateState::Expiring), DeviceState::Expiring),
            (&|d| d.modules_refused = 1, DeviceState::Refused),
            (&|d| d.certificate = certificate(CertificateState::Expired), DeviceState::Expired),
            (&|d| d.verdict = VerdictState::Failed, DeviceState::Failed),
        ];
        // Each of them beside all that is less bad.
        let mut all = good.clone();
        for (change, expected) in changes {
            let mut one = good.clone();
            change(&mut one);
            assert_eq!(state(&one, NOW), expected);
            if expected != DeviceState::Good {
                change(&mut all);
                assert_eq!(state(&all, NOW), expected);
            }
        }
        assert!(DeviceState::Failed < DeviceState::NotSeen && DeviceState::NotSeen < DeviceState::Good);
    }

    #[test]
    fn a_module_whose_update_is_refused_counts_as_refused() {
        let module = |state, update: Option<ModuleState>| ModuleReport {
            name: "alerts".parse().unwrap(),
            image: "old".into(),
            state,
            generation: 1,
            restarts: 0,
            reason: None,
            update: update.map(|state| ModuleUpdate { image: "new".into(), state, reason: None }),
        };
        for (state, update, expected) in [
            (ModuleState::Running, None, false),
            (ModuleState::Running, Some(ModuleState::Pulling), false),
            (ModuleState::Running, Some(ModuleState::Waiting), false),
            (ModuleState::Running, Some(ModuleState::Refused), true),
            (ModuleState::Refused, None, true),
            (ModuleState::Waiting, None, false),
        ] {
            assert_eq!(is_refused(&module(state, update)), expected, "{state:?} {update:?}");
        }
    }
}
