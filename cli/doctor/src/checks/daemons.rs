//! The three processes.

use super::words::{no_config, pass_unless};
use crate::check::{Check, Finding};
use crate::facts::{Daemon, Facts};

/// Checks of the area `daemons`: the three processes.
pub const CHECKS: &[Check] = &[
    Check {
        id: "daemons.identityd",
        title: "identityd answers",
        remedy: "`systemctl restart edgewarden-identityd`, or `edgewarden up`; `journalctl -u edgewarden-identityd` says why it ended",
        run: |facts| answers(&facts.daemons.identityd),
    },
    Check {
        id: "daemons.runtimed",
        title: "runtimed answers",
        remedy: "`systemctl restart edgewarden-runtimed`, or `edgewarden up`; modules go on meanwhile",
        run: |facts| answers(&facts.daemons.runtimed),
    },
    Check {
        id: "daemons.gatewayd",
        title: "gatewayd answers",
        remedy: "`systemctl restart edgewarden-gatewayd`, or `edgewarden up`",
        run: |facts| answers(&facts.daemons.gatewayd),
    },
    Check {
        id: "daemons.users",
        title: "each daemon runs as its own user",
        remedy: "end whoever listens on the socket, and start the daemons with `edgewarden up` or their units",
        run: users,
    },
    Check {
        id: "daemons.version",
        title: "the daemons are of the same version as this program",
        remedy: "`systemctl restart edgewarden-identityd edgewarden-runtimed edgewarden-gatewayd`, or restart `edgewarden up`",
        run: version,
    },
    Check {
        id: "daemons.configuration",
        title: "the daemons run with this configuration",
        remedy: "`systemctl restart edgewarden-identityd edgewarden-runtimed edgewarden-gatewayd`, or restart `edgewarden up`",
        run: configuration,
    },
    Check {
        id: "daemons.confined",
        title: "the daemons gave up what they do not need",
        remedy: "start them with `edgewarden up` or their units, on a kernel that passes the checks of the area `kernel`",
        run: confined,
    },
    Check {
        id: "daemons.core_dumps",
        title: "a daemon that crashes leaves no memory in a file",
        remedy: "restart the daemons; set `LimitCORE=0` in their units",
        run: core_dumps,
    },
];

fn all(facts: &Facts) -> [(&'static str, &Daemon); 3] {
    let daemons = &facts.daemons;
    [("identityd", &daemons.identityd), ("runtimed", &daemons.runtimed), ("gatewayd", &daemons.gatewayd)]
}

fn answers(daemon: &Daemon) -> Finding {
    match (&daemon.error, daemon.peer) {
        (Some(why), _) => Finding::fail(why.clone()),
        (None, Some(peer)) => Finding::pass(format!("process {}", peer.pid)),
        (None, None) => Finding::pass("it does"),
    }
}

/// Asks something of each daemon that answers.
fn each(facts: &Facts, fine: &str, fault: impl Fn(&'static str, &Daemon) -> Option<String>) -> Finding {
    let running = all(facts).into_iter().filter(|(_, daemon)| daemon.peer.is_some());
    let wrong: Vec<Option<String>> = running.map(|(name, daemon)| fault(name, daemon)).collect();
    if wrong.is_empty() {
        return Finding::skip("no daemon answers");
    }
    pass_unless(&wrong.into_iter().flatten().collect::<Vec<_>>(), fine)
}

fn users(facts: &Facts) -> Finding {
    let identity = facts.users.identity.map(|user| user.uid);
    let gateway = facts.users.gateway.map(|user| user.uid);
    each(facts, "all that answer", |name, daemon| {
        let wanted = match name {
            "identityd" => identity?,
            "gatewayd" => gateway?,
            _ => 0,
        };
        let uid = daemon.peer?.uid;
        (uid != wanted).then(|| format!("{name} runs as user {uid}, not {wanted}"))
    })
}

fn version(facts: &Facts) -> Finding {
    let own = &facts.daemons.own_program;
    each(facts, "all that answer", |name, daemon| {
        let (program, own) = (daemon.program.as_ref()?, own.as_ref()?);
        let shown = program.display().to_string();
        if shown.ends_with(" (deleted)") {
            Some(format!("{name} still runs a program that was replaced"))
        } else {
            (program != own).then(|| format!("{name} runs `{shown}`, this is `{}`", own.display()))
        }
    })
}

fn configuration(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    let Some(status) = &facts.daemons.identity else { return super::words::not_running("identityd") };
    let mut wrong = Vec::new();
    if (&status.gateway, &status.trust_domain) != (&config.gateway.name, &config.gateway.trust_domain) {
        wrong.push(format!(
            "identityd runs as {} of {}, the configuration says {} of {}",
            status.gateway, status.trust_domain, config.gateway.name, config.gateway.trust_domain
        ));
    }
    let url = config.fleet.as_ref().map(|fleet| &fleet.url);
    if let Some(runtime) = &facts.daemons.runtime
        && runtime.fleet.url.as_ref() != url
    {
        let shown =
            |url: Option<&String>| url.map_or_else(|| "no fleet".to_owned(), |url| format!("`{url}`"));
        wrong.push(format!(
            "runtimed asks {}, the configuration says {}",
            shown(runtime.fleet.url.as_ref()),
            shown(url)
        ));
    }
    if let Some(queue) = facts.daemons.gateway.as_ref().and_then(|gateway| gateway.queue.as_ref())
        && queue.bytes_max != config.mqtt.queue_bytes_max
    {
        wrong.push(format!(
            "gatewayd's queue is capped at {} bytes, the configuration says {}",
            queue.bytes_max, config.mqtt.queue_bytes_max
        ));
    }
    pass_unless(&wrong, "it is in force")
}

/// A seccomp filter (proc_pid_status(5)).
const FILTER: u32 = 2;

fn confined(facts: &Facts) -> Finding {
    each(facts, "no new privileges; identityd and gatewayd under a filter", |name, daemon| {
        if daemon.no_new_privs == Some(false) {
            return Some(format!("{name} may still gain privileges"));
        }
        // What runtimed starts would inherit its filter.
        let filtered = name != "runtimed";
        (filtered && daemon.seccomp.is_some_and(|mode| mode != FILTER))
            .then(|| format!("{name} may make any system call"))
    })
}

fn core_dumps(facts: &Facts) -> Finding {
    each(facts, "none of them", |name, daemon| {
        (daemon.core_bytes? > 0).then(|| format!("{name} may leave a core file"))
    })
}
