//! Topic names and topic filters, MQTT 3.1.1 section 4.7.
//!
//! Distrusts its input: topics come from clients. What is not a valid topic or filter matches nothing.

/// Longest topic or filter (MQTT 3.1.1 section 1.5.3).
pub const TOPIC_BYTES_MAX: usize = 65535;
/// Most levels of a filter that a policy may declare; bounds the work of matching.
pub const FILTER_LEVELS_MAX: usize = 32;

/// True for a topic name that a client may publish on (section 4.7.1: no wildcards; 4.7.3: no NUL, not empty).
pub fn is_topic(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= TOPIC_BYTES_MAX && !topic.contains(['+', '#', '\0'])
}

/// True for a well-formed filter: a wildcard is a whole level, and `#` is the last one (section 4.7.1).
pub fn is_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > TOPIC_BYTES_MAX || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let fits = match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            _ => !level.contains(['+', '#']),
        };
        if !fits {
            return false;
        }
    }
    true
}

/// Section 4.7.2: a wildcard in the first level does not stand for a level that begins with `$`.
fn wildcard_spares(wild: &str, other: &str) -> bool {
    matches!(wild.split('/').next(), Some("+" | "#")) && other.starts_with('$')
}

/// `true` when the filter matches this topic.
pub fn matches(filter: &str, topic: &str) -> bool {
    if !is_filter(filter) || !is_topic(topic) || wildcard_spares(filter, topic) {
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
    fn topics_and_filters() {
        for topic in ["a", "/", "a/b", "/a", "a//b", "$SYS/x", " ", "é"] {
            assert!(is_topic(topic) && is_filter(topic), "{topic}");
        }
        for topic in ["", "a/+", "#", "a+b", "a#", "a\0"] {
            assert!(!is_topic(topic), "{topic}");
        }
        for filter in ["#", "+", "a/#", "+/+/#", "/+", "a/+/b"] {
            assert!(is_filter(filter), "{filter}");
        }
        for filter in ["", "a/#/b", "a#", "#a", "a+", "+a/b", "##", "++", "a\0"] {
            assert!(!is_filter(filter), "{filter}");
        }
        assert!(!is_topic(&"a".repeat(TOPIC_BYTES_MAX + 1)));
        assert!(!is_filter(&"a".repeat(TOPIC_BYTES_MAX + 1)));
    }

    /// The examples of section 4.7, and their neighbours.
    #[test]
    fn matching_by_the_specification() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/tennis/player1/#", "sport/tennis/player10", false),
            ("sport/#", "sport", true),
            ("#", "sport/tennis", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/monitor", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("Accounts", "accounts", false),
            ("a/#", "#", false),
            ("a/#/b", "a/x/b", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
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
