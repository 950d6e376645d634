//! Messages and the way upstream.

use edgewarden_protocol::gateway_console::{QueueStatus, ReceiverStatus, UpstreamStatus};

use super::words::{no_fleet, not_running, size, span};
use crate::check::{Check, Finding};
use crate::facts::Facts;

/// Checks of the area `messages`: the queue, the journal and the way upstream.
pub const CHECKS: &[Check] = &[
    Check {
        id: "messages.queue_open",
        title: "the upstream queue is open",
        remedy: "`journalctl -u edgewarden-gatewayd` says why not; after a lost key or a damaged disk move /var/lib/edgewarden/gateway away and restart",
        run: queue_open,
    },
    Check {
        id: "messages.queue_fill",
        title: "the upstream queue has room",
        remedy: "restore the link to the fleet, or raise `mqtt.queue_bytes_max`; a full queue refuses new messages",
        run: queue_fill,
    },
    Check {
        id: "messages.journal",
        title: "messages for persistent sessions are kept on disk, and there is room for more",
        remedy: "have the clients that are away for good connect once with a clean session; `journalctl -u edgewarden-gatewayd` says why the journal is not open",
        run: journal,
    },
    Check {
        id: "messages.upstream",
        title: "messages reach the fleet",
        remedy: "see the checks of the area `fleet`; messages wait in the queue meanwhile",
        run: upstream,
    },
    Check {
        id: "messages.clients",
        title: "clients take what is meant for them",
        remedy: "`edgewarden status` names the clients, `edgewarden logs MODULE` says what is wrong with one, `edgewarden messages set-aside list` what it did not survive; drop that when the client is mended",
        run: clients,
    },
];

/// Messages that wait for clients inside the broker.
const WAITING_MAX: u64 = 10_000;

fn queue_open(facts: &Facts) -> Finding {
    let Some(gateway) = &facts.daemons.gateway else { return not_running("gatewayd") };
    match &gateway.queue {
        Some(queue) => Finding::pass(format!("queue {}", queue.id)),
        None if facts.daemons.identity.as_ref().is_none_or(|status| status.verdict.is_none()) => {
            Finding::skip("its key is there once the gateway is enrolled")
        }
        None => Finding::fail("gatewayd could not open it: messages for the fleet are refused"),
    }
}

fn queue_fill(facts: &Facts) -> Finding {
    let Some(gateway) = &facts.daemons.gateway else { return not_running("gatewayd") };
    let Some(queue) = &gateway.queue else { return Finding::skip("it is not open") };
    fill(queue)
}

fn journal(facts: &Facts) -> Finding {
    let Some(gateway) = &facts.daemons.gateway else { return not_running("gatewayd") };
    match &gateway.journal {
        Some(journal) => fill(journal),
        None if facts.daemons.identity.as_ref().is_none_or(|status| status.verdict.is_none()) => {
            Finding::skip("its key is there once the gateway is enrolled")
        }
        None => Finding::fail("gatewayd could not open it"),
    }
}

/// Full at 95 %, to look at from 70 %.
fn fill(queue: &QueueStatus) -> Finding {
    let said = format!("{} messages, {} of {}", queue.messages, size(queue.bytes), size(queue.bytes_max));
    let tenth = queue.bytes_max / 10;
    if queue.bytes >= queue.bytes_max.saturating_sub(tenth / 2) {
        Finding::fail(said)
    } else if queue.bytes >= tenth.saturating_mul(7) {
        Finding::warn(said)
    } else {
        Finding::pass(said)
    }
}

fn upstream(facts: &Facts) -> Finding {
    let Some(gateway) = &facts.daemons.gateway else { return not_running("gatewayd") };
    match &gateway.upstream {
        UpstreamStatus::None => no_fleet(),
        UpstreamStatus::Idle => Finding::pass("nothing was to be sent yet"),
        UpstreamStatus::Connected { since } => {
            Finding::pass(format!("connected for {}", span(facts.now.after(*since))))
        }
        UpstreamStatus::Unreachable { since, error } => {
            Finding::warn(format!("not for {}: {error}", span(facts.now.after(*since))))
        }
    }
}

fn clients(facts: &Facts) -> Finding {
    let Some(gateway) = &facts.daemons.gateway else { return not_running("gatewayd") };
    let said = format!("{} sessions, {} messages wait", gateway.sessions, gateway.waiting_messages);
    let trouble =
        |receiver: &&ReceiverStatus| receiver.lagging || receiver.set_aside > 0 || receiver.ends > 1;
    if let Some(worst) = gateway.receivers.iter().find(trouble) {
        let ReceiverStatus { client, lost, set_aside, ends, waiting_messages, .. } = worst;
        return Finding::fail(format!(
            "{client} does not: {waiting_messages} messages wait, {lost} are lost, {set_aside} are set aside, the oldest \
             has ended {ends} connections"
        ));
    }
    if gateway.lost > 0 {
        return Finding::warn(format!("{said}, {} were lost by clients that lagged", gateway.lost));
    }
    if gateway.waiting_messages > WAITING_MAX { Finding::warn(said) } else { Finding::pass(said) }
}
