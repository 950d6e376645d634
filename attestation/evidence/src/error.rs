/// Error of bytes that are not the structure that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("the {0} ends too early")]
    Truncated(&'static str),
    #[error("bytes follow the end of the {0}")]
    Trailing(&'static str),
    #[error("the {what} has more than {max} {unit}")]
    TooLarge { what: &'static str, max: usize, unit: &'static str },
    #[error("the {what} has the value {value:#x}, which is not allowed here")]
    Value { what: &'static str, value: u64 },
    #[error("{0}")]
    Malformed(&'static str),
    #[error("line {line}: {what}")]
    Line { line: usize, what: &'static str },
}
