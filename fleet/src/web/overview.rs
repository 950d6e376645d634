//! The first page: how the fleet is, and every gateway.

use edgewarden_names::{Reason, UnixTime};
use edgewarden_protocol::uplink::DeploymentReport;
use maud::{Markup, html};

use super::page::{certificate, device_state, hardware, state, state_class};
use crate::admin_api::{CertificateState, DeploymentView, DeviceState, DeviceView, Event};
use crate::when::{age, date};

/// Deployments that the page shows.
const DEPLOYMENTS_SHOWN: usize = 10;
/// Gateways that the page shows.
const DEVICES_SHOWN: usize = 500;

/// Body of the first page: counts, gateways, deployments, newest events.
pub fn content(
    devices: &[DeviceView],
    deployments: &[DeploymentView],
    events: &[Event],
    now: UnixTime,
) -> Markup {
    html! {
        (counts(devices))
        h2 { "Gateways" }
        @if devices.is_empty() {
            p.empty { "No gateway has joined. Make a token for one: " code { "edgewarden-fleet token create --gateway NAME" } }
        } @else {
            (table(devices, now))
        }
        h2 { "Deployments" }
        @if deployments.is_empty() {
            p.empty { "None yet. Send one: " code { "edgewarden-fleet deploy FILE.toml --key operator.key" } }
        } @else {
            (deployment_table(deployments))
        }
        h2 { "Newest events" }
        (event_table(events, true))
    }
}

fn counts(devices: &[DeviceView]) -> Markup {
    let with = |wanted| devices.iter().filter(|device| device.state == wanted).count();
    let certificates = |state| devices.iter().filter(|device| device.certificate_state() == state).count();
    let (expired, expiring) =
        (certificates(CertificateState::Expired), certificates(CertificateState::Expiring));
    html! {
        dl.counts {
            (count("gateways", devices.len(), ""))
            @for state in DeviceState::ALL { (count(state.as_str(), with(state), state_class(state))) }
        }
        @if expired + expiring > 0 {
            p { "certificates: " span.bad { (expired) " expired" } ", " span.warn { (expiring) " expiring" }
                ". Next: " (Reason::IdentityExpiring.next_step()) }
        }
    }
}

fn count(name: &str, value: usize, class: &str) -> Markup {
    let class = if value == 0 { "soft" } else { class };
    html! { div { dt { (name) } dd class=(class) { (value) } } }
}

fn table(devices: &[DeviceView], now: UnixTime) -> Markup {
    html! {
        div.wide { table {
            thead { tr {
                th { "gateway" } th { "state" } th { "attestation" } th { "certificate" } th { "hardware" } th { "deployment" } th { "modules" } th { "seen" }
            } }
            tbody { @for device in devices.iter().take(DEVICES_SHOWN) { tr {
                td {
                    a href={ "/gateway/" (device.name) } { (device.name) }
                    div { @for (key, value) in &device.labels { span.tag { (key) "=" (value) } } }
                }
                td data-name="state" { (device_state(device.state)) }
                td data-name="attestation" {
                    (state(device)) " " span.soft { (age(device.verdict_at, now)) " ago" }
                    @if let Some(refusal) = &device.refusal { div.bad { (refusal.reason) } }
                }
                td data-name="certificate" { (certificate(device, now)) }
                td data-name="hardware" { (hardware(&device.hardware)) }
                td data-name="deployment" { (deployment(device)) }
                td data-name="modules" {
                    span class=[(device.modules_running < device.modules_total).then_some("warn")] {
                        (device.modules_running) " of " (device.modules_total)
                    }
                    @if device.modules_refused > 0 { div.bad { (device.modules_refused) " refused" } }
                }
                td data-name="seen" {
                    span class=[(device.state == DeviceState::NotSeen).then_some("bad")] {
                        @match device.seen { Some(at) => { (age(at, now)) " ago" } None => { "never" } }
                    }
                }
            } } }
        } }
        @if devices.len() > DEVICES_SHOWN {
            p.soft { "The " (DEVICES_SHOWN) " that need somebody most. All of them: " code { "edgewarden-fleet device list" } }
        }
    }
}

/// The deployment that runs on a gateway, and the one that should, if that differs.
pub fn deployment(device: &DeviceView) -> Markup {
    let show = |deployment: &Option<DeploymentReport>| match deployment {
        Some(deployment) => format!("{} v{}", deployment.name, deployment.version),
        None => "none".into(),
    };
    html! {
        (show(&device.running))
        @if device.wanted.is_some() && device.wanted != device.running {
            div.warn { "wanted: " (show(&device.wanted)) }
        }
    }
}

fn deployment_table(deployments: &[DeploymentView]) -> Markup {
    html! {
        div.wide { table {
            thead { tr { th { "deployment" } th { "selector" } th { "signed by" } th { "gateways" } } }
            tbody { @for deployment in deployments.iter().take(DEPLOYMENTS_SHOWN) { tr {
                td { (deployment.name) " v" (deployment.version) }
                td data-name="selector" {
                    @for (key, value) in &deployment.selector { span.tag { (key) "=" (value) } }
                    @if deployment.selector.is_empty() { span.soft { "every gateway" } }
                }
                td data-name="signed by" {
                    @match &deployment.signer { Some(signer) => { (signer) } None => { span.bad { "not verified" } } }
                }
                td data-name="gateways" { (deployment.gateways.count) }
            } } }
        } }
    }
}

/// Table of events in the order given; the column of gateways is there when `with_gateway`.
pub fn event_table(events: &[Event], with_gateway: bool) -> Markup {
    html! {
        @if events.is_empty() { p.soft { "Nothing has happened yet." } } @else {
            div.wide { table {
                thead { tr { th { "time" } @if with_gateway { th { "gateway" } } th { "event" } } }
                tbody { @for event in events { tr {
                    td.soft { (date(event.at)) }
                    @if with_gateway { td { @if let Some(gateway) = &event.gateway { (gateway) } } }
                    td.break { @if let Some(reason) = &event.reason { span.bad { (reason) } " " } (event.text) }
                } } }
            } }
        }
    }
}
