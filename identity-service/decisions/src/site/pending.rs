//! The request that the site's CA has not decided. It outlives a restart: the CA knows a request by its bytes, and a
//! signature made anew would be another request.

use edgewarden_est::{Enrolment, Operation, SignedRequest, Subject};
use edgewarden_names::{Refusal, UnixTime};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::document::Document;
use edgewarden_protocol::est::EstOperation;
use serde::{Deserialize, Serialize};

const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// The request that waits for a site's CA, if one does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteRequest {
    pub pending: Option<Pending>,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    pub operation: EstOperation,
    /// PKCS#10, DER.
    pub request: Bytes,
    /// Times that the CA said "later", and the first of them.
    pub answers: u32,
    pub since: Option<UnixTime>,
}

impl Document for SiteRequest {
    const FILE: &'static str = "est-request.json";

    fn check(&self) -> Result<(), String> {
        let long = |pending: &Pending| pending.request.0.len() > REQUEST_BYTES_MAX;
        if self.pending.as_ref().is_some_and(long) { Err("the request is too long".into()) } else { Ok(()) }
    }
}

/// The operation in the words of crate `est`.
pub fn operation(operation: EstOperation) -> Operation {
    match operation {
        EstOperation::Enroll => Operation::Enroll,
        EstOperation::Reenroll => Operation::Reenroll,
    }
}

impl Pending {
    /// A request that was not answered yet.
    pub fn new(operation: EstOperation, request: &SignedRequest) -> Self {
        Self { operation, request: request.der().into(), answers: 0, since: None }
    }

    /// The enrolment that goes on with this request, which was for `subject` and is by the key of `point`.
    pub fn resume(&self, subject: &Subject, point: &[u8]) -> Result<Enrolment, Refusal> {
        let request =
            SignedRequest::resume(operation(self.operation), subject, self.request.as_slice(), point)
                .map_err(|error| error.refusal)?;
        Ok(Enrolment::resume(request, self.answers, self.since))
    }

    /// The same request after another answer.
    #[must_use]
    pub fn after(&self, enrolment: &Enrolment) -> Self {
        let (answers, since) = enrolment.pending();
        Self { answers, since, ..self.clone() }
    }
}
