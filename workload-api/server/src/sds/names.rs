//! Names that a client asks for, bounded.

use std::collections::BTreeSet;

use edgewarden_names::{Reason, Refusal};

use super::resource::{NAME_BYTES_MAX, NAMES_MAX};

/// Asks for all that there is (xDS protocol, "How the client specifies what resources to return").
pub(super) const WILDCARD: &str = "*";

/// Subscription of a state-of-the-world stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// All that there is, under each secret's own name.
    pub(super) all: bool,
    pub(super) names: BTreeSet<String>,
}

impl Wanted {
    /// `before` is what this stream asked for last. No names at all mean everything, unless the stream has asked for
    /// something by name: then they mean nothing.
    pub(super) fn of(names: Vec<String>, before: Option<&Self>) -> Result<Self, Refusal> {
        let mut names = checked(names)?;
        let all = names.remove(WILDCARD)
            || names.is_empty() && before.is_none_or(|before| before.all && before.names.is_empty());
        Ok(Self { all, names })
    }

    /// `true` when this asks for something that `before` did not ask for.
    pub(super) fn is_more_than(&self, before: &Self) -> bool {
        self.all && !before.all || !self.names.is_subset(&before.names)
    }
}

/// The same names, each once, none empty or too long, and not too many.
pub(super) fn checked(names: Vec<String>) -> Result<BTreeSet<String>, Refusal> {
    if names.len() > NAMES_MAX {
        return Err(too_many());
    }
    if names.iter().any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
        let rule = format_args!("a secret's name has 1 to {NAME_BYTES_MAX} bytes");
        return Err(Refusal::new(Reason::RequestInvalid, "resource_names", rule));
    }
    Ok(names.into_iter().collect())
}

pub(super) fn too_many() -> Refusal {
    let rule = format_args!("a stream is subscribed to at most {NAMES_MAX} names");
    Refusal::new(Reason::RequestTooLarge, "resource_names", rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str], before: Option<&Wanted>) -> Wanted {
        Wanted::of(names.iter().map(ToString::to_string).collect(), before).unwrap()
    }

    #[test]
    fn no_names_mean_all_until_something_was_asked_for_by_name() {
        let all = of(&[], None);
        assert!(all.all);
        assert!(of(&[], Some(&all)).all);
        let named = of(&["default"], Some(&all));
        assert!(!named.all);
        let none = of(&[], Some(&named));
        assert!(!none.all && none.names.is_empty());
        assert!(!of(&[], Some(&none)).all);
        let both = of(&["*", "default", "default"], None);
        assert!(both.all && both.names.len() == 1);
        assert!(!of(&[], Some(&both)).all);
    }

    #[test]
    fn only_what_is_new_is_more() {
        let one = of(&["default"], None);
        let two = of(&["ROOTCA", "default"], None);
        let all = of(&["*"], None);
        assert!(two.is_more_than(&one) && all.is_more_than(&two) && one.is_more_than(&all));
        assert!(!one.is_more_than(&two) && !one.is_more_than(&one) && !all.is_more_than(&all));
    }

    #[test]
    fn names_are_bounded() {
        for (names, reason) in [
            (vec!["default".to_owned(); NAMES_MAX + 1], Reason::RequestTooLarge),
            (vec![String::new()], Reason::RequestInvalid),
            (vec!["default".to_owned(), "x".repeat(NAME_BYTES_MAX + 1)], Reason::RequestInvalid),
        ] {
            assert_eq!(Wanted::of(names, None).unwrap_err().reason, reason);
        }
        assert!(Wanted::of(vec!["x".repeat(NAME_BYTES_MAX); NAMES_MAX], None).is_ok());
    }
}
