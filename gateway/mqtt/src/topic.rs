//! Topic names and topic filters (MQTT 3.1.1 section 4.7).

use std::fmt;
use std::sync::Arc;

/// Longest topic or filter. The protocol allows 65,535 bytes; nobody needs them, and each level costs memory.
pub const TOPIC_BYTES_MAX: usize = 1024;
/// Most levels of a topic or filter: bounds the depth of every walk below.
pub const TOPIC_LEVELS_MAX: usize = 32;

/// A fault of a topic name or filter (section 4.7), or a bound of this broker that it passes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("a topic has 1 to {TOPIC_BYTES_MAX} bytes, this one has {0}")]
    Length(usize),
    #[error("a topic has at most {TOPIC_LEVELS_MAX} levels, this one has {0}")]
    Levels(usize),
    #[error("a topic holds no control character")]
    Control,
    #[error("`+` and `#` are only for filters")]
    WildcardInName,
    #[error("`+` fills a whole level; `#` fills the whole last level")]
    WildcardPlace,
}

/// [MQTT-4.7.3-1], [MQTT-4.7.3-2], [MQTT-4.7.3-3]; control characters may be refused by [MQTT-1.5.3-2]'s note.
fn check(text: &str) -> Result<(), TopicError> {
    if text.is_empty() || text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::Length(text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err(TopicError::Control);
    }
    let levels = text.split('/').count();
    if levels > TOPIC_LEVELS_MAX {
        return Err(TopicError::Levels(levels));
    }
    Ok(())
}

macro_rules! topic_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);
        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
            pub fn levels(&self) -> impl Iterator<Item = &str> {
                self.0.split('/')
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

topic_type!(
    /// Topic of a message, without wildcards ([MQTT-3.3.2-2]).
    TopicName
);
topic_type!(
    /// Topic filter of a subscription, in which `+` and `#` are wildcards (section 4.7.1).
    TopicFilter
);

impl TopicName {
    /// Accepts a text without wildcards (section 4.7.3).
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(text)?;
        if text.contains(['+', '#']) {
            return Err(TopicError::WildcardInName);
        }
        Ok(Self(text.into()))
    }
}

impl TopicFilter {
    /// [MQTT-4.7.1-2], [MQTT-4.7.1-3]: where the wildcards may stand.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let plus = level.contains('+') && level != "+";
            let hash = level.contains('#') && (level != "#" || levels.peek().is_some());
            if plus || hash {
                return Err(TopicError::WildcardPlace);
            }
        }
        Ok(Self(text.into()))
    }

    /// The one topic that it matches, when it has no wildcard.
    pub fn as_topic(&self) -> Option<TopicName> {
        (!self.0.contains(['+', '#'])).then(|| TopicName(Arc::clone(&self.0)))
    }

    /// As [`topic_matches`].
    pub fn matches(&self, topic: &TopicName) -> bool {
        topic_matches(self.as_str(), topic.as_str())
    }
}

/// True when a message to `topic` goes to a subscription for `filter`.
///
/// A filter that begins with a wildcard matches no topic that begins with `$` ([MQTT-4.7.2-1]); `a/#` matches `a`.
/// Both are taken to be well-formed; a malformed one matches only what it equals, level by level.
pub fn topic_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for level in filter.split('/') {
        match (level, topic_levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

/// True when every topic that `narrow` matches is matched by `wide`.
pub fn filter_covers(wide: &str, narrow: &str) -> bool {
    // `#` and `+` at the front match no `$` topic, so they cover no filter that names one.
    if narrow.starts_with('$') && wide.starts_with(['+', '#']) {
        return false;
    }
    let mut narrow_levels = narrow.split('/');
    for level in wide.split('/') {
        match (level, narrow_levels.next()) {
            ("#", _) => return true,
            ("+", Some(other)) if other != "#" => {}
            (level, Some(other)) if level == other => {}
            _ => return false,
        }
    }
    narrow_levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, expected) in [
            ("leaf/sensor-1/glucose", Ok(())),
            ("/", Ok(())),
            ("$SYS/x", Ok(())),
            ("a b", Ok(())),
            ("", Err(TopicError::Length(0))),
            ("a/+", Err(TopicError::WildcardInName)),
            ("a#", Err(TopicError::WildcardInName)),
            ("a\0b", Err(TopicError::Control)),
            ("a\u{1}b", Err(TopicError::Control)),
            ("a\u{85}b", Err(TopicError::Control)),
            (&"a".repeat(1025), Err(TopicError::Length(1025))),
            (&"/".repeat(32), Err(TopicError::Levels(33))),
        ] {
            assert_eq!(TopicName::parse(text).map(drop), expected, "{text:?}");
        }
    }

    #[test]
    fn filters() {
        for good in ["#", "+", "+/+", "/+", "a/#", "+/a/#", "a//b", "$SYS/#"] {
            assert!(TopicFilter::parse(good).is_ok(), "{good}");
        }
        for bad in ["a#", "a/#/b", "#/a", "a+", "+a/b", "a/b+", "##", "++", "#+"] {
            assert_eq!(TopicFilter::parse(bad).map(drop), Err(TopicError::WildcardPlace), "{bad}");
        }
    }

    /// The examples of section 4.7 and the places where brokers have been wrong.
    #[test]
    fn matching() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "a/b/c", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("ACCOUNTS", "Accounts", false),
            ("/a", "a", false),
            ("a", "a/", false),
            ("a/b", "a", false),
            ("a//b", "a/b", false),
        ] {
            assert_eq!(topic_matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn covering() {
        for (wide, narrow, expected) in [
            ("#", "a/+/#", true),
            ("a/#", "a", true),
            ("a/#", "a/#", true),
            ("a/+", "a/b", true),
            ("a/+", "a/+", true),
            ("a/+", "a/#", false),
            ("a/+/c", "a/b/+", false),
            ("a/b", "a/+", false),
            ("+/+", "a/#", false),
            ("+", "#", false),
            ("a/#", "#", false),
            ("#", "$SYS/#", false),
            ("$SYS/#", "$SYS/a/+", true),
            ("a/b", "a/b/c", false),
            ("a/b/c", "a/b", false),
        ] {
            assert_eq!(filter_covers(wide, narrow), expected, "{wide} {narrow}");
        }
    }
}
