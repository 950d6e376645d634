//! The actions of the policy's Cedar schema.

use std::fmt;

/// An action that a principal asks for. Its text form is its name in the policy.
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

    /// The name in the policy, such as `open_flow`.
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
