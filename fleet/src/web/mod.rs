//! The dashboard: pages made on the server, for eyes only. Nothing can be changed here.
//!
//! Plain HTTP on a loopback address, behind a token of its own: `/?token=…` sets a cookie that scripts and other
//! sites cannot use. No script, no foreign origin (Content-Security-Policy); `maud` escapes all that gateways sent.

mod access;
mod device;
mod overview;
mod page;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use edgewarden_metrics::page::Format;
use edgewarden_names::{GatewayName, UnixTime};
use maud::Markup;

use crate::Problem;
use crate::metrics;
use crate::server::state::Shared;
use crate::server::views;

const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Messages that a device's page shows.
const MESSAGES_SHOWN: u32 = 20;
const EVENTS_SHOWN: u32 = 20;

/// Router of the dashboard, with `/metrics` and `/healthz`.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(overview))
        .route("/gateway/{name}", get(device))
        .route("/style.css", get(style))
        .route("/metrics", get(numbers))
        .route("/healthz", get(health))
        .fallback(not_found)
        .layer(from_fn(secure_headers))
}

async fn secure_headers(request: axum::extract::Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css")).into_response()
}

/// For a monitoring system, which shows the token as a bearer's (RFC 6750).
async fn numbers(State(shared): State<Arc<Shared>>, access: access::Access, headers: HeaderMap) -> Response {
    if let Some(response) = access.refused_or_redirected(&shared.web_token) {
        return response;
    }
    let format = Format::accepted(headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()));
    match metrics::page(&shared, format).await {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(problem) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", problem.into_refusal().reason.code()))
                .into_response()
        }
    }
}

/// For whoever starts the fleet anew when it is not well. It says that, and nothing else.
async fn health(State(shared): State<Arc<Shared>>) -> Response {
    match metrics::health(&shared).await {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reason.code())).into_response(),
    }
}

async fn not_found() -> Response {
    page::plain(StatusCode::NOT_FOUND, "Not found", "There is no page of this name.")
}

async fn overview(State(shared): State<Arc<Shared>>, access: access::Access) -> Response {
    if let Some(response) = access.refused_or_redirected(&shared.web_token) {
        return response;
    }
    let content = async {
        let devices = views::devices(&shared).await?;
        let deployments = views::deployments(&shared).await?;
        let events = shared.store.events(None, EVENTS_SHOWN).await?;
        Ok(overview::content(&devices, &deployments, &events, UnixTime::now()))
    };
    show(&shared, "Gateways", content.await)
}

async fn device(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    access: access::Access,
) -> Response {
    if let Some(response) = access.refused_or_redirected(&shared.web_token) {
        return response;
    }
    let Ok(name) = GatewayName::parse(&name) else { return not_found().await };
    let content = async {
        let Some(detail) = views::detail(&shared, &name).await? else { return Ok(None) };
        let messages = shared.store.messages(&name, MESSAGES_SHOWN).await?;
        Ok(Some(device::content(&detail, &messages, UnixTime::now())))
    };
    match content.await {
        Ok(None) => not_found().await,
        Ok(Some(content)) => show(&shared, name.as_str(), Ok(content)),
        Err(problem) => show(&shared, name.as_str(), Err(problem)),
    }
}

fn show(shared: &Shared, title: &str, content: Result<Markup, Problem>) -> Response {
    match content {
        Ok(content) => page::respond(StatusCode::OK, page::page(shared, title, &content)),
        Err(problem) => {
            page::plain(StatusCode::INTERNAL_SERVER_ERROR, "Failed", &problem.into_refusal().rule)
        }
    }
}
