//! Access to the dashboard: for the bearer of the token, then of its cookie.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};

use super::page;
use crate::data_dir::Secret;
use crate::server::listener::Place;
use crate::server::state::AccessToken;

const COOKIE: &str = "edgewarden";

/// Credentials that a request shows: the token in its query, its cookie or its `Authorization` header.
pub struct Access {
    query: Option<Secret>,
    cookie: Option<Secret>,
    bearer: Option<Secret>,
    path: String,
    place: Option<Arc<Place>>,
}

impl<S: Sync> FromRequestParts<S> for Access {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let mut pairs = parts.uri.query().unwrap_or_default().split('&');
        let query = pairs.find_map(|pair| pair.strip_prefix("token="));
        Ok(Self {
            query: query.map(|token| Secret::new(token.to_owned())),
            cookie: cookie(&parts.headers),
            bearer: bearer(&parts.headers),
            path: parts.uri.path().to_owned(),
            place: parts.extensions.get().cloned(),
        })
    }
}

/// RFC 6265 section 5.4.
fn cookie(headers: &HeaderMap) -> Option<Secret> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| Secret::new(value.to_owned()))
}

/// RFC 6750 section 2.1.
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let header = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    header.strip_prefix("Bearer ").map(|token| Secret::new(token.to_owned()))
}

impl Access {
    /// `None` for who may look. The token is taken out of the address at once, so that it stays in no history.
    pub fn refused_or_redirected(&self, expected: &Secret) -> Option<Response> {
        let token = AccessToken::new(expected);
        if let Some(offered) = &self.query {
            if !token.matches(offered) {
                return Some(refused());
            }
            let text = format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict", expected.as_str());
            let Ok(value) = HeaderValue::from_str(&text) else { return Some(refused()) };
            return Some(([(header::SET_COOKIE, value)], Redirect::to(&self.path)).into_response());
        }
        match self.bearer.as_ref().or(self.cookie.as_ref()) {
            Some(offered) if token.matches(offered) => {
                if let Some(place) = &self.place {
                    place.is_operator();
                }
                None
            }
            _ => Some(refused()),
        }
    }
}

fn refused() -> Response {
    let text = "This page needs an access token. Get its address with: edgewarden-fleet web url";
    page::plain(StatusCode::UNAUTHORIZED, "Access refused", text)
}
