//! One enrolment from its request to its certificate, over as many askings as the CA wants (RFC 7030 section 4.2.3).
//! No I/O and no clock.

use edgewarden_names::{Reason, Refusal, UnixTime};

use crate::chain::{self, CertificateBag, EnrolledChain};
use crate::wire::{self, Answer, Question, Reply};
use crate::{EstError, SignedRequest, TrustAnchors, certs_only};

/// Most times that one request is answered with "later".
pub const PENDING_ANSWERS_MAX: u32 = 1024;
/// Time that one request stays undecided, in seconds: a week. After that a new one is made, and people are told.
pub const PENDING_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// A request that is being decided. Keep it while [`Progress::Pending`]: the CA knows the request by its bytes.
#[derive(Debug, Clone)]
pub struct Enrolment {
    request: SignedRequest,
    pending_answers: u32,
    pending_since: Option<UnixTime>,
}

/// State of a request after an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    Enrolled(EnrolledChain),
    /// Somebody at the CA has to approve: the same request again, after this long.
    Pending {
        after: std::time::Duration,
    },
}

impl Enrolment {
    /// A request that was not answered yet.
    pub fn new(request: SignedRequest) -> Self {
        Self { request, pending_answers: 0, pending_since: None }
    }

    /// One that was begun before: so many answers said "later", the first of them then.
    pub fn resume(request: SignedRequest, pending_answers: u32, pending_since: Option<UnixTime>) -> Self {
        Self { request, pending_answers, pending_since }
    }

    /// Times that the CA has said "later", and the first of them.
    pub fn pending(&self) -> (u32, Option<UnixTime>) {
        (self.pending_answers, self.pending_since)
    }

    /// The operation to ask for.
    pub fn question(&self) -> Question {
        Question::Certificate(self.request.operation)
    }

    /// The request itself.
    pub fn request(&self) -> &SignedRequest {
        &self.request
    }

    /// The body to send, the same each time.
    pub fn body(&self) -> String {
        wire::request_body(&self.request.der)
    }

    /// Judges an answer. `helpers` are the certificates of `cacerts`: the answer has our certificate only.
    pub fn answered(
        &mut self,
        reply: &Reply,
        helpers: &CertificateBag,
        anchors: &TrustAnchors,
        now: UnixTime,
    ) -> Result<Progress, EstError> {
        let question = self.question();
        match wire::read(question, reply, now)? {
            Answer::Later(after) => self.later(after, now),
            Answer::Nothing => Err(Refusal::new(Reason::EstAnswer, question, "the answer is empty").into()),
            Answer::Content(der) => {
                let certificates = certs_only::parse(&der)
                    .map_err(|error| Refusal::new(Reason::EstAnswer, question, error))?;
                let bag = CertificateBag::new(certificates)?;
                chain::judge(&bag, helpers, &self.request.expected(), anchors, now).map(Progress::Enrolled)
            }
        }
    }

    fn later(&mut self, after: std::time::Duration, now: UnixTime) -> Result<Progress, EstError> {
        // A clock that was put back starts the week again; the count bounds it all the same.
        let since = self.pending_since.map_or(now, |since| since.min(now));
        self.pending_since = Some(since);
        self.pending_answers = self.pending_answers.saturating_add(1);
        if self.pending_answers > PENDING_ANSWERS_MAX || now.0.saturating_sub(since.0) > PENDING_SECONDS_MAX {
            let rule =
                format!("the CA has not decided since {since}, after {} answers", self.pending_answers);
            return Err(Refusal::new(Reason::EstPending, self.question(), rule).into());
        }
        Ok(Progress::Pending { after })
    }
}
