//! State changes by a site's CA. Without I/O, as [`crate::authority`] is.

use std::sync::Arc;

use edgewarden_names::{Reason, Refusal};

use super::pending::{Pending, SiteRequest};
use crate::authority::{Authority, Effect, Step};
use crate::enrolment::{Accepted, Enrolment};

/// Input about a site's CA.
#[derive(Debug)]
pub enum Input {
    /// A request waits for the CA from now on, or none does.
    Request(Option<Pending>),
    /// A certificate that has passed every check.
    Accept { accepted: Box<Accepted>, serial: String },
}

impl Authority {
    pub(crate) fn site_decides(&mut self, input: Input) -> Result<Step, Refusal> {
        match input {
            Input::Request(pending) => {
                self.documents.site_request = Arc::new(SiteRequest { pending });
                Ok(Step::done())
            }
            Input::Accept { accepted, serial } => self.site_accept(*accepted, &serial),
        }
    }

    fn site_accept(&mut self, accepted: Accepted, serial: &str) -> Result<Step, Refusal> {
        let before = self.documents.enrolment.accepted.as_ref().map(|held| held.not_before);
        // Whoever carries answers could else bring an old one again.
        if before.is_some_and(|before| accepted.not_before < before) {
            let rule = "it is older than the one in use";
            return Err(Refusal::new(Reason::EstCertificate, "gateway CA certificate", rule));
        }
        // As with a fleet: the beginning of a newer certificate is its CA's word on the time.
        if before.is_none_or(|before| before < accepted.not_before) {
            self.documents.clock = Arc::new(self.documents.clock.signed(accepted.not_before));
        }
        let gateway = self.context.target.gateway.clone();
        let detail =
            format!("by the site's CA, no verdict, serial {serial}, gateway CA until {}", accepted.not_after);
        self.documents.enrolment = Arc::new(Enrolment { accepted: Some(accepted) });
        self.documents.site_request = Arc::default();
        Ok(Step::done().event("est.accepted", gateway, detail).effect(Effect::Reissue).look())
    }
}
