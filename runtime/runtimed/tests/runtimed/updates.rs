//! Updates of modules on a whole gateway: what runs goes on until what is to run can.

use crate::common;

use std::path::PathBuf;

use common::{Gateway, in_namespaces, shell, until};
use edgewarden_names::Reason;
use edgewarden_protocol::runtime_console::ModuleStatus;
use edgewarden_protocol::uplink::ModuleState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The process that the tests start as `runtimed`.
const WAIT: &str = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done";

fn running(module: &ModuleStatus) -> bool {
    module.state == ModuleState::Running
}

fn refused_for(module: &ModuleStatus) -> Option<Reason> {
    module.update.as_ref()?.reason.as_ref().map(|refusal| refusal.reason)
}

/// The unpacked image that a reference names.
fn unpacked(gateway: &Gateway, reference: &str) -> PathBuf {
    let hex = reference.rsplit_once(':').unwrap().1;
    gateway.layout().runtime_state().join("store/rootfs").join(hex)
}

#[test]
fn the_old_image_runs_until_the_new_one_can_and_stays_until_that_has_proven_itself() {
    let name = "updates::the_old_image_runs_until_the_new_one_can_and_stays_until_that_has_proven_itself";
    in_namespaces(name, async || {
        let mut gateway = Gateway::joined("update").await;
        gateway.configure(|config| config.runtime.update_probation_seconds = 15);
        let old = gateway.revision("clinic/alerts", "old", true).await;
        let unsigned = gateway.revision("clinic/alerts", "unsigned", false).await;
        let away = gateway.revision("clinic/alerts", "away", true).await;
        gateway.deploy(1, vec![shell("alerts", &old, WAIT)], "").await;
        gateway.start_runtimed().await;
        let first = gateway.module("alerts", "running", running).await;
        assert_eq!((first.image.as_str(), first.update), (old.as_str(), None));

        // Nobody vouches for it.
        gateway.deploy(2, vec![shell("alerts", &unsigned, WAIT)], "").await;
        let refused = |module: &ModuleStatus| refused_for(module) == Some(Reason::ImageUnsigned);
        let still = gateway.module("alerts", "told that its update is unsigned", refused).await;
        assert_eq!((still.pid, still.state), (first.pid, ModuleState::Running));
        assert_eq!((still.image.as_str(), still.reason), (old.as_str(), None));
        let update = still.update.unwrap();
        assert_eq!((update.image, update.state), (unsigned, ModuleState::Refused));
        assert!(gateway.logs("alerts").await.is_empty(), "it was not told to end");

        // The registry is away, and `runtimed` is killed; then the module.
        gateway.stop_registry();
        gateway.deploy(3, vec![shell("alerts", &away, WAIT)], "").await;
        let waits = |module: &ModuleStatus| refused_for(module) == Some(Reason::ImageUnavailable);
        let still = gateway.module("alerts", "waiting for its update", waits).await;
        assert_eq!((still.pid, still.update.unwrap().state), (first.pid, ModuleState::Waiting));
        gateway.kill_runtimed();
        gateway.start_runtimed().await;
        let still = gateway.module("alerts", "waiting for its update", waits).await;
        assert_eq!(still.pid, first.pid, "taken over by the next daemon");
        kill(Pid::from_raw(first.pid.unwrap()), Signal::SIGKILL).unwrap();
        let again = |module: &ModuleStatus| running(module) && module.pid != first.pid;
        let again = gateway.module("alerts", "running again", again).await;
        assert_eq!(again.image, old, "from the disk, by a permit for what it was");

        // The registry is back: nobody has to say so.
        gateway.start_registry("127.0.0.1:5000").await;
        let new = gateway.module("alerts", "updated", |module| running(module) && module.image == away).await;
        assert_eq!(new.update, None);
        assert!(gateway.logs("alerts").await.iter().any(|line| line == "bye"), "it was told to end");
        assert!(unpacked(&gateway, &old).exists(), "the way back");
        until("the old image is removed", async || (!unpacked(&gateway, &old).exists()).then_some(())).await;
        let last = gateway.module("alerts", "running", running).await;
        assert_eq!(last.pid, new.pid);
        assert!(gateway.audit().await.iter().any(|entry| entry.event == "update.proven"));
    });
}

#[test]
fn a_revision_that_does_not_run_gives_way_to_the_one_before() {
    in_namespaces("updates::a_revision_that_does_not_run_gives_way_to_the_one_before", async || {
        let mut gateway = Gateway::joined("back").await;
        gateway.wrap_runc(
            "for word in \"$@\"; do if grep -qs BROKEN \"$word/config.json\"; then echo no such thing > \"$4\"; exit 1; fi; done",
        );
        let image = gateway.image("clinic/alerts", true).await;
        gateway.deploy(1, vec![shell("alerts", &image, WAIT)], "").await;
        gateway.start_runtimed().await;
        let first = gateway.module("alerts", "running", running).await;

        // Not started at all: the OCI runtime refuses.
        gateway.deploy(2, vec![shell("alerts", &image, &format!("echo BROKEN; {WAIT}"))], "").await;
        let back = |module: &ModuleStatus| {
            running(module) && refused_for(module) == Some(Reason::StartFailed) && module.pid != first.pid
        };
        let second = gateway.module("alerts", "what it was, with the reason", back).await;
        let update = second.update.unwrap();
        assert_eq!(update.state, ModuleState::Refused);
        assert!(update.reason.unwrap().rule.contains("no such thing"));

        // Started, and ends at once, each time.
        gateway.deploy(3, vec![shell("alerts", &image, "echo started and gone; exit 3")], "").await;
        let back =
            |module: &ModuleStatus| running(module) && refused_for(module) == Some(Reason::ModuleExited);
        let third = gateway.module("alerts", "what it was, with the reason", back).await;
        let tried = gateway.logs("alerts").await;
        assert_eq!(tried.iter().filter(|line| *line == "started and gone").count(), 3, "{tried:?}");
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        let still = gateway.module("alerts", "running", running).await;
        assert_eq!(still.pid, third.pid, "what was given up is left alone");

        // A program that is not there is seen before anything is stopped.
        let mut missing = shell("alerts", &gateway.revision("clinic/alerts", "two", false).await, WAIT);
        missing["args"] = serde_json::json!(["-c", WAIT]);
        gateway.deploy(4, vec![missing], "").await;
        let back = |module: &ModuleStatus| refused_for(module) == Some(Reason::ImageUnsigned);
        assert_eq!(gateway.module("alerts", "as it was", back).await.pid, third.pid);

        // What the deployment said at first is what runs: there is nothing to update.
        gateway.deploy(5, vec![shell("alerts", &image, WAIT)], "").await;
        let same = gateway.module("alerts", "as deployed", |module| module.update.is_none()).await;
        assert_eq!(same.pid, third.pid);
        gateway.deploy(6, vec![shell("alerts", &image, &format!("echo better; {WAIT}"))], "").await;
        gateway.printed("alerts", "better").await;
        gateway.module("alerts", "updated", |module| running(module) && module.update.is_none()).await;
    });
}

/// A job's work is done once, whatever comes after it.
#[test]
fn a_job_that_has_ended_is_not_run_again_by_its_update() {
    in_namespaces("updates::a_job_that_has_ended_is_not_run_again_by_its_update", async || {
        let mut gateway = Gateway::joined("jobs").await;
        let old = gateway.revision("clinic/alerts", "old", true).await;
        let unsigned = gateway.revision("clinic/alerts", "unsigned", false).await;
        let new = gateway.revision("clinic/alerts", "new", true).await;
        let job = |image: &str, says: &str| {
            let mut job = shell("alerts", image, &format!("echo {says}"));
            job["restart"] = "never".into();
            job
        };
        let said = async |gateway: &Gateway, word: &str| {
            gateway.logs("alerts").await.iter().filter(|line| *line == word).count()
        };
        let ended = |module: &ModuleStatus| module.state == ModuleState::Stopped;
        gateway.deploy(1, vec![job(&old, "the old job")], "").await;
        gateway.start_runtimed().await;
        gateway.module("alerts", "done", ended).await;
        gateway.printed("alerts", "the old job").await;

        // What cannot start does not bring the old job back, in this daemon or the next.
        gateway.deploy(2, vec![job(&unsigned, "nobody signed this")], "").await;
        let refused =
            |module: &ModuleStatus| module.reason.as_ref().map(|it| it.reason) == Some(Reason::ImageUnsigned);
        gateway.module("alerts", "refused", refused).await;
        assert_eq!(said(&gateway, "the old job").await, 1);
        gateway.kill_runtimed();
        gateway.start_runtimed().await;
        gateway.module("alerts", "refused", refused).await;
        assert_eq!(said(&gateway, "the old job").await, 1);

        // Done is proven.
        gateway.deploy(3, vec![job(&new, "the new job")], "").await;
        gateway.printed("alerts", "the new job").await;
        gateway.module("alerts", "done", ended).await;
        assert!(gateway.audit().await.iter().any(|entry| entry.event == "update.proven"));
        gateway.kill_runtimed();
        gateway.start_runtimed().await;
        gateway.module("alerts", "done", ended).await;
        assert_eq!((said(&gateway, "the old job").await, said(&gateway, "the new job").await), (1, 1));
    });
}

/// Wherever `runtimed` is killed, one instance runs in the end, and it is the new one.
#[test]
fn an_update_survives_the_daemon_at_every_step() {
    in_namespaces("updates::an_update_survives_the_daemon_at_every_step", async || {
        let mut gateway = Gateway::joined("killed").await;
        let mark = gateway.folder.path().join("step");
        // Says which of the OCI runtime's commands begins, and lets it wait.
        gateway.wrap_runc(&format!(
            "for word in \"$@\"; do case $word in create|start|kill|delete) echo $word >> {0}; if grep -qsx hold-$word {0}.hold; then rm {0}.hold; sleep 2; fi;; esac; done",
            mark.display()
        ));
        let image = gateway.image("clinic/alerts", true).await;
        gateway.deploy(1, vec![shell("alerts", &image, &format!("echo revision 1; {WAIT}"))], "").await;
        gateway.start_runtimed().await;
        gateway.printed("alerts", "revision 1").await;
        let hold = gateway.folder.path().join("step.hold");
        for (version, step) in (2..).zip(["kill", "delete", "create", "start"]) {
            std::fs::write(&hold, format!("hold-{step}\n")).unwrap();
            let script = format!("echo revision {version}; {WAIT}");
            gateway.deploy(version, vec![shell("alerts", &image, &script)], "").await;
            until("the step", async || (!hold.exists()).then_some(())).await;
            gateway.kill_runtimed();
            gateway.start_runtimed().await;
            gateway.printed("alerts", &format!("revision {version}")).await;
            let module = gateway
                .module("alerts", "updated", |module| running(module) && module.update.is_none())
                .await;
            until("one instance", async || {
                let listed = gateway.runc(&["list", "--quiet"]);
                (listed.split_whitespace().collect::<Vec<_>>() == [module.instance.clone().unwrap()])
                    .then_some(())
            })
            .await;
        }
    });
}
