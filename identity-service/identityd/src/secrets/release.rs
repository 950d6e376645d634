//! Takes secrets in, and hands their values on: only while the verdict is trusted, only to a live instance, only what
//! the deployment in force names for its module.
//!
//! A value is opened anew each time, by the keystore's key; the envelope's signature is checked again then, so that a
//! key that is no longer pinned releases nothing. Names and versions go to the audit log, once for each instance.

use edgewarden_decisions::authority::{Authority, Input};
use edgewarden_decisions::deployments::envelope_digest;
use edgewarden_decisions::secrets::open;
use edgewarden_names::{Digest, ModuleName, Reason, Refusal, SecretName, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::audit::{Event, KeyUse, clip};
use edgewarden_protocol::control::Reply;
use edgewarden_protocol::dsse::{Envelope, Signature, pre_authentication_encoding};
use edgewarden_protocol::secret::{
    AgreementKey, Content, KEY_PAYLOAD_TYPE, KeyStatement, SealedValue, SecretDocument, SecretFile,
    SecretFiles, SecretUse, SecretValue,
};
use edgewarden_sealing::{OpenError, Sealed};
use zeroize::Zeroizing;

use super::Desk;
use crate::metrics::Operation;
use crate::refuse::{internal, keystore_refusal_in_brief as keystore_refusal};

/// Checks an envelope, opens its value once to see that it opens, and keeps the envelope.
pub fn accept(desk: &Desk, envelope: &Bytes) -> Result<Reply, Refusal> {
    let _one_at_a_time = desk.vault.writing();
    let state = desk.ledger.current();
    let noted = |refusal: &Refusal| desk.ledger.note(refusal);
    let Some(judged) = state.judge_secret(envelope.as_slice()).inspect_err(noted)? else {
        return keep(desk, envelope.as_slice());
    };
    let (document, digest) = (judged.document(), judged.envelope().clone());
    let before = state.documents().secrets.held(&document.module, &document.name);
    let before = before.map(|(_, held)| held.envelope.clone());
    if let Content::Sealed(sealed) = &document.content {
        unseal(desk, document, sealed).map(drop).inspect_err(noted)?;
        desk.vault.put(&digest, envelope.as_slice()).map_err(|error| internal("secret", &error))?;
    }
    if let Err(refusal) = desk.ledger.transact(Input::SecretJudged(Box::new(judged))) {
        // After an error of the disk the decision may count at the next start, and the envelope with it.
        if !matches!(refusal.reason, Reason::Internal | Reason::Storage) {
            remove(desk, &digest);
        }
        return Err(refusal);
    }
    if let Some(before) = before {
        remove(desk, &before);
    }
    Ok(Reply::Done)
}

/// The envelope counts already. Its file may have been lost or damaged: this is how it comes back.
fn keep(desk: &Desk, envelope: &[u8]) -> Result<Reply, Refusal> {
    let digest = envelope_digest(envelope);
    if let Err(error) = desk.vault.get(&digest) {
        tracing::warn!(%error, "the envelope of a secret is written again");
        desk.vault.put(&digest, envelope).map_err(|error| internal("secret", &error))?;
    }
    Ok(Reply::Done)
}

/// Removes an envelope that does not count. What stays by an error is removed at the next start.
fn remove(desk: &Desk, envelope: &Digest) {
    if let Err(error) = desk.vault.remove(envelope) {
        tracing::warn!(%error, "the envelope of an old secret was not removed");
    }
}

/// State of each secret, without values.
pub fn list(desk: &Desk) -> Reply {
    Reply::Secrets(desk.ledger.current().documents().secrets.status())
}

fn point(desk: &Desk) -> Result<&[u8], Refusal> {
    let ask = || desk.ledger.metrics.keystore(Operation::Agree, || desk.keystore.agreement_public());
    desk.vault.point(ask).map_err(|error| keystore_refusal("agreement key", &error))
}

fn unseal(
    desk: &Desk,
    document: &SecretDocument,
    sealed: &SealedValue,
) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let refuse = |rule: &str| Refusal::new(Reason::SecretUndecryptable, document.subject(), rule);
    let own = point(desk)?;
    if envelope_digest(own) != sealed.recipient {
        return Err(refuse("it is sealed to another key than this gateway's"));
    }
    let message =
        Sealed { encapsulated: sealed.encapsulated.0.clone(), ciphertext: sealed.ciphertext.0.clone() };
    // A point that is not on the curve is the sender's fault, not the keystore's.
    if edgewarden_ca::spki::check_point(&message.encapsulated).is_err() {
        return Err(refuse("its encapsulated key is not a P-256 point"));
    }
    let _one_at_a_time = desk.vault.opening();
    let agree = |peer: &[u8]| desk.ledger.metrics.keystore(Operation::Agree, || desk.keystore.agree(peer));
    edgewarden_sealing::open(&message, own, &document.context(), b"", agree).map_err(|error| match error {
        OpenError::Agree(error) => keystore_refusal("secret", &error),
        OpenError::Opaque | OpenError::Malformed => refuse("it was altered, or sealed for something else"),
    })
}

/// The value of a secret that is held, with its version.
fn value(
    desk: &Desk,
    state: &Authority,
    module: &ModuleName,
    name: &SecretName,
) -> Result<(u64, SecretValue), Refusal> {
    let secrets = &state.documents().secrets;
    let (kept, held) = secrets.held(module, name).ok_or_else(|| secrets.missing(module, name))?;
    let envelope = desk.vault.get(&held.envelope).map_err(|error| internal("secret", &error))?;
    let judged = open(&envelope, &state.context().target)?;
    let document = judged.document();
    let Content::Sealed(sealed) = &document.content else { return Err(secrets.missing(module, name)) };
    if document.module != *module || document.name != *name || document.version != kept.version {
        return Err(Refusal::new(Reason::SecretNotForUs, module, "the envelope is another secret's"));
    }
    unseal(desk, document, sealed).map(|value| (kept.version, SecretValue::new(value)))
}

/// The module whose secrets an instance may have now. The verdict counts first.
fn module_of(state: &Authority, instance: &str) -> Result<ModuleName, Refusal> {
    state.documents().enrolment.trusted()?;
    state.standing(instance)?;
    let record = state.documents().records.get(instance);
    record
        .map(|record| record.module.clone())
        .ok_or_else(|| Refusal::new(Reason::StartPermit, clip(instance), "no such instance is live"))
}

/// Writes to the audit log which versions an instance got, unless it has had them.
fn tell(desk: &Desk, instance: &str, way: &'static str, got: &[(&SecretName, u64)]) {
    let news: Vec<String> = got
        .iter()
        .filter(|(name, version)| desk.vault.is_news(instance, way, name, *version))
        .map(|(name, version)| format!("{name} version {version}"))
        .collect();
    if !news.is_empty() {
        let detail = format!("as {way}: {}", news.join(", "));
        desk.ledger.record(&Event::new("secret.released", instance, detail).with_key(KeyUse::Agreement));
    }
}

/// All values of an instance, in the order of its deployment. Without `lenient` all must be there.
fn values<'a>(
    desk: &Desk,
    state: &Authority,
    module: &ModuleName,
    uses: &'a [SecretUse],
    lenient: bool,
) -> Result<Vec<(&'a SecretUse, u64, SecretValue)>, Refusal> {
    let mut found = Vec::new();
    for secret in uses {
        if lenient && state.documents().secrets.held(module, &secret.name).is_none() {
            continue;
        }
        let (version, value) = value(desk, state, module, &secret.name)?;
        found.push((secret, version, value));
    }
    Ok(found)
}

/// Everything for the files of a live instance. With `have` it runs already: what was removed meanwhile is left out.
pub fn release_files(desk: &Desk, instance: &str, have: Option<&str>) -> Result<Reply, Refusal> {
    let noted = |refusal: &Refusal| desk.ledger.note(refusal);
    let state = desk.ledger.current();
    let module = module_of(&state, instance).inspect_err(noted)?;
    let uses = state.uses(&module);
    let revision = state.documents().secrets.revision(&module, uses);
    if have == Some(revision.as_str()) {
        return Ok(Reply::Done);
    }
    let values = values(desk, &state, &module, uses, have.is_some()).inspect_err(noted)?;
    let got: Vec<_> = values.iter().map(|(secret, version, _)| (&secret.name, *version)).collect();
    tell(desk, instance, "files", &got);
    let file = |(secret, version, value): (&SecretUse, u64, SecretValue)| SecretFile {
        name: secret.name.clone(),
        version,
        file: secret.file().to_owned(),
        mode: secret.mode,
        value,
    };
    let files = values.into_iter().map(file).collect();
    Ok(Reply::SecretFiles(Box::new(SecretFiles { revision, files })))
}

/// One value by the API. What the deployment does not name is as unknown as what is not there.
pub fn release_one(desk: &Desk, instance: &str, name: &SecretName) -> Result<(u64, SecretValue), Refusal> {
    let state = desk.ledger.current();
    let module = module_of(&state, instance)?;
    if !state.uses(&module).iter().any(|secret| secret.name == *name) {
        let rule = format!("the deployment gives the module no secret `{name}`");
        return Err(Refusal::new(Reason::SecretMissing, &module, rule));
    }
    desk.keys.open_secrets(&module, 1, desk.ledger.tick())?;
    let (version, value) = value(desk, &state, &module, name)?;
    tell(desk, instance, "api", &[(name, version)]);
    Ok((version, value))
}

/// A value by its name, with its version.
pub type Released = (SecretName, u64, SecretValue);

/// All values by the API, with their revision.
pub fn release_all(desk: &Desk, instance: &str) -> Result<(String, Vec<Released>), Refusal> {
    let state = desk.ledger.current();
    let module = module_of(&state, instance)?;
    let uses = state.uses(&module);
    desk.keys.open_secrets(&module, uses.len(), desk.ledger.tick())?;
    let values = values(desk, &state, &module, uses, true)?;
    let got: Vec<_> = values.iter().map(|(secret, version, _)| (&secret.name, *version)).collect();
    tell(desk, instance, "api", &got);
    let revision = state.documents().secrets.revision(&module, uses);
    let named = |(secret, version, value): (&SecretUse, _, _)| (secret.name.clone(), version, value);
    Ok((revision, values.into_iter().map(named).collect()))
}

/// Names what [`release_all`] would give, without opening anything.
pub fn revision(desk: &Desk, instance: &str) -> Result<String, Refusal> {
    let state = desk.ledger.current();
    let module = module_of(&state, instance)?;
    Ok(state.documents().secrets.revision(&module, state.uses(&module)))
}

/// The key that secrets for this gateway are sealed to, vouched for by the gateway CA's key: made once for each
/// certificate.
pub fn agreement_key(desk: &Desk) -> Result<Reply, Refusal> {
    let state = desk.ledger.current();
    let accepted = state.documents().enrolment.trusted()?;
    let mut made = desk.vault.statement();
    if let Some(made) = made.as_ref().filter(|made| made.gateway_ca == accepted.gateway_ca) {
        return Ok(Reply::AgreementKey(Box::new(made.clone())));
    }
    let target = &desk.ledger.context.target;
    let statement = KeyStatement {
        trust_domain: target.trust_domain.clone(),
        gateway: target.gateway.clone(),
        key: point(desk)?.into(),
        at: desk.ledger.now(),
    };
    let statement = signed(desk, &statement)?;
    let key = AgreementKey { gateway_ca: accepted.gateway_ca.clone(), statement: statement.into() };
    *made = Some(key.clone());
    Ok(Reply::AgreementKey(Box::new(key)))
}

fn signed(desk: &Desk, statement: &KeyStatement) -> Result<Vec<u8>, Refusal> {
    let payload = serde_json::to_vec(statement).map_err(|error| internal("agreement key", &error))?;
    let message = pre_authentication_encoding(KEY_PAYLOAD_TYPE, &payload);
    let sig = desk
        .ledger
        .metrics
        .keystore(Operation::CaSign, || desk.keystore.ca_sign(&message))
        .map_err(|error| keystore_refusal("agreement key", &error))?;
    let UnixTime(at) = statement.at;
    let event = Event::new("agreement_key.stated", &statement.gateway, format!("at {at}"));
    desk.ledger.record(&event.with_key(KeyUse::GatewayCa));
    let envelope = Envelope {
        payload_type: KEY_PAYLOAD_TYPE.into(),
        payload: payload.into(),
        signatures: vec![Signature { keyid: "gateway-ca".into(), sig: sig.into() }],
    };
    serde_json::to_vec(&envelope).map_err(|error| internal("agreement key", &error))
}
