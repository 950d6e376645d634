//! How large a payload may be on the topics of one filter.

use edgewarden_names::LeafName;
use serde::{Deserialize, Serialize};

use crate::deployment::Topic;

const LEAF_PLACEHOLDER: &str = "{leaf}";

/// Largest payload on the topics of one filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicSize {
    /// As the deployment has it, with `{leaf}`.
    pub filter: String,
    pub bytes_max: u32,
}

impl TopicSize {
    /// The sizes of those topics that name one.
    pub fn of(topics: &[Topic]) -> Vec<Self> {
        let size =
            |topic: &Topic| topic.bytes_max.map(|bytes_max| Self { filter: topic.filter.clone(), bytes_max });
        topics.iter().filter_map(size).collect()
    }

    /// An MQTT filter that matches what this does, and more where `{leaf}` is a part of a level.
    pub fn wide_filter(&self) -> String {
        let level = |level| if str::contains(level, LEAF_PLACEHOLDER) { "+" } else { level };
        self.filter.split('/').map(level).collect::<Vec<_>>().join("/")
    }

    /// Of a topic that [`Self::wide_filter`] matches: whether there is a leaf's name, the same one everywhere, that `{leaf}`
    /// stands for.
    pub fn names_a_leaf(&self, topic: &str) -> bool {
        let mut leaf: Option<&str> = None;
        self.filter.split('/').zip(topic.split('/')).all(|(pattern, level)| {
            let Some((before, _)) = pattern.split_once(LEAF_PLACEHOLDER) else { return true };
            let times = pattern.matches(LEAF_PLACEHOLDER).count();
            let fixed = pattern.len().saturating_sub(times.saturating_mul(LEAF_PLACEHOLDER.len()));
            // As long as it must be for the level to have its length.
            let Some(length) = level.len().saturating_sub(fixed).checked_div(times) else { return false };
            let Some(name) = level.get(before.len()..before.len().saturating_add(length)) else {
                return false;
            };
            *leaf.get_or_insert(name) == name
                && pattern.replace(LEAF_PLACEHOLDER, name) == level
                && LeafName::parse(name).is_ok()
        })
    }
}
