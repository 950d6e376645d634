//! The published keys, vouched for by the gateway CA's key, for who collects the keys of all gateways.

use std::sync::PoisonError;

use edgewarden_keystore::Keystore;
use edgewarden_names::Refusal;
use edgewarden_protocol::Bytes;
use edgewarden_protocol::audit::{Event, KeyUse};
use edgewarden_protocol::dsse::{Envelope, Signature, pre_authentication_encoding};
use edgewarden_protocol::jwt_keys::{PAYLOAD_TYPE, PublishedKey, Statement};

use super::JwtAuthority;
use crate::ledger::Ledger;
use crate::metrics::Operation;
use crate::refuse::internal;

impl JwtAuthority {
    /// The envelope about the keys that are published now; `None` when there are none. Blocks on the keystore, once for
    /// each change.
    pub fn statement(&self, ledger: &Ledger, keystore: &dyn Keystore) -> Result<Option<Bytes>, Refusal> {
        let published = ledger.current().documents().jwt_keys.clone();
        if published.keys().is_empty() {
            return Ok(None);
        }
        // Held while the keystore signs: who asks meanwhile wants the same statement.
        let mut held = self.statement.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((sequence, envelope)) = &*held
            && *sequence == published.sequence()
        {
            return Ok(Some(envelope.clone()));
        }
        let target = &ledger.context.target;
        let keys = published.keys().iter().filter_map(|key| {
            Some(PublishedKey { kid: key.kid.clone(), point: key.point()?.into(), not_after: key.not_after })
        });
        let statement = Statement {
            gateway: target.gateway.clone(),
            trust_domain: target.trust_domain.clone(),
            sequence: published.sequence(),
            at: ledger.now(),
            keys: keys.collect(),
        };
        let payload = serde_json::to_vec(&statement).map_err(|error| internal("JWT keys", &error))?;
        let signed = pre_authentication_encoding(PAYLOAD_TYPE, &payload);
        let signature = ledger.metrics.keystore(Operation::CaSign, || keystore.ca_sign(&signed));
        let sig = signature.map_err(|error| internal("JWT keys", &error))?.into();
        let signatures = vec![Signature { keyid: target.gateway.to_string(), sig }];
        let envelope = Envelope { payload_type: PAYLOAD_TYPE.into(), payload: payload.into(), signatures };
        let envelope: Bytes =
            serde_json::to_vec(&envelope).map_err(|error| internal("JWT keys", &error))?.into();
        let detail = format!("sequence {}", statement.sequence);
        ledger.record(&Event::new("jwt_keys.stated", &target.gateway, detail).with_key(KeyUse::GatewayCa));
        *held = Some((statement.sequence, envelope.clone()));
        Ok(Some(envelope))
    }
}
