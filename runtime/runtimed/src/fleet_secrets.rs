//! Sealed secrets on their way from the fleet to `identityd`. What is carried here says nothing to the carriers.

use std::collections::VecDeque;

use edgewarden_names::{Digest, ErrorChain, Reason};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::control::questions;
use edgewarden_protocol::uplink::{REFUSED_MAX, SECRETS_SENT_MAX, SecretsSync};

use crate::identity::{CallError, Client};

/// Digests of secrets that `identityd` refused of late, told to the fleet so that it does not offer them again and
/// again.
#[derive(Debug, Default)]
pub struct Secrets {
    refused: VecDeque<Digest>,
}

impl Secrets {
    /// Report to the fleet: the key, secrets held, secrets refused. `None` when none can be sealed for the gateway.
    pub async fn sync(&self, identityd: &Client) -> Result<Option<SecretsSync>, String> {
        let key = match identityd.call(questions::AgreementKey).await {
            Ok(key) => *key,
            Err(CallError::Refused(refusal)) => {
                tracing::debug!(%refusal, "no secrets can be sealed for this gateway");
                return Ok(None);
            }
            Err(error) => return Err(ErrorChain(&error).to_string()),
        };
        let have =
            identityd.call(questions::Secrets).await.map_err(|error| ErrorChain(&error).to_string())?;
        Ok(Some(SecretsSync { key, have, refused: self.refused.iter().cloned().collect() }))
    }

    /// Hands on what the fleet sent.
    pub async fn accept(&mut self, identityd: &Client, envelopes: Vec<Bytes>) -> Result<(), String> {
        if envelopes.len() > SECRETS_SENT_MAX {
            return Err(format!("the fleet sent more than {SECRETS_SENT_MAX} secrets at once"));
        }
        for envelope in envelopes {
            let name = Digest::of(envelope.as_slice());
            match identityd.call(questions::SecretAccept(envelope)).await {
                Ok(()) => tracing::info!(envelope = %name, "a secret is held"),
                // Trouble that passes: it is offered again.
                Err(CallError::Refused(refusal)) if passing(refusal.reason) => {
                    return Err(refusal.to_string());
                }
                Err(CallError::Refused(refusal)) => {
                    tracing::warn!(reason = refusal.reason.code(), %refusal, "the fleet's secret was refused");
                    if self.refused.len() >= REFUSED_MAX {
                        self.refused.pop_front();
                    }
                    self.refused.push_back(name);
                }
                Err(error) => return Err(ErrorChain(&error).to_string()),
            }
        }
        Ok(())
    }
}

fn passing(reason: Reason) -> bool {
    reason.passes()
}
