//! A site's own CA.

use std::time::Duration;

use edgewarden_protocol::est::EstAuth;

use super::words::{no_config, not_running, span};
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `est`: a site's own CA.
pub const CHECKS: &[Check] = &[
    Check {
        id: "est.secret",
        title: "only root can read the password or key that the first certificate is asked for with",
        remedy: "`chown root: FILE && chmod 0600 FILE` for the file that the message names",
        run: secret,
    },
    Check {
        id: "est.contact",
        title: "nothing is in the way of the next certificate from the site's CA",
        remedy: "`edgewarden est status` says what; `edgewarden est enroll` asks now",
        run: contact,
    },
    Check {
        id: "est.pending",
        title: "no request has waited for a day for the site's CA",
        remedy: "ask the operator of the site's CA to approve the request",
        run: pending,
    },
];

const PATIENCE: Duration = Duration::from_secs(86400);
/// Any access by group or others.
const NOT_OWNER: u32 = 0o077;

fn no_site() -> Finding {
    Finding::skip("no site's CA is configured")
}

fn secret(facts: &Facts) -> Finding {
    let Some(config) = facts.settings() else { return no_config() };
    let Some(est) = &config.est else { return no_site() };
    let (EstAuth::Basic { password_file: path, .. } | EstAuth::Certificate { key_file: path, .. }) =
        &est.auth
    else {
        return Finding::pass("there is none");
    };
    match facts.node(path) {
        None => Finding::fail(format!("`{}` is not there", path.display())),
        Some(node) if node.uid != 0 => {
            Finding::fail(format!("`{}` belongs to user {}", path.display(), node.uid))
        }
        Some(node) if node.mode & NOT_OWNER != 0 => {
            Finding::fail(format!("`{}` is open to others (mode {:04o})", path.display(), node.mode))
        }
        Some(_) => Finding::pass(format!("`{}`", path.display())),
    }
}

fn contact(facts: &Facts) -> Finding {
    if facts.settings().is_none_or(|config| config.est.is_none()) {
        return no_site();
    }
    let Some(runtime) = &facts.daemons.runtime else { return not_running("runtimed") };
    match runtime.est.as_ref().and_then(|est| est.trouble.as_ref()) {
        None => Finding::pass("nothing is"),
        Some(trouble) => {
            let often = format!("{} ({} times)", trouble.refusal, trouble.failures);
            let remedy = trouble.refusal.reason.next_step();
            if trouble.transient { Finding::warn(often) } else { Finding::fail(often).remedy(remedy) }
        }
    }
}

fn pending(facts: &Facts) -> Finding {
    let Some(status) = &facts.daemons.identity else { return not_running("identityd") };
    let Some(est) = &status.est else { return no_site() };
    match est.pending_since {
        None => Finding::pass("none waits"),
        Some(since) => {
            let waits = facts.now.after(since);
            let said = format!("one waits for {}", span(waits));
            if waits < PATIENCE { Finding::pass(said) } else { Finding::warn(said) }
        }
    }
}
