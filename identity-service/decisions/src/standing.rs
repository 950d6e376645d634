//! Judgement of what runs, anew by whatever is in force.
//!
//! A start was permitted by keys; its record says which. When none of them is among the keys of the deployment in
//! force, nobody vouches for what runs, and it is not asked whether somebody would: proof comes before power. Pure, and
//! kept nowhere: a crash between two judgements loses none.

use edgewarden_names::{Digest, ModuleName, Reason, Refusal};
use edgewarden_protocol::control::{StartRecord, Untrusted};
use edgewarden_protocol::deployment::WhenUntrusted;

use crate::authority::{Authority, Effect, Step};

impl Authority {
    /// The reason to distrust an instance that runs, if there is one.
    pub fn distrusts(&self, record: &StartRecord) -> Option<Untrusted> {
        let wrong = |then, refusal| Some(Untrusted { record: record.clone(), then, refusal });
        let Some(in_force) = self.in_force() else {
            let refusal = Refusal::new(Reason::StartPermit, &record.module, "no deployment is in force");
            return wrong(WhenUntrusted::Stop, refusal);
        };
        if !in_force.deployment().modules.iter().any(|module| module.name == record.module) {
            let rule = "the deployment in force has no such module";
            return wrong(WhenUntrusted::Stop, Refusal::new(Reason::StartPermit, &record.module, rule));
        }
        if in_force.vouches(&record.vouchers) {
            return None;
        }
        wrong(in_force.deployment().untrusted, withdrawn(&record.module))
    }

    /// May the instance have an identity, as far as the deployment goes?
    pub fn standing(&self, instance: &str) -> Result<(), Refusal> {
        let record = self.documents.records.get(instance);
        match record.and_then(|record| self.distrusts(record)) {
            Some(untrusted) if !untrusted.keeps_identity() => Err(untrusted.refusal),
            _ => Ok(()),
        }
    }

    /// Does the deployment in force let something start that these keys vouched for? What is done about that which runs
    /// already ([`WhenUntrusted`]) lets nothing start.
    pub(crate) fn still_vouched(&self, module: &ModuleName, vouchers: &[Digest]) -> Result<(), Refusal> {
        let Some(in_force) = self.in_force() else { return Ok(()) };
        // It may have been taken out while the container was made.
        if !in_force.deployment().modules.iter().any(|known| known.name == *module) {
            return Err(Refusal::new(
                Reason::StartPermit,
                module,
                "the deployment in force has no such module",
            ));
        }
        if in_force.vouches(vouchers) { Ok(()) } else { Err(withdrawn(module)) }
    }

    /// The step, with what follows for all that runs from what was in force `before` and what is now.
    pub(crate) fn judge_again(&self, before: &Self, mut step: Step) -> Step {
        for record in self.documents.records.iter() {
            let (was, is) = (before.distrusts(record), self.distrusts(record));
            let had = was.as_ref().is_none_or(Untrusted::keeps_identity);
            let has = is.as_ref().is_none_or(Untrusted::keeps_identity);
            if let Some(untrusted) = &is
                && was.as_ref().map(|was| (&was.refusal, was.then))
                    != Some((&untrusted.refusal, untrusted.then))
            {
                let detail = format!("{}; {}", untrusted.refusal, untrusted.then);
                step = step.event("instance.untrusted", &record.instance, detail);
                if untrusted.refusal.reason == Reason::ImageWithdrawn {
                    step = step.effect(Effect::Complain(untrusted.refusal.clone()));
                }
            }
            if had && !has {
                step = step.effect(Effect::Suspend { instance: record.instance.clone() });
            }
            if has && !had {
                step = step.event("instance.trusted", &record.instance, "");
                step = step.effect(Effect::Begin(Box::new(record.clone())));
            }
        }
        step
    }
}

fn withdrawn(module: &ModuleName) -> Refusal {
    let rule = "none of the keys that signed its image is among the image keys of the deployment in force";
    Refusal::new(Reason::ImageWithdrawn, module, rule)
}
