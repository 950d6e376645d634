//! The fleet's time for `identityd`: asked now and then, and often while `identityd` is unsure.
//!
//! Carries only. What is believed, and when, `identityd` decides.

use edgewarden_names::ErrorChain;
use std::sync::Arc;
use std::time::Duration;

use edgewarden_protocol::control::questions;
use edgewarden_transport::jitter::jittered;
use edgewarden_transport::witness;
use tokio::time::{sleep, timeout};

use crate::context::Context;
use crate::enrol;
use crate::identity::CallError;

/// A fleet of 10,000 is asked 17 times in a second.
const ORDINARY: Duration = Duration::from_secs(600);
const UNSURE: Duration = Duration::from_secs(20);
/// Longest wait while it cannot be reached.
const AWAY_LONGEST: Duration = Duration::from_secs(300);

/// Asks for as long as it is polled.
pub async fn follow(context: Arc<Context>) {
    let Some(fleet) = context.config.fleet.clone() else { return std::future::pending().await };
    let root = match enrol::root(&fleet) {
        Ok(root) => root,
        Err(error) => {
            tracing::error!(error = %ErrorChain(&error), "the fleet is not asked for the time");
            return std::future::pending().await;
        }
    };
    let mut unsure = context.time_unsure.subscribe();
    let mut away = UNSURE;
    loop {
        let said = witness::ask(&fleet.url, &root, &context.config.gateway.trust_domain).await;
        let answered = match said {
            Ok(offset_millis) => {
                match context.identityd.call(questions::TimeHeard { offset_millis }).await {
                    Ok(()) => {}
                    Err(CallError::Refused(refusal)) => {
                        tracing::warn!(%refusal, "the fleet's time is not believed");
                    }
                    Err(error) => tracing::debug!(%error, "identityd did not hear the fleet's time"),
                }
                away = UNSURE;
                true
            }
            Err(error) => {
                tracing::debug!(error = %ErrorChain(&error), "the fleet does not say what time it is");
                false
            }
        };
        let wait = match (*unsure.borrow_and_update(), answered) {
            (true, true) => UNSURE,
            (false, true) => ORDINARY,
            (_, false) => {
                away = (away * 2).min(AWAY_LONGEST);
                away
            }
        };
        // A doubt is worth a question at once; many gateways of one broken time service must not come together.
        let doubted = async {
            if unsure.wait_for(|unsure| *unsure).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        if wait == ORDINARY {
            if timeout(jittered(wait), doubted).await.is_ok() {
                sleep(jittered(Duration::from_secs(4))).await;
            }
        } else {
            sleep(jittered(wait)).await;
        }
    }
}
