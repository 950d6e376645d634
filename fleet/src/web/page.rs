//! What all pages share.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use edgewarden_protocol::enrol::VerdictState;
use maud::{DOCTYPE, Markup, html};

use crate::admin_api::DeviceState;
use crate::selection::Carry;
use crate::server::state::Shared;

const REFRESH_SECONDS: &str = "5";

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

/// A verdict's state, in its colour and never by colour alone.
pub fn state(state: VerdictState) -> Markup {
    let (class, mark) = match state {
        VerdictState::Fresh => ("good", "✓"),
        VerdictState::Stale => ("warn", "◷"),
        VerdictState::Failed => ("bad", "✗"),
        VerdictState::Unknown => ("soft", "?"),
    };
    html! { span class=(class) { (mark) " " (state.as_str()) } }
}

/// How a gateway is, in its colour and never by colour alone.
pub fn device_state(state: DeviceState) -> Markup {
    let mark = match state {
        DeviceState::Failed | DeviceState::Refused => "✗",
        DeviceState::NotSeen => "?",
        DeviceState::Down | DeviceState::Behind => "!",
        DeviceState::Stale => "◷",
        DeviceState::Good => "✓",
    };
    html! { span class=(state_class(state)) { (mark) " " (state.as_str()) } }
}

pub fn state_class(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Failed | DeviceState::Refused | DeviceState::NotSeen => "bad",
        DeviceState::Down | DeviceState::Stale | DeviceState::Behind => "warn",
        DeviceState::Good => "good",
    }
}

/// Hardware, in red where there is none.
pub fn hardware(hardware: &str) -> Markup {
    html! {
        @if hardware == "none" { span.bad title="nothing proves that the keys cannot be copied" { "hardware: none" } } @else { (hardware) }
    }
}
