use crate::quick::QuickMap;
use edgewarden_names::topic::is_topic;

/// Finds the declared filters that match a topic, without looking at the others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trie {
    root: Node,
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// Values of filters that end at this level.
    here: Vec<u32>,
    /// Values of filters with `#` below this level, which match this level too.
    hash: Vec<u32>,
    plus: Option<Box<Node>>,
    literal: QuickMap<Box<str>, Node>,
}

impl Trie {
    /// `filter` is valid and of at most `TOPIC_LEVELS_MAX` levels, which bounds the recursion of `matching`.
    pub(crate) fn insert(&mut self, filter: &str, value: u32) {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = match level {
                "#" => {
                    node.hash.push(value);
                    return;
                }
                "+" => node.plus.get_or_insert_default(),
                _ => node.literal.entry(level.into()).or_default(),
            };
        }
        node.here.push(value);
    }

    /// Gives `found` what was inserted with a filter that matches the topic.
    pub(crate) fn each_matching(&self, topic: &str, found: &mut impl FnMut(u32)) {
        if !is_topic(topic) {
            return;
        }
        if !topic.starts_with('$') {
            return self.root.walk(Some(topic), found);
        }
        // Section 4.7.2: no wildcard stands for a first level that begins with `$`.
        let (first, rest) = first_level(topic);
        if let Some(node) = self.root.literal.get(first) {
            node.walk(rest, found);
        }
    }
}

/// The first level, and the levels that follow; `None` when there are no more.
fn first_level(topic: &str) -> (&str, Option<&str>) {
    topic.split_once('/').map_or((topic, None), |(level, rest)| (level, Some(rest)))
}

impl Node {
    /// `rest`: the levels that follow, `None` after the last.
    fn walk(&self, rest: Option<&str>, found: &mut impl FnMut(u32)) {
        self.hash.iter().for_each(|value| found(*value));
        let Some(rest) = rest else {
            return self.here.iter().for_each(|value| found(*value));
        };
        let (level, rest) = first_level(rest);
        if let Some(node) = &self.plus {
            node.walk(rest, found);
        }
        if let Some(node) = self.literal.get(level) {
            node.walk(rest, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_names::topic::matches;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_matches(
            filters in prop::collection::vec("([ab$]|\\+|\\$a)?(/([ab]|\\+)?){0,3}(/#)?", 1..8),
            topic in "(\\$)?[ab$]?(/[ab]?){0,4}",
        ) {
            let filters: Vec<String> = filters.into_iter().filter(|f| edgewarden_names::topic::is_filter(f)).collect();
            let mut trie = Trie::default();
            for (index, filter) in filters.iter().enumerate() {
                trie.insert(filter, u32::try_from(index).unwrap());
            }
            let mut found = Vec::new();
            trie.each_matching(&topic, &mut |value| found.push(value));
            found.sort_unstable();
            let expected: Vec<u32> = (0u32..)
                .zip(&filters)
                .filter(|(_, filter)| matches(filter, &topic))
                .map(|(index, _)| index)
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
