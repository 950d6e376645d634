//! Counts by the members of a fixed list.

/// One `V` for each member of a list, in the list's order. All are there from the start: a series that appears with its
/// first event hides that event from whoever looks for a rise.
#[derive(Debug)]
pub struct Counts<K: 'static, V> {
    list: &'static [K],
    values: Box<[V]>,
}

impl<K: PartialEq, V: Default> Counts<K, V> {
    /// Zero for each member of `list`.
    pub fn of(list: &'static [K]) -> Self {
        Self { list, values: list.iter().map(|_| V::default()).collect() }
    }

    /// `None` when the key is not of the list.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.list.iter().position(|one| one == key).and_then(|place| self.values.get(place))
    }

    /// Each member with its count, in the list's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static K, &V)> {
        self.list.iter().zip(&self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Counter;

    #[test]
    fn each_member_of_the_list_has_its_own_count_and_nobody_else_has_one() {
        let counts: Counts<char, Counter> = Counts::of(&['a', 'b', 'c']);
        for key in ['b', 'c', 'b', 'x'] {
            if let Some(count) = counts.get(&key) {
                count.inc();
            }
        }
        let seen: Vec<_> = counts.iter().map(|(key, count)| (*key, count.get())).collect();
        assert_eq!(seen, [('a', 0), ('b', 2), ('c', 1)]);
        assert!(counts.get(&'x').is_none());
    }
}
