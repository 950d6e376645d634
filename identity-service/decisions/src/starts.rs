//! The decisions from a signed image to a live instance and its end, as part of [`Authority`].
//!
//! Each step takes the proof of the one before: an image that was judged makes a permit, a permit that is spent makes a
//! socket, a prepared instance with a process in a cgroup of its own makes a start record.

use std::net::Ipv4Addr;
use std::sync::Arc;

use edgewarden_image_trust::{ImageProof, judge};
use edgewarden_names::{Digest, Epoch, Generation, ModuleName, Reason, Refusal, UnixTime};
use edgewarden_protocol::audit::clip;
use edgewarden_protocol::control::{ImageEvidence, Prepared, Reply};
use edgewarden_protocol::deployment::{ImageReference, Module};

use crate::authority::{Authority, Effect, Moment, Step};
use crate::deployments::InForce;
use crate::records::ProcessSeen;

impl Authority {
    /// Judges an image by the deployment in force. Pure, and slow enough to be done beside other decisions.
    pub fn judge_image(&self, evidence: &ImageEvidence) -> Result<(ImageProof, Epoch), Refusal> {
        self.documents.enrolment.trusted()?;
        let in_force = self.deployed(&evidence.module, &evidence.image)?;
        let proof = judge(evidence, &in_force.deployment().image_keys)?;
        Ok((proof, in_force.epoch()))
    }

    /// The deployment in force, if it names this module with this very image, or if that is what the module was before
    /// an update that has not proven itself. The image keys in force judge that one too.
    fn deployed(&self, module: &ModuleName, image: &ImageReference) -> Result<&Arc<InForce>, Refusal> {
        let refuse = |rule: &str| Err(Refusal::new(Reason::StartPermit, module, rule));
        let Some(in_force) = &self.in_force else { return refuse("no deployment is in force") };
        match in_force.deployment().modules.iter().find(|candidate| candidate.name == *module) {
            None => refuse("the deployment in force has no such module"),
            Some(found) if found.image == *image || self.falls_back_to(module, image.digest()) => {
                Ok(in_force)
            }
            Some(_) => refuse("the deployment in force names another image"),
        }
    }

    /// Is this what the module was before an update that has not proven itself?
    fn falls_back_to(&self, module: &ModuleName, image: &Digest) -> bool {
        self.documents.deployments.fallback(module).is_some_and(|before| before.image.digest() == image)
    }

    pub(crate) fn image_judged(
        &mut self,
        proof: &ImageProof,
        epoch: Epoch,
        moment: &Moment,
        now: UnixTime,
    ) -> Result<Step, Refusal> {
        self.documents.enrolment.trusted()?;
        // The deployment may have changed while the image was judged.
        let in_force = self.deployed(proof.module(), proof.image())?;
        if in_force.epoch() != epoch {
            return Err(Refusal::new(Reason::Busy, proof.module(), "the deployment has changed meanwhile"));
        }
        let generations = self.documents.generations.next()?;
        let generation = Generation(generations.last);
        self.documents.generations = Arc::new(generations);
        let permit = self.permits.give(proof, generation, epoch, &moment.random, now)?;
        let detail = format!("{} signed by {}", permit.manifest, permit.signed_by);
        let step = Step::done().event("image.permitted", &permit.instance, detail);
        Ok(step.reply(Reply::Permit(Box::new(permit))))
    }

    pub(crate) fn start_prepare(&mut self, name: &str, now: UnixTime) -> Result<Step, Refusal> {
        let permit = self.permits.spend(name, now)?;
        self.documents.enrolment.trusted()?;
        // A permit does not outlive the deployment that it was given under, unless that still names the image. What is
        // only fallen back to was judged by the image keys in force.
        let still = self.in_force.as_ref().is_some_and(|in_force| {
            let names =
                |module: &Module| module.name == permit.module && *module.image.digest() == permit.manifest;
            in_force.deployment().modules.iter().any(names)
                || (permit.epoch == in_force.epoch() && self.falls_back_to(&permit.module, &permit.manifest))
        });
        if !still {
            let rule = "the deployment in force no longer names this image";
            return Err(Refusal::new(Reason::StartPermit, &permit.module, rule));
        }
        self.still_vouched(&permit.module, &permit.vouchers)?;
        self.secrets_are_there(&permit.module)?;
        let workload_folder = self.context.layout.workload_folder(&permit.instance);
        let reply = Reply::Prepared(Prepared { instance: permit.instance.clone(), workload_folder });
        let bind = Effect::Bind { instance: permit.instance.clone(), module: permit.module };
        Ok(Step::done().event("start.prepared", permit.instance, "").effect(bind).reply(reply))
    }

    pub(crate) fn started(
        &mut self,
        instance: &str,
        seen: &ProcessSeen,
        address: Ipv4Addr,
        now: UnixTime,
    ) -> Result<Step, Refusal> {
        let Some(permit) = self.permits.settle(instance) else {
            let rule = "no permit was spent for this instance, or too long ago";
            return Err(Refusal::new(Reason::StartPermit, clip(instance), rule));
        };
        self.documents.enrolment.trusted()?;
        // A key may have been taken out while the container was made.
        self.still_vouched(&permit.module, &permit.vouchers)?;
        let (records, record) =
            self.documents.records.started(&permit, seen, &self.context.own_cgroup, address, now)?;
        self.documents.records = Arc::new(records);
        let detail = format!("pid {}, cgroup {}, {}", record.pid, record.cgroup, record.manifest);
        let step = Step::done().event("module.started", instance, detail).look();
        Ok(step.effect(Effect::Begin(Box::new(record))))
    }

    /// An update is over when what runs is what the deployment in force names.
    pub(crate) fn proven(&mut self, instance: &str) -> Step {
        let Some(record) = self.documents.records.get(instance) else { return Step::done() };
        let modules = self.in_force.iter().flat_map(|in_force| &in_force.deployment().modules);
        let named =
            |module: &Module| module.name == record.module && *module.image.digest() == record.manifest;
        if self.documents.deployments.fallback(&record.module).is_none() || !modules.into_iter().any(named) {
            return Step::done();
        }
        let (module, detail) = (record.module.clone(), record.manifest.to_string());
        self.documents.deployments = Arc::new(self.documents.deployments.without_fallback(&module));
        Step::done().event("update.proven", instance, detail)
    }

    pub(crate) fn stopped(&mut self, instance: &str, why: &str) -> Step {
        let prepared = self.permits.settle(instance).is_some();
        let live = self.documents.records.get(instance).is_some();
        if !prepared && !live {
            // Said twice, or noticed here first.
            return Step::done();
        }
        let mut step = Step::done().effect(Effect::Unbind { instance: instance.into() });
        step = step.event("module.stopped", instance, why);
        if live {
            self.documents.records = Arc::new(self.documents.records.without(instance));
            step = step.look();
        }
        step
    }
}
