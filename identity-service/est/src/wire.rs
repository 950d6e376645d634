//! Requests and answers of RFC 7030 as values: what is sent, and what an answer means. No I/O.
//!
//! Distrusts the server's every header and byte. An answer is either exactly of the type that was asked for or refused;
//! redirects are not followed (RFC 7030 section 3.2.1 would want the user asked), so a password or a certificate goes to
//! the one host of the URL only.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::est::HttpReply;
use time::PrimitiveDateTime;
use time::macros::format_description;

use crate::{EstError, Operation};

/// Longest body of an answer.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// A server that says less is asked after this long; it cannot have us call in a loop.
pub const RETRY_AFTER_MIN: Duration = Duration::from_secs(5);
/// A server that says more is asked after this long: an approval that came is not to wait for weeks.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

const HEADER_BYTES_MAX: usize = 256;
/// Characters in a line of base64 (RFC 2045 section 6.8).
const LINE_CHARS: usize = 76;

/// A label of RFC 7030 section 3.2.2: one segment of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EstLabel(String);

const LABEL_BYTES_MAX: usize = 64;
const OPERATIONS: [&str; 7] =
    ["cacerts", "simpleenroll", "simplereenroll", "fullcmc", "serverkeygen", "csrattrs", "crls"];

impl EstLabel {
    /// Unreserved characters only (RFC 3986 section 2.3), and not the name of an operation.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.');
        let dots = text.bytes().all(|byte| byte == b'.');
        if !matches!(text.len(), 1..=LABEL_BYTES_MAX)
            || !text.bytes().all(unreserved)
            || dots
            || OPERATIONS.contains(&text)
        {
            return Err(Refusal::new(
                Reason::EstConfig,
                "label",
                "a label has 1 to 64 characters a-z A-Z 0-9 - . _ ~ and is not the name of an operation",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Operation that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    CaCerts,
    CsrAttrs,
    Certificate(Operation),
}

impl Question {
    fn name(self) -> &'static str {
        match self {
            Self::CaCerts => "cacerts",
            Self::CsrAttrs => "csrattrs",
            Self::Certificate(Operation::Enroll) => "simpleenroll",
            Self::Certificate(Operation::Reenroll) => "simplereenroll",
        }
    }

    /// The path on the server.
    pub fn path(self, label: Option<&EstLabel>) -> String {
        match label {
            Some(EstLabel(label)) => format!("/.well-known/est/{label}/{}", self.name()),
            None => format!("/.well-known/est/{}", self.name()),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::CsrAttrs => "application/csrattrs",
            _ => "application/pkcs7-mime",
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The type and the encoding of a request for a certificate (RFC 7030 section 4.2.1).
pub const REQUEST_TYPE: &str = "application/pkcs10";
pub const REQUEST_ENCODING: &str = "base64";

/// The body of a request for a certificate.
pub fn request_body(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut body = String::with_capacity(encoded.len() + encoded.len() / LINE_CHARS * 2 + 2);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at_checked(LINE_CHARS).unwrap_or((rest, ""));
        body.push_str(line);
        body.push_str("\r\n");
        rest = more;
    }
    body
}

/// An HTTP answer: the parts that mean something here. A header that is there twice is given as two values.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub content_type: Vec<String>,
    pub transfer_encoding: Vec<String>,
    pub retry_after: Vec<String>,
    pub body: Vec<u8>,
}

/// As it crosses a wall.
impl From<HttpReply> for Reply {
    fn from(reply: HttpReply) -> Self {
        let HttpReply { status, content_type, transfer_encoding, retry_after, body } = reply;
        Self { status, content_type, transfer_encoding, retry_after, body: body.0 }
    }
}

impl From<Reply> for HttpReply {
    fn from(reply: Reply) -> Self {
        let Reply { status, content_type, transfer_encoding, retry_after, body } = reply;
        Self { status, content_type, transfer_encoding, retry_after, body: body.into() }
    }
}

/// Meaning of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The content that was asked for, DER.
    Content(Vec<u8>),
    /// 204 or 404 to `csrattrs`: the CA has no wishes (RFC 7030 section 4.5.2).
    Nothing,
    /// 202: the same again after this long.
    Later(Duration),
}

/// Judges a reply to `question`.
pub fn read(question: Question, reply: &Reply, now: UnixTime) -> Result<Answer, EstError> {
    let refuse = |reason, rule: &str| Refusal::new(reason, question, rule);
    if reply.body.len() > BODY_BYTES_MAX {
        return Err(refuse(Reason::EstAnswer, "the answer is too long").into());
    }
    match (reply.status, question) {
        (200, _) => content(question, reply).map(Answer::Content).map_err(EstError::from),
        (204 | 404, Question::CsrAttrs) => Ok(Answer::Nothing),
        (202, Question::Certificate(_)) => match retry_after(reply, now) {
            Some(pause) => Ok(Answer::Later(pause)),
            None => Err(refuse(Reason::EstAnswer, "202 without a Retry-After that says when").into()),
        },
        (status, _) => Err(failure(question, status, retry_after(reply, now))),
    }
}

fn failure(question: Question, status: u16, retry_after: Option<Duration>) -> EstError {
    let (reason, rule) = match status {
        401 => (Reason::EstAuthorization, "401: it wants other credentials"),
        403 => (Reason::EstAuthorization, "403: it forbids this to us"),
        408 | 429 | 500 | 502..=504 | 506..=599 => {
            let refusal = Refusal::new(
                Reason::EstUnavailable,
                question,
                format_args!("the server answers with {status}"),
            );
            return EstError::transient(refusal, retry_after);
        }
        300..=399 => {
            (Reason::EstRejected, "it sends us elsewhere, where we do not follow: set the final URL")
        }
        400 => (Reason::EstRejected, "400: it does not accept the request"),
        404 => (Reason::EstRejected, "404: there is no such service; is the label right?"),
        413 => (Reason::EstRejected, "413: the request is too long for it"),
        _ => {
            let rule = format!("the server answers with {status}");
            return Refusal::new(Reason::EstRejected, question, rule).into();
        }
    };
    Refusal::new(reason, question, rule).into()
}

fn content(question: Question, reply: &Reply) -> Result<Vec<u8>, Refusal> {
    let refuse = |rule: &str| Refusal::new(Reason::EstAnswer, question, rule);
    let content_type = match reply.content_type.as_slice() {
        [one] if one.len() <= HEADER_BYTES_MAX => one,
        [] => return Err(refuse("the answer has no Content-Type")),
        _ => return Err(refuse("the answer has an unusable Content-Type")),
    };
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((content_type.as_str(), ""));
    let media_type = media_type.trim();
    if !media_type.eq_ignore_ascii_case(question.media_type()) {
        let shown: String = media_type.chars().take(60).collect();
        let rule = format!("the answer is `{}`, not `{}`", shown.escape_debug(), question.media_type());
        return Err(refuse(&rule));
    }
    for parameter in parameters.split(';').map(str::trim) {
        if let Some((name, value)) = parameter.split_once('=')
            && name.trim().eq_ignore_ascii_case("smime-type")
            && !value.trim().trim_matches('"').eq_ignore_ascii_case("certs-only")
        {
            return Err(refuse("the answer is not of smime-type certs-only"));
        }
    }
    // RFC 8951 section 3.2: servers may leave it away, and base64 is the only encoding.
    match reply.transfer_encoding.as_slice() {
        [] => {}
        [one] if one.trim().eq_ignore_ascii_case(REQUEST_ENCODING) => {}
        _ => return Err(refuse("the Content-Transfer-Encoding is not base64")),
    }
    let packed: Vec<u8> =
        reply.body.iter().copied().filter(|byte| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).collect();
    let der = STANDARD.decode(packed).map_err(|_| refuse("the answer is not base64"))?;
    if der.is_empty() && question != Question::CsrAttrs {
        return Err(refuse("the answer is empty"));
    }
    Ok(der)
}

/// Retry-After (RFC 9110 section 10.2.3), seconds or a date, within our bounds. `None` when it says neither.
fn retry_after(reply: &Reply, now: UnixTime) -> Option<Duration> {
    let [value] = reply.retry_after.as_slice() else { return None };
    let value = value.trim();
    if value.is_empty() || value.len() > HEADER_BYTES_MAX {
        return None;
    }
    let pause = if value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number can have say: very long.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let date = value.strip_suffix(" GMT")?;
        let format = format_description!(
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second]"
        );
        let at = PrimitiveDateTime::parse(date, format).ok()?.assume_utc().unix_timestamp();
        UnixTime(u64::try_from(at).unwrap_or_default()).after(now)
    };
    Some(pause.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
}
