//! The audience of a token.

/// Most audiences in one token.
pub const AUDIENCES_MAX: usize = 16;
/// Longest audience.
pub const AUDIENCE_BYTES_MAX: usize = 512;
/// Longest together, so that what is kept of them stays small.
pub const AUDIENCES_BYTES_MAX: usize = 2048;

/// Error of audiences that no token is made for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    #[error("a token is for 1 to {AUDIENCES_MAX} audiences, not for {0}")]
    Count(usize),
    #[error("an audience has 1 to {AUDIENCE_BYTES_MAX} bytes, this one has {0}")]
    Length(usize),
    #[error("the audiences have at most {AUDIENCES_BYTES_MAX} bytes together")]
    Together,
    #[error("an audience holds no control characters")]
    Character,
}

/// At least one audience, none twice, in the order in which they were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience(Vec<String>);

impl Audience {
    /// Checks number, lengths and characters; keeps each audience once.
    pub fn parse(asked: &[String]) -> Result<Self, AudienceError> {
        if !(1..=AUDIENCES_MAX).contains(&asked.len()) {
            return Err(AudienceError::Count(asked.len()));
        }
        let mut all: Vec<String> = Vec::with_capacity(asked.len());
        for one in asked {
            if !(1..=AUDIENCE_BYTES_MAX).contains(&one.len()) {
                return Err(AudienceError::Length(one.len()));
            }
            if one.chars().any(char::is_control) {
                return Err(AudienceError::Character);
            }
            if !all.contains(one) {
                all.push(one.clone());
            }
        }
        if all.iter().map(String::len).sum::<usize>() > AUDIENCES_BYTES_MAX {
            return Err(AudienceError::Together);
        }
        Ok(Self(all))
    }

    /// The audiences, each once, in the order that they were asked in.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// The same for every order.
    pub fn sorted(&self) -> Vec<String> {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_are_few_and_short() {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let long = "a".repeat(AUDIENCE_BYTES_MAX);
        let too_long = "a".repeat(AUDIENCE_BYTES_MAX + 1);
        let many: Vec<String> = (0..=AUDIENCES_MAX).map(|n| n.to_string()).collect();
        let five: Vec<String> = (0..5).map(|n| format!("{n}{}", "a".repeat(450))).collect();
        for (asked, expected) in [
            (texts(&["b", "a", "b"]), Ok(texts(&["b", "a"]))),
            (texts(&[&long]), Ok(texts(&[&long]))),
            (many[1..].to_vec(), Ok(many[1..].to_vec())),
            (vec![], Err(AudienceError::Count(0))),
            (many, Err(AudienceError::Count(17))),
            (texts(&[""]), Err(AudienceError::Length(0))),
            (texts(&["a", ""]), Err(AudienceError::Length(0))),
            (texts(&[&too_long]), Err(AudienceError::Length(513))),
            (texts(&["a\n"]), Err(AudienceError::Character)),
            (five, Err(AudienceError::Together)),
        ] {
            assert_eq!(Audience::parse(&asked).map(|audience| audience.0), expected);
        }
        let sorted = |asked: &[&str]| Audience::parse(&texts(asked)).unwrap().sorted();
        assert_eq!(sorted(&["b", "a"]), sorted(&["a", "b"]));
    }
}
