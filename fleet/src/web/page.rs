//! The frame that all pages share.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use edgewarden_protocol::enrol::VerdictState;
use maud::{DOCTYPE, Markup, html};

use edgewarden_names::UnixTime;

use crate::admin_api::{CertificateState, DeviceState, DeviceView};
use crate::selection::Carry;
use crate::server::state::Shared;
use crate::text;

const REFRESH_SECONDS: &str = "5";

/// A whole HTML page around `content`, which loads itself again.
pub fn page(shared: &Shared, title: &str, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                (head(title))
                meta http-equiv="refresh" content=(REFRESH_SECONDS);
            }
            body {
                header {
                    h1 { a href="/" { "Edgewarden" } }
                    span { (title) }
                    span.soft { "trust domain " (shared.domain) }
                }
                main {
                    @if shared.carry == Carry::DangerousUnverified {
                        p.danger role="alert" {
                            "dangerous: this fleet carries deployments without checking their signatures and versions \
                             (--dangerous-carry-unverified). Gateways still check both."
                        }
                    }
                    (content)
                }
                footer { "Refreshed every " (REFRESH_SECONDS) " seconds. To change something: " code { "edgewarden-fleet --help" } }
            }
        }
    }
}

/// HTTP response with a page as its body.
pub fn respond(status: StatusCode, page: Markup) -> Response {
    (status, Html(page.into_string())).into_response()
}

/// A page for those who may not, or cannot, see more.
pub fn plain(status: StatusCode, title: &str, text: &str) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head { (head(title)) }
            body { header { h1 { "Edgewarden" } } main { h2 { (title) } p { (text) } } }
        }
    };
    respond(status, page)
}

fn head(title: &str) -> Markup {
    html! {
        meta charset="utf-8";
        meta name="viewport" content="width=device-width, initial-scale=1";
        title { (title) " · Edgewarden" }
        link rel="stylesheet" href="/style.css";
    }
}

/// A verdict's state, in its colour and never by colour alone. What proves itself with a certificate that runs out is not
/// shown as if all were well.
pub fn state(device: &DeviceView) -> Markup {
    let state = device.verdict;
    let (class, mark) = match state {
        VerdictState::Fresh if device.certificate_state() != CertificateState::Good => ("warn", "!"),
        VerdictState::Fresh => ("good", "✓"),
        VerdictState::Stale => ("warn", "◷"),
        VerdictState::Failed => ("bad", "✗"),
        VerdictState::Unknown => ("soft", "?"),
    };
    html! { span class=(class) { (mark) " " (state.as_str()) } }
}

/// A gateway's state, in its colour and never by colour alone.
pub fn device_state(state: DeviceState) -> Markup {
    let mark = match state {
        DeviceState::Failed | DeviceState::Expired | DeviceState::Refused => "✗",
        DeviceState::NotSeen => "?",
        DeviceState::Down | DeviceState::Behind => "!",
        DeviceState::Expiring | DeviceState::Stale => "◷",
        DeviceState::Good => "✓",
    };
    html! { span class=(state_class(state)) { (mark) " " (state.as_str()) } }
}

/// CSS class of a gateway's state: `bad`, `warn` or `good`.
pub fn state_class(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Failed | DeviceState::Expired | DeviceState::Refused | DeviceState::NotSeen => "bad",
        DeviceState::Expiring | DeviceState::Down | DeviceState::Stale | DeviceState::Behind => "warn",
        DeviceState::Good => "good",
    }
}

/// The end of a gateway's certificate, in its colour and never by colour alone.
pub fn certificate(device: &DeviceView, now: UnixTime) -> Markup {
    let (class, mark) = match device.certificate_state() {
        CertificateState::Expired => ("bad", "✗ "),
        CertificateState::Expiring => ("warn", "◷ "),
        CertificateState::Good => ("soft", ""),
    };
    html! { span class=(class) { (mark) (text::certificate(device, now)) } }
}

/// Hardware, in red where there is none.
pub fn hardware(hardware: &str) -> Markup {
    html! {
        @if hardware == "none" { span.bad title="nothing proves that the keys cannot be copied" { "hardware: none" } } @else { (hardware) }
    }
}
