//! What a registry says that wants a login: `WWW-Authenticate` (RFC 9110 section 11.6.1; distribution, "Token authentication").
//! Every byte is the registry's, and so are names that come out of it.

use hyper::Uri;

/// Longest header that is looked at.
pub const HEADER_BYTES_MAX: usize = 4096;
const CHALLENGES_MAX: usize = 8;
const PARAMETERS_MAX: usize = 16;

/// A way to log in that a registry offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token, which another server gives.
    Bearer(Bearer),
    /// Another scheme, in small letters.
    Other(String),
}

/// Where a token is to be had, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// A URL, as it came.
    pub realm: String,
    /// The registry's name at the token server, as it came.
    pub service: Option<String>,
    /// The rights that the registry would have asked for, as they came.
    pub scope: Option<String>,
}

/// Error of a header that holds no list of challenges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// Over a limit.
    #[error(
        "its `WWW-Authenticate` is over {HEADER_BYTES_MAX} bytes, {CHALLENGES_MAX} ways or {PARAMETERS_MAX} parameters"
    )]
    TooLong,
    /// Not of the grammar.
    #[error("its `WWW-Authenticate` is malformed")]
    Malformed,
    /// No token server, or one that is not asked.
    #[error("its `WWW-Authenticate` names no usable `realm`, an `https://` URL without a user")]
    Realm,
}

/// The challenges of one header, in their order. None repeats a parameter.
pub fn parse(header: &str) -> Result<Vec<Challenge>, ChallengeError> {
    if header.len() > HEADER_BYTES_MAX {
        return Err(ChallengeError::TooLong);
    }
    let mut rest = Rest(header);
    let mut challenges = Vec::new();
    let mut open: Option<Open> = None;
    loop {
        rest.skip(|c| matches!(c, ' ' | '\t' | ','));
        if rest.0.is_empty() {
            break;
        }
        let name = rest.take(is_token).ok_or(ChallengeError::Malformed)?;
        let blank = rest.skip(is_blank);
        if let Some(open) = open.as_mut()
            && rest.eat('=')
        {
            rest.skip(is_blank);
            open.put(name, rest.value()?)?;
            rest.ends_an_element()?;
            continue;
        }
        if let Some(done) = open.take() {
            challenges.push(done.close()?);
        }
        if challenges.len() == CHALLENGES_MAX {
            return Err(ChallengeError::TooLong);
        }
        open = Some(Open { scheme: name.to_ascii_lowercase(), parameters: Vec::new() });
        if blank {
            rest.skip_token68();
        } else {
            rest.ends_an_element()?;
        }
    }
    if let Some(done) = open {
        challenges.push(done.close()?);
    }
    Ok(challenges)
}

/// A challenge whose parameters are still being read.
struct Open {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Open {
    fn put(&mut self, name: &str, value: String) -> Result<(), ChallengeError> {
        let name = name.to_ascii_lowercase();
        if self.parameters.iter().any(|(known, _)| *known == name) {
            return Err(ChallengeError::Malformed);
        }
        if self.parameters.len() == PARAMETERS_MAX {
            return Err(ChallengeError::TooLong);
        }
        self.parameters.push((name, value));
        Ok(())
    }

    fn close(mut self) -> Result<Challenge, ChallengeError> {
        let mut parameter = |wanted: &str| {
            let place = self.parameters.iter().position(|(name, _)| name == wanted)?;
            Some(self.parameters.swap_remove(place).1)
        };
        Ok(match self.scheme.as_str() {
            "basic" => Challenge::Basic,
            "bearer" => Challenge::Bearer(Bearer {
                realm: parameter("realm").ok_or(ChallengeError::Realm)?,
                service: parameter("service"),
                scope: parameter("scope"),
            }),
            _ => Challenge::Other(self.scheme),
        })
    }
}

struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// What holds for one character and more.
    fn take(&mut self, holds: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.0.find(|c| !holds(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at_checked(end).filter(|(taken, _)| !taken.is_empty())?;
        self.0 = rest;
        Some(taken)
    }

    /// Whether there was something to skip.
    fn skip(&mut self, holds: impl Fn(char) -> bool) -> bool {
        self.take(holds).is_some()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let rest = self.0.strip_prefix(wanted);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// A token or a quoted string.
    fn value(&mut self) -> Result<String, ChallengeError> {
        if !self.eat('"') {
            return self.take(is_token).map(Into::into).ok_or(ChallengeError::Malformed);
        }
        let mut value = String::new();
        let mut characters = self.0.chars();
        loop {
            match characters.next() {
                Some('"') => break,
                Some('\\') => value.push(characters.next().ok_or(ChallengeError::Malformed)?),
                Some(character) => value.push(character),
                None => return Err(ChallengeError::Malformed),
            }
        }
        self.0 = characters.as_str();
        Ok(value)
    }

    fn ends_an_element(&mut self) -> Result<(), ChallengeError> {
        self.skip(is_blank);
        if self.0.is_empty() || self.0.starts_with(',') { Ok(()) } else { Err(ChallengeError::Malformed) }
    }

    /// Skips what other schemes have in the place of parameters, if it stands here.
    fn skip_token68(&mut self) {
        let mut ahead = Rest(self.0);
        ahead.skip(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        ahead.skip(|c| c == '=');
        if ahead.ends_an_element().is_ok() {
            self.0 = ahead.0;
        }
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// RFC 9110 section 5.6.2.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// The server that gives tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Realm {
    /// Whether it is an `https` URL; else it is `http`.
    pub tls: bool,
    /// Host, with a port if there is one.
    pub host: String,
    /// Path and query.
    pub target: String,
}

impl Realm {
    /// The server of an absolute `http` or `https` URL without a user.
    pub fn parse(text: &str) -> Result<Self, ChallengeError> {
        let uri: Uri = text.parse().map_err(|_| ChallengeError::Realm)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(ChallengeError::Realm),
        };
        let host = uri.authority().map(hyper::http::uri::Authority::as_str).unwrap_or_default();
        if !is_authority(host) {
            return Err(ChallengeError::Realm);
        }
        let target = uri.path_and_query().map_or_else(|| "/".into(), ToString::to_string);
        Ok(Self { tls, host: host.into(), target })
    }
}

/// Whether a URL's authority is a host with a port at most: no user, no password.
pub(crate) fn is_authority(text: &str) -> bool {
    let holds = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !text.is_empty() && !text.starts_with(':') && text.bytes().all(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer(Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        })
    }

    #[test]
    fn challenges_as_registries_write_them() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull""#;
        let hub_read = || {
            bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/nginx:pull"),
            )
        };
        for (header, expected) in [
            ("", vec![]),
            (hub, vec![hub_read()]),
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            ("Basic realm=x, charset=\"UTF-8\"", vec![Challenge::Basic]),
            ("Negotiate", vec![Challenge::Other("negotiate".into())]),
            ("Negotiate YII==, Basic realm=x", vec![Challenge::Other("negotiate".into()), Challenge::Basic]),
            ("Negotiate, Basic", vec![Challenge::Other("negotiate".into()), Challenge::Basic]),
            (&format!("Basic realm=\"a, b\", {hub}"), vec![Challenge::Basic, hub_read()]),
            (
                r#"BEARER Realm = "https://a/t" , error="invalid_token""#,
                vec![bearer("https://a/t", None, None)],
            ),
            (r#"Bearer realm="https://a/\"t\\""#, vec![bearer(r#"https://a/"t\"#, None, None)]),
            (", ,Basic,,", vec![Challenge::Basic]),
        ] {
            assert_eq!(parse(header), Ok(expected), "{header}");
        }
    }

    #[test]
    fn what_is_no_challenge_is_refused() {
        for (header, expected) in [
            ("=", ChallengeError::Malformed),
            ("\"Basic\"", ChallengeError::Malformed),
            ("Bearer realm=\"https://a", ChallengeError::Malformed),
            ("Bearer realm=\"https://a\\", ChallengeError::Malformed),
            ("Bearer realm=", ChallengeError::Realm),
            ("Bearer realm==", ChallengeError::Realm),
            ("Bearer realm=a b", ChallengeError::Malformed),
            ("Bearer realm=\"a\"service=\"b\"", ChallengeError::Malformed),
            ("Bearer realm=a, realm=b", ChallengeError::Malformed),
            ("Bearer realm=a, REALM=b", ChallengeError::Malformed),
            ("realm=\"https://a\"", ChallengeError::Malformed),
            ("Bearer (comment)", ChallengeError::Malformed),
            ("Bearer", ChallengeError::Realm),
            ("Bearer service=a", ChallengeError::Realm),
            ("Basic realm=x, Bearer", ChallengeError::Realm),
            (&format!("Basic realm=\"{}\"", "x".repeat(HEADER_BYTES_MAX)), ChallengeError::TooLong),
            (&"Basic,".repeat(CHALLENGES_MAX + 1), ChallengeError::TooLong),
            (
                &(0..=PARAMETERS_MAX).fold("Basic ".to_owned(), |text, n| format!("{text}p{n}=x,")),
                ChallengeError::TooLong,
            ),
        ] {
            assert_eq!(parse(header), Err(expected), "{header}");
        }
    }

    #[test]
    fn a_realm_is_a_url_without_a_user() {
        for (text, tls, host, target) in [
            ("https://auth.docker.io/token", true, "auth.docker.io", "/token"),
            ("https://auth.example", true, "auth.example", "/"),
            ("http://127.0.0.1:5001/auth?tenant=a", false, "127.0.0.1:5001", "/auth?tenant=a"),
            ("https://[::1]:5001/t#fragment", true, "[::1]:5001", "/t"),
        ] {
            let expected = Realm { tls, host: host.into(), target: target.into() };
            assert_eq!(Realm::parse(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "/token",
            "auth.example",
            "auth.example/token",
            "ftp://auth.example/token",
            "https://",
            "https:///token",
            "https://user:secret@auth.example/token",
            "https://user@auth.example/token",
            "https://auth example/token",
            "https://auth.example/to ken",
            "file:///etc/passwd",
            "javascript:alert(1)",
        ] {
            assert_eq!(Realm::parse(text), Err(ChallengeError::Realm), "{text}");
        }
    }
}
