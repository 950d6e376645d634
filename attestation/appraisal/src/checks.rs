//! The record of what was checked, in the order of checking.

use edgewarden_names::{Reason, Refusal};
use edgewarden_protocol::enrol::Check;

#[derive(Debug, Default)]
pub(crate) struct Checks(Vec<Check>);

impl Checks {
    pub(crate) fn after(earlier: &[Check]) -> Self {
        Self(earlier.to_vec())
    }

    pub(crate) fn passed(&mut self, name: &str, detail: impl Into<String>) {
        self.0.push(Check { name: name.to_owned(), passed: true, detail: detail.into() });
    }

    /// Records a failed check and makes the refusal from it.
    pub(crate) fn failed(&mut self, name: &str, reason: Reason, detail: impl Into<String>) -> Refusal {
        let detail = detail.into();
        let refusal = Refusal::new(reason, name, &detail);
        self.0.push(Check { name: name.to_owned(), passed: false, detail });
        refusal
    }

    /// Passes with `detail`, or fails with `reason` and `otherwise`.
    pub(crate) fn require(
        &mut self,
        holds: bool,
        name: &str,
        detail: &str,
        reason: Reason,
        otherwise: &str,
    ) -> Result<(), Refusal> {
        if holds {
            self.passed(name, detail);
            Ok(())
        } else {
            Err(self.failed(name, reason, otherwise))
        }
    }

    pub(crate) fn into_list(self) -> Vec<Check> {
        self.0
    }
}
