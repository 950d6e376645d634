//! Faults of the gateway that stay until somebody does something, as retained messages of its own beneath
//! `$edgewarden/alerts/`: one topic for each kind of problem, with a message while there is one. Who may read them is
//! the policy's, as with any topic; nobody but this process publishes there.
//!
//! The retained messages are all that is remembered: after a restart they are compared with what is wrong then.

use edgewarden_mqtt::TopicName;
use edgewarden_names::{GatewayName, ModuleName, Principal, Reason, Refusal, UnixTime};
use edgewarden_protocol::control::Standing;
use serde::{Deserialize, Serialize};

/// The first level of the gateway's own topics.
const OWN_LEVEL: &str = "$edgewarden";
/// Name of the principal that publishes alerts: one that no module can have.
pub(crate) const OWN_NAME: &str = "gatewayd";
/// Name of the message's form. Fields are added to it, and keep their meaning.
const SCHEMA: &str = "edgewarden/alert/v1";
/// Upper bound of an alert's payload.
pub(crate) const BYTES_MAX: usize = 32 * 1024;
const TEXT_CHARS_MAX: usize = 512;
/// Parts of a hundred of the upstream queue from which on it is nearly full, and down to which it stays so.
const QUEUE_PERCENT: (u64, u64) = (80, 60);

/// Every alert: the last level of its topic, and what it is about.
pub const ALERTS: [(&str, &[Reason]); 6] = [
    ("expiry", &[Reason::IdentityExpiring]),
    ("clock", &[Reason::ClockDoubted]),
    ("disk", &[Reason::Storage]),
    ("enforcement", &[Reason::EnforcementLost, Reason::EnforcementAltered]),
    ("queue", &[Reason::QueueFull]),
    ("set-aside", &[Reason::MessageSetAside]),
];

/// The payload, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    pub schema: String,
    pub gateway: GatewayName,
    /// The last level of the topic.
    pub alert: String,
    pub reason: Reason,
    pub subject: String,
    /// In words for people.
    pub rule: String,
    pub hint: String,
    /// Time from which on it was told.
    pub since: UnixTime,
    /// Time at which it becomes an outage, where that is known.
    pub expires: Option<UnixTime>,
}

/// A topic that only the gateway publishes on.
pub(crate) fn is_own(topic: &TopicName) -> bool {
    topic.levels().next() == Some(OWN_LEVEL)
}

/// The upstream queue as a problem; one that is not open yet has no bytes. `before`: it was one.
pub(crate) fn queue(bytes: u64, bytes_max: u64, before: bool) -> Option<Standing> {
    let (from, down_to) = QUEUE_PERCENT;
    let percent = if before { down_to } else { from };
    if bytes_max == 0
        || u128::from(bytes).saturating_mul(100) < u128::from(bytes_max).saturating_mul(percent.into())
    {
        return None;
    }
    let rule = format!(
        "it came to {from} % of its {bytes_max} bytes: when it is full, what is to go upstream is refused"
    );
    Some(Standing { refusal: Refusal::new(Reason::QueueFull, "upstream queue", rule), expires: None })
}

/// Messages that were set aside as a problem.
pub(crate) fn set_aside(messages: usize) -> Option<Standing> {
    let rule = format!("{messages} messages ended their receivers' connections and wait to be looked at");
    let refusal = Refusal::new(Reason::MessageSetAside, "messages", rule);
    (messages > 0).then_some(Standing { refusal, expires: None })
}

/// One of [`ALERTS`] of this gateway.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: &'static str,
    reasons: &'static [Reason],
    pub(crate) at: TopicName,
}

impl Topic {
    #[expect(clippy::expect_used, reason = "constants of this file, which its tests read")]
    pub(crate) fn all() -> Vec<Self> {
        let topic = |(name, reasons)| {
            let topic = TopicName::parse(&format!("{OWN_LEVEL}/alerts/{name}")).expect("a topic");
            Self { name, reasons, at: topic }
        };
        ALERTS.into_iter().map(topic).collect()
    }

    /// The payload that says what of all that is wrong is of this kind; empty when nothing is. `before`: what is retained.
    pub(crate) fn payload(
        &self,
        gateway: &GatewayName,
        standing: &[Standing],
        before: &[u8],
        now: UnixTime,
    ) -> serde_json::Result<Vec<u8>> {
        let Some(Standing { refusal, expires }) =
            standing.iter().find(|one| self.reasons.contains(&one.refusal.reason))
        else {
            return Ok(Vec::new());
        };
        let clip = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
        let subject = clip(&refusal.subject);
        let known: Option<Alert> = serde_json::from_slice(before).ok();
        let same = known.filter(|known| (known.reason, &known.subject) == (refusal.reason, &subject));
        let alert = Alert {
            schema: SCHEMA.to_owned(),
            gateway: gateway.clone(),
            alert: self.name.to_owned(),
            reason: refusal.reason,
            subject,
            rule: clip(&refusal.rule),
            hint: refusal.reason.next_step().to_owned(),
            since: same.map_or(now, |same| same.since),
            expires: *expires,
        };
        serde_json::to_vec(&alert)
    }
}

/// The principal that publishes alerts.
#[expect(clippy::expect_used, reason = "a constant, which the tests read")]
pub(crate) fn own_principal() -> Principal {
    Principal::Module(ModuleName::parse(OWN_NAME).expect("a name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alert_is_documented() {
        let documented = include_str!("../../../docs/messages.md");
        for (name, reasons) in ALERTS {
            let row = documented.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
            let row = row.unwrap_or_else(|| panic!("`{name}` is not in docs/messages.md"));
            for reason in reasons {
                assert!(row.contains(&format!("`{reason}`")), "{reason}: {row}");
            }
        }
    }

    #[test]
    fn the_queue_is_nearly_full_until_it_is_well_below() {
        for (bytes, before, expected) in
            [(79, false, false), (80, false, true), (79, true, true), (60, true, true), (59, true, false)]
        {
            assert_eq!(queue(bytes, 100, before).is_some(), expected, "{bytes} {before}");
        }
        assert!(queue(u64::MAX, u64::MAX, false).is_some());
    }

    #[test]
    fn what_goes_on_keeps_its_beginning() {
        let gateway = GatewayName::parse("gw-1").unwrap();
        let topics = Topic::all();
        assert!(topics.iter().all(|topic| is_own(&topic.at)));
        assert!(matches!(own_principal(), Principal::Module(name) if name.is_reserved()));
        let expiry = topics.iter().find(|topic| topic.name == "expiry").unwrap();
        let standing = |rule: &str| {
            let refusal = Refusal::new(Reason::IdentityExpiring, "gateway CA", rule);
            vec![Standing { refusal, expires: Some(UnixTime(900)) }]
        };
        let first = expiry.payload(&gateway, &standing("10 days"), b"", UnixTime(100)).unwrap();
        let next = expiry.payload(&gateway, &standing("9 days"), &first, UnixTime(200)).unwrap();
        let parsed: Alert = serde_json::from_slice(&next).unwrap();
        assert_eq!(
            (parsed.since, parsed.expires, parsed.rule.as_str()),
            (UnixTime(100), Some(UnixTime(900)), "9 days")
        );
        assert!(expiry.payload(&gateway, &[], &next, UnixTime(300)).unwrap().is_empty());
        assert!(
            topics.iter().filter(|topic| topic.name != "expiry").all(|topic| {
                topic.payload(&gateway, &standing(""), b"", UnixTime(1)).unwrap().is_empty()
            })
        );
        let long = "\u{1}".repeat(100_000);
        let refusal = Refusal::new(Reason::IdentityExpiring, &long, &long);
        let standing = [Standing { refusal, expires: None }];
        assert!(expiry.payload(&gateway, &standing, b"not JSON", UnixTime(1)).unwrap().len() < BYTES_MAX);
    }
}
