//! One gateway: what it proved, what it runs, what it refused.

use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::uplink::{ModuleReport, ModuleState};
use maud::{Markup, html};

use super::overview::{deployment, event_table};
use super::page::{certificate, device_state, hardware, state};
use crate::admin_api::{CertificateState, DeviceDetail, StoredMessage};
use crate::text;
use crate::when::{age, date};

/// Body of the page of one gateway, with its newest messages.
pub fn content(detail: &DeviceDetail, messages: &[StoredMessage], now: UnixTime) -> Markup {
    let device = &detail.device;
    html! {
        h2 { (device.name) " · " (device_state(device.state)) }
        p {
            @for (key, value) in &device.labels { span.tag { (key) "=" (value) } }
        }
        div.wide { table { tbody {
            tr { th { "hardware" } td { (hardware(&device.hardware)) } }
            tr { th { "attestation" } td { (state(device)) } }
            tr { th { "judged" } td { (date(device.verdict_at)) " (" (age(device.verdict_at, now)) " ago), good until " (date(device.verdict_expires)) } }
            tr { th { "certificate" } td {
                (certificate(device, now))
                @if let Some(certificate) = device.certificate { " (until " (date(certificate.ends)) ")" }
                @if device.certificate_state() != CertificateState::Good { div.soft { "Next: " (Reason::IdentityExpiring.next_step()) } }
            } }
            tr { th { "reference" } td { @match &device.reference { Some(name) => { (name) } None => { span.soft { "none" } } } } }
            tr { th { "deployment" } td { (deployment(device)) } }
            @if let Some(epoch) = detail.policy_epoch { tr { th { "policy epoch" } td { (epoch) } } }
            tr { th { "software" } td { (device.software_version.as_deref().unwrap_or("not reported")) } }
            @if let Some(architecture) = device.architecture { tr { th { "processor" } td { (architecture.as_str()) } } }
            tr { th { "joined" } td { (date(device.enrolled)) } }
            tr { th { "seen" } td { @match device.seen { Some(at) => { (age(at, now)) " ago" } None => { "never" } } } }
        } } }
        @if let Some(refusal) = &device.refusal { (explained(refusal)) }

        h2 { "What was checked" }
        div.wide { table { tbody { @for check in &detail.checks { tr {
            td { @if check.passed { span.good { "✓" } } @else { span.bad { "✗" } } " " (check.name) }
            td.break { (check.detail) }
        } } } } }

        h2 { "Modules" }
        @if detail.modules.is_empty() { p.soft { "None reported." } } @else { (modules(&detail.modules)) }

        h2 { "Refusals" }
        @if detail.refusals.is_empty() { p.soft { "None reported." } } @else {
            div.wide { table {
                thead { tr { th { "time" } th { "reason" } th { "what and why" } th { "next step" } } }
                tbody { @for report in &detail.refusals { tr {
                    td.soft { (date(report.at)) }
                    td { span.bad { (report.refusal.reason) } }
                    td.break { (report.refusal.subject) ": " (report.refusal.rule) }
                    td.break { (report.refusal.reason.next_step()) }
                } } }
            } }
        }

        h2 { "Messages" }
        p.soft {
            (detail.messages.kept) " kept"
            @if detail.messages.dropped > 0 { ", " span.warn { (detail.messages.dropped) " oldest dropped at the cap" } }
        }
        @if !messages.is_empty() {
            div.wide { table {
                thead { tr { th { "time" } th { "topic" } th { "from" } th { "payload" } } }
                tbody { @for message in messages { tr {
                    td.soft { (date(message.at)) }
                    td.break { (message.topic) }
                    td.break { (text::short_id(&message.from)) }
                    td.break { code { (text::payload(message.payload.as_slice())) } }
                } } }
            } }
        }

        h2 { "Events" }
        (event_table(&detail.events, false))
    }
}

fn explained(refusal: &Refusal) -> Markup {
    html! {
        p.danger {
            (refusal.reason) ": " (refusal.rule)
            br;
            "Next: " (refusal.reason.next_step())
        }
    }
}

fn modules(modules: &[ModuleReport]) -> Markup {
    html! {
        div.wide { table {
            thead { tr { th { "module" } th { "state" } th { "image" } th { "restarts" } } }
            tbody { @for module in modules { tr {
                td { (module.name) }
                td data-name="state" {
                    span class=(match module.state { ModuleState::Running => "good", ModuleState::Refused => "bad", _ => "warn" }) {
                        (module.state.as_str())
                    }
                    @if let Some(refusal) = &module.reason {
                        div { span.bad { (refusal.reason) } " " (refusal.rule) }
                        div.soft { "Next: " (refusal.reason.next_step()) }
                    }
                }
                td.break data-name="image" {
                    code { (module.image) }
                    @if let Some(update) = &module.update {
                        div.soft { "update (" (update.state.as_str()) "): " code { (update.image) } }
                        @if let Some(refusal) = &update.reason {
                            div { span.bad { (refusal.reason) } " " (refusal.rule) }
                            div.soft { "Next: " (refusal.reason.next_step()) }
                        }
                    }
                }
                td data-name="restarts" { (module.restarts) }
            } } }
        } }
    }
}
