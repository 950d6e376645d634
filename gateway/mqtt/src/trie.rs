//! Many subscriptions, by topic level: finding the receivers of a message costs its depth, not their number.

use std::collections::HashMap;
use std::hash::Hash;

use crate::topic::{TopicFilter, TopicName};

/// Subscriptions of subscribers `S`, each with a value `V` (the granted QoS).
#[derive(Debug)]
pub struct Trie<S, V> {
    root: Node<S, V>,
    subscriptions: usize,
}

#[derive(Debug)]
struct Node<S, V> {
    children: HashMap<Box<str>, Node<S, V>>,
    here: HashMap<S, V>,
}

impl<S, V> Default for Node<S, V> {
    fn default() -> Self {
        Self { children: HashMap::new(), here: HashMap::new() }
    }
}

impl<S, V> Default for Trie<S, V> {
    fn default() -> Self {
        Self { root: Node::default(), subscriptions: 0 }
    }
}

impl<S: Clone + Eq + Hash, V: Copy> Trie<S, V> {
    /// Adds a subscription; the same subscriber's earlier one with the same filter is replaced ([MQTT-3.8.4-3]).
    pub fn insert(&mut self, filter: &TopicFilter, subscriber: S, value: V) {
        let mut node = &mut self.root;
        for level in filter.levels() {
            node = node.children.entry(level.into()).or_default();
        }
        if node.here.insert(subscriber, value).is_none() {
            self.subscriptions = self.subscriptions.saturating_add(1);
        }
    }

    /// Removes a subscription; `false` when there was none.
    pub fn remove(&mut self, filter: &TopicFilter, subscriber: &S) -> bool {
        let levels: Vec<&str> = filter.levels().collect();
        let removed = self.root.remove(&levels, subscriber);
        self.subscriptions = self.subscriptions.saturating_sub(usize::from(removed));
        removed
    }

    /// Subscriptions of all filters.
    pub fn len(&self) -> usize {
        self.subscriptions
    }

    pub fn is_empty(&self) -> bool {
        self.subscriptions == 0
    }

    /// Calls `found` for every subscription whose filter matches. Recursion is bounded by the topic's levels.
    pub fn matches<'a>(&'a self, topic: &TopicName, mut found: impl FnMut(&'a S, V)) {
        let levels: Vec<&str> = topic.levels().collect();
        // [MQTT-4.7.2-1]
        let wildcards = !topic.as_str().starts_with('$');
        self.root.matches(&levels, wildcards, &mut found);
    }
}

impl<S: Clone + Eq + Hash, V: Copy> Node<S, V> {
    fn remove(&mut self, levels: &[&str], subscriber: &S) -> bool {
        let Some((level, rest)) = levels.split_first() else {
            return self.here.remove(subscriber).is_some();
        };
        let Some(child) = self.children.get_mut(*level) else { return false };
        let removed = child.remove(rest, subscriber);
        if child.here.is_empty() && child.children.is_empty() {
            self.children.remove(*level);
        }
        removed
    }

    fn matches<'a>(&'a self, levels: &[&str], wildcards: bool, found: &mut impl FnMut(&'a S, V)) {
        // `#` matches its parent level too: it is looked for before the topic ends.
        if wildcards && let Some(rest) = self.children.get("#") {
            rest.each(found);
        }
        let Some((level, deeper)) = levels.split_first() else {
            self.each(found);
            return;
        };
        if let Some(child) = self.children.get(*level) {
            child.matches(deeper, true, found);
        }
        if wildcards && let Some(child) = self.children.get("+") {
            child.matches(deeper, true, found);
        }
    }

    fn each<'a>(&'a self, found: &mut impl FnMut(&'a S, V)) {
        for (subscriber, value) in &self.here {
            found(subscriber, *value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_subscription_is_replaced_and_removed() {
        let mut trie = Trie::default();
        let filter = TopicFilter::parse("a/+/#").unwrap();
        trie.insert(&filter, "s", 0);
        trie.insert(&filter, "s", 1);
        assert_eq!(trie.len(), 1);
        let mut found = Vec::new();
        trie.matches(&TopicName::parse("a/b").unwrap(), |s, v| found.push((*s, v)));
        assert_eq!(found, [("s", 1)]);
        assert!(!trie.remove(&filter, &"other"));
        assert!(!trie.remove(&TopicFilter::parse("a/+").unwrap(), &"s"));
        assert!(trie.remove(&filter, &"s"));
        assert!(trie.is_empty() && trie.root.children.is_empty(), "empty nodes are freed");
    }

    proptest! {
        /// The trie finds exactly what filter by filter comparison finds.
        #[test]
        fn agrees_with_matching(
            filters in proptest::collection::vec("([$a-b]|\\+)?(/([a-b]|\\+|)){0,3}(/#)?", 1..20),
            topic in "[$a-b]?(/[a-b]?){0,4}",
        ) {
            let filters: Vec<_> = filters.iter().filter_map(|f| TopicFilter::parse(f).ok()).collect();
            let topic = TopicName::parse(&topic);
            prop_assume!(topic.is_ok());
            let topic = topic.unwrap();
            let mut trie = Trie::default();
            for (index, filter) in filters.iter().enumerate() {
                trie.insert(filter, index, ());
            }
            let mut found = Vec::new();
            trie.matches(&topic, |index, ()| found.push(*index));
            found.sort_unstable();
            let expected: Vec<_> = (0..filters.len())
                .filter(|i| filters[*i].matches(&topic)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
