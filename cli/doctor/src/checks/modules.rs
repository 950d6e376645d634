//! The modules of the deployment.

use edgewarden_protocol::uplink::ModuleState;

use super::words::{advise, not_running, pass_unless};
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `modules`: those of the deployment.
pub const CHECKS: &[Check] = &[
    Check {
        id: "modules.known",
        title: "runtimed looks after every module of the deployment",
        remedy: "`systemctl restart edgewarden-runtimed`",
        run: known,
    },
    Check {
        id: "modules.accepted",
        title: "no module is refused",
        remedy: "`edgewarden status` shows the reason and the next step",
        run: accepted,
    },
    Check {
        id: "modules.running",
        title: "every module that may run does",
        remedy: "`edgewarden logs MODULE` shows what it printed",
        run: running,
    },
    Check {
        id: "modules.steady",
        title: "no module was restarted again and again",
        remedy: "`edgewarden logs MODULE` shows what it printed before it ended",
        run: steady,
    },
    Check {
        id: "modules.identified",
        title: "every module that runs has a certificate",
        remedy: "`edgewarden svid rotate`; `edgewarden audit show` tells what was refused",
        run: identified,
    },
];

const RESTARTS_MAX: u32 = 5;

fn known(facts: &Facts) -> Finding {
    let Some(runtime) = &facts.daemons.runtime else { return not_running("runtimed") };
    let Some(in_force) = &facts.daemons.deployment else { return Finding::skip("there is no deployment") };
    let wanted = in_force.deployment.modules.iter().map(|module| &module.name);
    let missing = wanted.filter(|name| !runtime.modules.iter().any(|module| module.name == **name));
    let wrong: Vec<String> = missing.map(|name| format!("it does not know {name}")).collect();
    pass_unless(&wrong, format!("{} modules", runtime.modules.len()))
}

fn accepted(facts: &Facts) -> Finding {
    let Some(runtime) = &facts.daemons.runtime else { return not_running("runtimed") };
    let refused = runtime.modules.iter().filter(|module| module.state == ModuleState::Refused);
    let refused: Vec<_> = refused
        .map(|module| match &module.reason {
            Some(why) => (format!("{}: {why}", module.name), why.reason.next_step()),
            None => (module.name.to_string(), "`edgewarden audit show` tells why"),
        })
        .collect();
    let wrong: Vec<String> = refused.iter().map(|(said, _)| said.clone()).collect();
    let finding = pass_unless(&wrong, "none");
    match refused.first() {
        Some((_, next)) => finding.remedy(*next),
        None => finding,
    }
}

fn running(facts: &Facts) -> Finding {
    let Some(runtime) = &facts.daemons.runtime else { return not_running("runtimed") };
    let mut on_the_way = Vec::new();
    let mut stopped = Vec::new();
    for module in &runtime.modules {
        let reason = module.reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        let said = format!("{} is {}{reason}", module.name, module.state.as_str());
        match module.state {
            ModuleState::Running | ModuleState::Degraded | ModuleState::Refused => {}
            ModuleState::Pulling | ModuleState::Starting => on_the_way.push(said),
            ModuleState::Waiting | ModuleState::Stopped => stopped.push(said),
        }
    }
    if stopped.is_empty() { advise(&on_the_way, "all of them") } else { Finding::fail(stopped.join("; ")) }
}

fn steady(facts: &Facts) -> Finding {
    let Some(runtime) = &facts.daemons.runtime else { return not_running("runtimed") };
    let restless = runtime.modules.iter().filter(|module| module.restarts >= RESTARTS_MAX);
    let wrong: Vec<String> =
        restless.map(|module| format!("{} was restarted {} times", module.name, module.restarts)).collect();
    advise(&wrong, "none")
}

fn identified(facts: &Facts) -> Finding {
    let (Some(runtime), Some(identity)) = (&facts.daemons.runtime, &facts.daemons.identity) else {
        return not_running("identityd or runtimed");
    };
    let running = runtime.modules.iter().filter(|module| module.state == ModuleState::Running);
    let without = running.filter(|module| {
        let mut own =
            identity.identities.iter().filter(|one| Some(&one.instance) == module.instance.as_ref());
        !own.any(|one| one.expires.is_some())
    });
    let wrong: Vec<String> = without.map(|module| format!("{} has none", module.name)).collect();
    pass_unless(&wrong, "all of them")
}
