use std::time::Duration;

use edgewarden_names::{Reason, Refusal};

/// Prospect of asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It can pass by itself: ask again with backoff, not before `retry_after`.
    Transient { retry_after: Option<Duration> },
    /// Somebody has to change something first: stay visible, ask again rarely or when the cause may be gone.
    Fatal,
}

/// Error of an enrolment: its refusal, and the prospect of asking again.
#[derive(Debug, thiserror::Error)]
#[error("{refusal}")]
pub struct EstError {
    pub refusal: Refusal,
    pub severity: Severity,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EstError {
    /// One that was judged elsewhere.
    pub fn new(refusal: Refusal, severity: Severity) -> Self {
        Self { refusal, severity, source: None }
    }

    /// An error that somebody must mend first.
    pub fn fatal(refusal: Refusal) -> Self {
        Self { refusal, severity: Severity::Fatal, source: None }
    }

    /// An error that may pass; `retry_after` is the CA's wish.
    pub fn transient(refusal: Refusal, retry_after: Option<Duration>) -> Self {
        Self { refusal, severity: Severity::Transient { retry_after }, source: None }
    }

    /// The error with its source.
    #[must_use]
    pub fn because(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// The refusal's reason.
    pub fn reason(&self) -> Reason {
        self.refusal.reason
    }
}

/// Malformed or unusable answers: no other answer is to be expected until somebody changes the server.
impl From<Refusal> for EstError {
    fn from(refusal: Refusal) -> Self {
        Self::fatal(refusal)
    }
}
