//! What policy is asked about.

use std::fmt;

/// What is asked. The text form is the action's name in the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Open a session with the gateway's broker.
    Connect,
    /// Publish on a topic.
    Publish,
    /// Hold a subscription to a topic filter.
    Subscribe,
    /// Be given a message of a topic.
    Receive,
    /// Open a TCP connection to a module's port.
    OpenFlow,
    /// Have messages sent to a cloud endpoint.
    Upload,
}

impl Action {
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::Publish, Self::Subscribe, Self::Receive, Self::OpenFlow, Self::Upload];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Receive => "receive",
            Self::OpenFlow => "open_flow",
            Self::Upload => "upload",
        }
    }

    /// The action of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
