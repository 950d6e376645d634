//! Topic names and topic filters (MQTT 3.1.1 section 4.7), and what they match.
//!
//! The policy judges by what the broker delivers by. Functions of texts distrust them: what is not a valid topic or filter
//! matches nothing.

use std::fmt;
use std::sync::Arc;

/// Longest topic or filter. The protocol allows 65,535 bytes; nobody needs them, and sessions keep what they are given.
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

fn check_name(text: &str) -> Result<(), TopicError> {
    check(text)?;
    if text.contains(['+', '#']) { Err(TopicError::WildcardInName) } else { Ok(()) }
}

/// [MQTT-4.7.1-2], [MQTT-4.7.1-3]: where the wildcards may stand.
fn check_filter(text: &str) -> Result<(), TopicError> {
    check(text)?;
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        let plus = level.contains('+') && level != "+";
        let hash = level.contains('#') && (level != "#" || levels.peek().is_some());
        if plus || hash {
            return Err(TopicError::WildcardPlace);
        }
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
        check_name(text)?;
        Ok(Self(text.into()))
    }
}

impl TopicFilter {
    /// Accepts a text whose wildcards fill levels, `#` the last one (section 4.7.1).
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        check_filter(text)?;
        Ok(Self(text.into()))
    }

    /// The one topic that it matches, when it has no wildcard.
    pub fn as_topic(&self) -> Option<TopicName> {
        (!self.0.contains(['+', '#'])).then(|| TopicName(Arc::clone(&self.0)))
    }

    /// `true` when a message to `topic` goes to a subscription for this filter; `a/#` matches `a`.
    pub fn matches(&self, topic: &TopicName) -> bool {
        levels_match(self.as_str(), topic.as_str())
    }
}

/// `true` for a valid [`TopicName`].
pub fn is_topic(topic: &str) -> bool {
    check_name(topic).is_ok()
}

/// `true` for a valid [`TopicFilter`].
pub fn is_filter(filter: &str) -> bool {
    check_filter(filter).is_ok()
}

/// As [`TopicFilter::matches`], of texts.
pub fn matches(filter: &str, topic: &str) -> bool {
    is_filter(filter) && is_topic(topic) && levels_match(filter, topic)
}

/// [MQTT-4.7.2-1]: a wildcard in the first level does not stand for a level that begins with `$`.
fn wildcard_spares(wild: &str, other: &str) -> bool {
    wild.starts_with(['+', '#']) && other.starts_with('$')
}

fn levels_match(filter: &str, topic: &str) -> bool {
    if wildcard_spares(filter, topic) {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(other)) if level == other => {}
            _ => return false,
        }
    }
}

/// `true` when every topic that `narrow` matches is also matched by `wide`.
///
/// Never wrongly true. `+/#` is not seen to cover `#`, although both match the same topics: say `#`.
pub fn covers(wide: &str, narrow: &str) -> bool {
    if !is_filter(wide) || !is_filter(narrow) || wildcard_spares(wide, narrow) {
        return false;
    }
    let (mut wide, mut narrow) = (wide.split('/'), narrow.split('/'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(level), Some(other)) if level == other => {}
            _ => return false,
        }
    }
}

/// `true` when there is a topic that both filters match.
///
/// Never wrongly false. `/#` and `+` are said to overlap, in the empty topic that nobody may use.
pub fn overlaps(one: &str, other: &str) -> bool {
    if !is_filter(one) || !is_filter(other) || wildcard_spares(one, other) || wildcard_spares(other, one) {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(level), Some(level_of_other)) if level == level_of_other => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            assert_eq!(is_topic(text), expected.is_ok(), "{text:?}");
            assert_eq!(TopicName::parse(text).map(drop), expected, "{text:?}");
        }
    }

    #[test]
    fn filters() {
        for good in ["#", "+", "+/+", "/+", "a/#", "+/a/#", "a//b", "$SYS/#"] {
            assert!(TopicFilter::parse(good).is_ok() && is_filter(good), "{good}");
        }
        for bad in ["a#", "a/#/b", "#/a", "a+", "+a/b", "a/b+", "##", "++", "#+"] {
            assert_eq!(TopicFilter::parse(bad).map(drop), Err(TopicError::WildcardPlace), "{bad}");
            assert!(!is_filter(bad), "{bad}");
        }
        for bad in ["", "a\0", &"a".repeat(TOPIC_BYTES_MAX + 1), &"/".repeat(TOPIC_LEVELS_MAX)] {
            assert!(!is_filter(bad), "{bad:?}");
        }
    }

    /// The examples of section 4.7 and the places where brokers have been wrong.
    #[test]
    fn matching() {
        let long = "a".repeat(TOPIC_BYTES_MAX + 1);
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
            ("sport/tennis/player1/#", "sport/tennis/player10", false),
            ("a/#", "#", false),
            ("a/#/b", "a/x/b", false),
            ("a/b", &long, false),
            (&long, &long, false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
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
            assert_eq!(covers(wide, narrow), expected, "{wide} {narrow}");
        }
    }

    #[test]
    fn covering_and_overlapping() {
        for (wide, narrow, covered, overlapping) in [
            ("leaf/+/glucose", "leaf/+/glucose", true, true),
            ("leaf/+/glucose", "leaf/a/glucose", true, true),
            ("leaf/a/glucose", "leaf/+/glucose", false, true),
            ("leaf/#", "leaf/+/glucose", true, true),
            ("leaf/#", "leaf", true, true),
            ("leaf/+", "leaf/#", false, true),
            ("leaf", "leaf/#", false, true),
            ("#", "leaf/#", true, true),
            ("#", "$SYS/#", false, false),
            ("+/x", "$SYS/x", false, false),
            ("leaf/a", "leaf/b", false, false),
            ("leaf/a", "leaf/a/b", false, false),
            ("+/a", "b/+", false, true),
            ("a/#/b", "a/b", false, false),
            ("#", "a+", false, false),
        ] {
            assert_eq!(covers(wide, narrow), covered, "{wide} covers {narrow}");
            assert_eq!(overlaps(wide, narrow), overlapping, "{wide} overlaps {narrow}");
            assert_eq!(overlaps(narrow, wide), overlapping, "{narrow} overlaps {wide}");
        }
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "$a", "", "+"]);
        (prop::collection::vec(level, 0..4), any::<bool>()).prop_map(|(levels, hash)| {
            let mut levels = levels;
            if hash || levels.is_empty() {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    /// Every topic of up to five levels of a small alphabet.
    fn topics() -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let mut last = vec![String::new()];
        for depth in 0..5 {
            last = last
                .iter()
                .flat_map(|stem| {
                    ["a", "b", "$a", "", "c"]
                        .map(|level| if depth == 0 { level.to_owned() } else { format!("{stem}/{level}") })
                })
                .collect();
            all.extend(last.iter().filter(|topic| is_topic(topic)).cloned());
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn covers_and_overlaps_agree_with_matching(one in filter(), other in filter()) {
            let topics = topics();
            let both = topics.iter().any(|topic| matches(&one, topic) && matches(&other, topic));
            let empty = [one.as_str(), other.as_str()].contains(&"/#") && [one.as_str(), other.as_str()].contains(&"+");
            prop_assert_eq!(overlaps(&one, &other), both || empty);
            if covers(&one, &other) {
                for topic in &topics {
                    prop_assert!(!matches(&other, topic) || matches(&one, topic), "{}", topic);
                }
            }
        }
    }
}
