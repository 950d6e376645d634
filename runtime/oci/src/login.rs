//! The login at one registry for one repository: what a registry asks for, and who is shown what.
//!
//! * A password or a token goes to the registry that it is for, and to the token server that this registry names in an
//!   answer: over TLS, or in plain HTTP when the configuration names that host. Nowhere else, and never after a redirection.
//! * What a token is good for is our word: to read this repository, or to write it too, whatever the registry asks for.
//! * Each request is made twice at most, so that a registry that is never content ends.

use edgewarden_names::Reason;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::OciError;
use crate::access::Access;
use crate::challenge::{Bearer, Challenge, Realm};
use crate::credentials::{Kind, Login};
use crate::error::refused;
use crate::http::{Answer, Call, Host, unavailable};
use crate::secret::{Secret, wiped};
use crate::token::{self, ANSWER_BYTES_MAX};

const REDIRECTS_MAX: usize = 4;
/// The name under which token servers count us.
const CLIENT: &str = "edgewarden";

/// A repository at one host, with what was shown there to be let in.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) host: Host,
    /// The host as image references and files with logins name it.
    registry: String,
    pub(crate) repository: String,
    access: Access,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    basic: Option<HeaderValue>,
    read: Option<Token>,
    write: Option<Token>,
    /// What a token server gave in the place of the identity token.
    identity: Option<Secret>,
    /// Where the login stands that was used; `None` before one was.
    login: Option<String>,
}

#[derive(Debug)]
struct Token {
    header: HeaderValue,
    until: Instant,
}

impl State {
    fn header(&self, writes: bool) -> Option<HeaderValue> {
        let fresh = |token: &&Token| token.until > Instant::now();
        let token = self.write.as_ref().or(self.read.as_ref().filter(|_| !writes)).filter(fresh);
        token.map(|token| token.header.clone()).or_else(|| self.basic.clone())
    }
}

impl Session {
    pub(crate) fn new(host: Host, registry: &str, repository: String, access: &Access) -> Self {
        Self { host, registry: registry.into(), repository, access: access.clone(), state: Mutex::default() }
    }

    /// Makes a request, logged in where the registry wants that.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, OciError> {
        let shown = self.state.lock().await.header(call.writes());
        let answer = self.host.call(call.clone().authorized(shown.clone())).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let challenges = answer.challenges().or_else(|error| self.refuse(error))?;
        drop(answer);
        let credentials = self.renew(challenges, call.writes(), shown.as_ref()).await?;
        let answer = self.host.call(call.authorized(Some(credentials))).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let state = self.state.lock().await;
            return self.refuse(self.not_enough(&state));
        }
        Ok(answer)
    }

    /// Reads, where registries redirect to their storage. The storage is trusted no more than the registry, and is shown no
    /// login.
    pub(crate) async fn read(&self, call: Call) -> Result<Answer, OciError> {
        let mut host = self.host.clone();
        let mut answer = self.call(call.clone()).await?;
        for _ in 0..REDIRECTS_MAX {
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let (next, path) = host.place(&answer)?;
            // Once away it stays without a login, wherever the way leads.
            let at_home = host.is_same(&self.host) && next.is_same(&self.host);
            let call = call.clone().at(path);
            answer = if at_home { self.call(call).await? } else { next.call(call).await? };
            if !at_home && matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                let rule = format!(
                    "it redirects to `{}`, which answers {}: no login is shown there",
                    next.name(),
                    answer.status()
                );
                return Err(unavailable(&self.registry, rule));
            }
            host = next;
        }
        if answer.status().is_redirection() {
            return Err(unavailable(&self.registry, "too many redirections"));
        }
        Ok(answer)
    }

    fn refuse<T>(&self, rule: impl std::fmt::Display) -> Result<T, OciError> {
        refused(Reason::ImageLogin, &self.registry, rule)
    }

    /// The refusal of an answer that is not what was asked for.
    pub(crate) async fn unexpected(&self, answer: &Answer, wanted: &str) -> OciError {
        let rule = format!("the registry answered {} when asked for {wanted}", answer.status());
        if !matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return unavailable(self.host.name(), rule);
        }
        let state = self.state.lock().await;
        let refusal = self.refuse::<()>(format!("{rule}: {}", self.not_enough(&state)));
        refusal.err().unwrap_or_else(|| unavailable(self.host.name(), rule))
    }

    fn not_enough(&self, state: &State) -> String {
        let repository = &self.repository;
        match &state.login {
            Some(entry) => {
                format!("the login {entry} is not good for `{repository}`, or there is no such repository")
            }
            None => format!(
                "`{repository}` is for those with a login, or there is no such repository; {}",
                self.access.logins().advice(&self.registry)
            ),
        }
    }

    /// Credentials in the place of those that were refused.
    async fn renew(
        &self,
        challenges: Vec<Challenge>,
        writes: bool,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, OciError> {
        let mut state = self.state.lock().await;
        // Another request may have renewed them while this one was on its way.
        if let Some(other) = state.header(writes).filter(|other| Some(other) != refused) {
            return Ok(other);
        }
        let mut basic = false;
        let mut others = Vec::new();
        for challenge in challenges {
            match challenge {
                Challenge::Bearer(bearer) => return self.bearer(&mut state, &bearer, writes).await,
                Challenge::Basic => basic = true,
                Challenge::Other(scheme) => others.push(scheme),
            }
        }
        if basic {
            return self.basic(&mut state, refused);
        }
        if others.is_empty() {
            return self.refuse("it wants a login and does not say of which kind");
        }
        self.refuse(format!("it wants a login by `{}`: `Basic` and `Bearer` are known", others.join("`, `")))
    }

    fn login(&self) -> Result<Option<Login>, OciError> {
        self.access.logins().find(&self.registry, &self.repository)
    }

    fn basic(&self, state: &mut State, refused: Option<&HeaderValue>) -> Result<HeaderValue, OciError> {
        let Some(login) = self.login()? else {
            return self.refuse(format!("it wants a login; {}", self.access.logins().advice(&self.registry)));
        };
        let Kind::Password { user, password } = &login.kind else {
            return self
                .refuse(format!("the login {} is an identity token, and it wants a password", login.entry));
        };
        let Some(header) = password.basic(user) else {
            return self.refuse(format!("the login {} fits no header", login.entry));
        };
        if refused == Some(&header) {
            return self.refuse(format!("it refused the login {}", login.entry));
        }
        state.login = Some(login.entry);
        state.basic = Some(header.clone());
        Ok(header)
    }

    async fn bearer(
        &self,
        state: &mut State,
        bearer: &Bearer,
        writes: bool,
    ) -> Result<HeaderValue, OciError> {
        let realm = Realm::parse(&bearer.realm).or_else(|error| self.refuse(error))?;
        let server = Host::new(&realm.host, &self.access);
        if realm.tls == server.is_plain() {
            let (said, named) = if realm.tls { ("TLS", "names") } else { ("plain HTTP", "does not name") };
            return self.refuse(format!(
                "its tokens are to be had at `{}` in {said}, which `runtime.plain_http_registries` {named}",
                realm.host
            ));
        }
        let login = self.login()?;
        let mut form = Zeroizing::new(String::new());
        if let Some(service) = &bearer.service {
            field(&mut form, "service", service);
        }
        field(&mut form, "scope", &self.scope(bearer.scope.as_deref(), writes));
        let call = match login.as_ref().map(|login| &login.kind) {
            Some(Kind::Identity(token)) => {
                field(&mut form, "client_id", CLIENT);
                field(&mut form, "grant_type", "refresh_token");
                field(&mut form, "refresh_token", state.identity.as_ref().unwrap_or(token).reveal());
                Call::new(hyper::Method::POST, &realm.target)
                    .body("application/x-www-form-urlencoded", wiped(form))
            }
            other => {
                let separator = if realm.target.contains('?') { '&' } else { '?' };
                let credentials = match other {
                    Some(Kind::Password { user, password }) => password.basic(user),
                    _ => None,
                };
                Call::get(&format!("{}{separator}{}", realm.target, form.as_str())).authorized(credentials)
            }
        };
        state.login = login.map(|login| login.entry);
        let mut answer = server.call(call).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST
                if state.login.is_some() =>
            {
                let entry = state.login.as_deref().unwrap_or_default();
                return self
                    .refuse(format!("`{}`, which gives its tokens, refused the login {entry}", realm.host));
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return self.refuse(self.not_enough(state)),
            status => {
                let rule = format!("`{}`, which gives its tokens, answered {status}", realm.host);
                return Err(unavailable(&self.registry, rule));
            }
        }
        let bytes = Zeroizing::new(answer.bytes(ANSWER_BYTES_MAX).await?);
        let answered = |error: &dyn std::fmt::Display| {
            unavailable(
                &self.registry,
                format!("the answer of `{}`, which gives its tokens: {error}", realm.host),
            )
        };
        let answer = token::parse(&bytes).map_err(|error| answered(&error))?;
        let header = answer.token.bearer().ok_or_else(|| answered(&"its token fits no header"))?;
        if answer.refresh.is_some() {
            state.identity = answer.refresh;
        }
        let token = Token { header: header.clone(), until: Instant::now() + answer.lifetime };
        *(if writes { &mut state.write } else { &mut state.read }) = Some(token);
        Ok(header)
    }

    /// What the token is to be good for: the name of the repository as the registry says it, and no more than is to be done.
    fn scope(&self, asked: Option<&str>, writes: bool) -> String {
        let actions = if writes { "pull,push" } else { "pull" };
        let name = asked
            .and_then(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'))
            .map(|(name, _)| name)
            .filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()));
        format!("repository:{}:{actions}", name.unwrap_or(&self.repository))
    }
}

/// Adds a field of a form or query (`application/x-www-form-urlencoded`).
fn field(form: &mut Zeroizing<String>, name: &str, value: &str) {
    // Room for every byte in three, so that growing leaves no copy of a secret behind.
    let mut grown = Zeroizing::new(String::with_capacity(form.len() + name.len() + 2 + 3 * value.len()));
    grown.push_str(form);
    if !form.is_empty() {
        grown.push('&');
    }
    grown.push_str(name);
    grown.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            grown.push(char::from(byte));
        } else {
            grown.push('%');
            for digit in [byte >> 4, byte & 15] {
                grown.extend(char::from_digit(digit.into(), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
    *form = grown;
}
