//! The calls of the JWT profile that are no streams (SPIFFE Workload API, section 6).

use std::collections::BTreeMap;

use edgewarden_names::{Reason, Refusal, SpiffeId};
use edgewarden_svid::jwt::json::{Json, Object};
use edgewarden_svid::jwt::{Audience, validate};
use edgewarden_workload_wire::workloadapi::{
    Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use crate::source::IdentitySource;

/// A fresh token for the caller, who was judged before.
pub(super) fn fetch(
    source: &dyn IdentitySource,
    request: &JwtsvidRequest,
) -> Result<JwtsvidResponse, Refusal> {
    let audience = Audience::parse(&request.audience)
        .map_err(|error| Refusal::new(Reason::JwtAudience, "audience", error))?;
    let id = match request.spiffe_id.as_str() {
        "" => None,
        text => Some(
            SpiffeId::parse(text)
                .map_err(|error| Refusal::new(Reason::RequestInvalid, "spiffe_id", error))?,
        ),
    };
    let svid = source.jwt_svid(&audience, id.as_ref())?;
    let svid =
        Jwtsvid { spiffe_id: svid.id.to_string(), svid: svid.token.as_str().to_owned(), hint: String::new() };
    Ok(JwtsvidResponse { svids: vec![svid] })
}

/// Judges a token for the caller, who was judged before.
pub(super) fn validated(
    source: &dyn IdentitySource,
    request: &ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Refusal> {
    if request.audience.is_empty() {
        return Err(Refusal::new(Reason::JwtAudience, "audience", "it is empty"));
    }
    if request.svid.is_empty() {
        return Err(Refusal::new(Reason::JwtInvalid, "svid", "it is empty"));
    }
    // Who has no identity has no bundle to judge by either.
    source.subscribe()?;
    let bundles = source.bundles().borrow().clone();
    let validated = validate(&request.svid, &request.audience, &bundles.jwt, source.now())
        .map_err(|error| Refusal::new(Reason::JwtInvalid, "svid", error))?;
    let claims = Struct { fields: fields(validated.claims()) };
    Ok(ValidateJwtsvidResponse { spiffe_id: validated.id().to_string(), claims: Some(claims) })
}

fn fields(object: &Object) -> BTreeMap<String, Value> {
    object.iter().map(|(name, json)| (name.clone(), value(json))).collect()
}

/// No deeper than the parser lets a token be.
fn value(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(*value),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(all) => Kind::ListValue(ListValue { values: all.iter().map(value).collect() }),
        Json::Object(object) => Kind::StructValue(Struct { fields: fields(object) }),
    };
    Value { kind: Some(kind) }
}
