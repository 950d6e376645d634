//! Logins for registries, in the form of Docker's `config.json`: a file that people have already.
//!
//! No helper program is run: what `credsStore` and `credHelpers` keep elsewhere is not found, and the refusal says so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use edgewarden_names::Reason;
use edgewarden_platform::operator_file::{self, FileError, Secrecy};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::OciError;
use crate::error::refused;
use crate::secret::Secret;

const FILE_BYTES_MAX: usize = 256 * 1024;
const ENTRIES_MAX: usize = 256;
/// Names of Docker's own registry, which is under the first of them in files that `docker login` wrote.
const HUB: [&str; 3] = ["index.docker.io", "docker.io", "registry-1.docker.io"];

/// Where the one who asks keeps logins.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// `runtime.registry_credentials_file`, if there is one.
    Gateway(Option<PathBuf>),
    /// The file that a command was given.
    Command(PathBuf),
    /// Docker's own file of the one who calls the command; it may be missing.
    Docker(Option<PathBuf>),
}

/// A login for a registry.
#[derive(Debug)]
pub(crate) struct Login {
    /// Where it stands, for messages: entry and file.
    pub(crate) entry: String,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Password {
        user: String,
        password: Secret,
    },
    /// What the token server of the registry gave for a password once (`docker login` with an identity provider).
    Identity(Secret),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
}

impl Place {
    /// The login for a repository of a registry, read anew from the file.
    pub(crate) fn find(&self, registry: &str, repository: &str) -> Result<Option<Login>, OciError> {
        let path = match self {
            Self::Gateway(Some(path)) | Self::Command(path) | Self::Docker(Some(path)) => path,
            Self::Gateway(None) | Self::Docker(None) => return Ok(None),
        };
        let bytes = match operator_file::read(path, FILE_BYTES_MAX, Secrecy::Own) {
            Ok(bytes) => bytes,
            Err(FileError::Read { source, .. })
                if matches!(self, Self::Docker(_)) && source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Ok(None);
            }
            Err(error) => return refused(Reason::ImageLogin, registry, error),
        };
        let strict = !matches!(self, Self::Docker(_));
        find(&bytes, path, strict, registry, repository)
            .or_else(|rule| refused(Reason::ImageLogin, registry, format!("`{}` {rule}", path.display())))
    }

    /// What to do when there is no login.
    pub(crate) fn advice(&self, registry: &str) -> String {
        match self {
            Self::Gateway(None) => {
                "`runtime.registry_credentials_file` in `config.toml` names no file with logins".into()
            }
            Self::Gateway(Some(path)) | Self::Command(path) | Self::Docker(Some(path)) => {
                format!("`{}` has no entry for `{registry}` in `auths`", path.display())
            }
            Self::Docker(None) => "give a file with one by `--credentials FILE`".into(),
        }
    }
}

/// An error is what is wrong with the file, without anything of its contents but names of registries and helpers.
fn find(
    bytes: &[u8],
    path: &Path,
    strict: bool,
    registry: &str,
    repository: &str,
) -> Result<Option<Login>, String> {
    let File { mut auths, creds_store, cred_helpers } = serde_json::from_slice(bytes).map_err(|error| {
        // Its text may repeat a value.
        let (line, column) = (error.line(), error.column());
        format!("is not of the form of Docker's `config.json` (line {line}, column {column})")
    })?;
    if auths.len() > ENTRIES_MAX {
        return Err(format!("has more than {ENTRIES_MAX} entries"));
    }
    let helper = creds_store.or_else(|| {
        let asked = |name: &str| strict || hosts_agree(host_and_path(name).0, registry);
        cred_helpers.into_iter().find(|(name, _)| asked(name)).map(|(_, helper)| helper)
    });
    let no_helper = |helper: String| {
        format!(
            "leaves logins to the program `docker-credential-{}`, which is not run: write the login into `auths` (`auth`, or `username` and `password`)",
            helper.escape_debug()
        )
    };
    if strict && let Some(helper) = helper {
        return Err(no_helper(helper));
    }
    let best = auths
        .keys()
        .filter_map(|name| {
            let (host, path) = host_and_path(name);
            let beneath =
                || repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            (hosts_agree(host, registry) && (path.is_empty() || beneath()))
                .then_some((path.len(), name.clone()))
        })
        .max();
    let login = match best {
        None => None,
        Some((_, name)) => {
            let entry = auths.remove(&name).unwrap_or_default();
            let kind =
                entry.kind().map_err(|rule| format!("{rule} in its entry `{}`", name.escape_debug()))?;
            kind.map(|kind| Login {
                entry: format!("`{}` in `{}`", name.escape_debug(), path.display()),
                kind,
            })
        }
    };
    match (login, helper) {
        (None, Some(helper)) => Err(no_helper(helper)),
        (login, _) => Ok(login),
    }
}

impl Entry {
    fn kind(self) -> Result<Option<Kind>, &'static str> {
        if let Some(token) = self.identitytoken.filter(|token| !token.reveal().is_empty()) {
            return Ok(Some(Kind::Identity(token)));
        }
        if let Some(auth) = self.auth.filter(|auth| !auth.reveal().is_empty()) {
            let wrong = "has an `auth` that is not base64 of `user:password`";
            let engine = base64::engine::GeneralPurpose::new(
                &base64::alphabet::STANDARD,
                base64::engine::GeneralPurposeConfig::new()
                    .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
            );
            let decoded = Zeroizing::new(engine.decode(auth.reveal()).map_err(|_| wrong)?);
            let text = std::str::from_utf8(&decoded).map_err(|_| wrong)?;
            let (user, password) = text.split_once(':').ok_or(wrong)?;
            return Kind::password(user, Secret::new(password.into()));
        }
        match (self.username, self.password) {
            (Some(user), Some(password)) => Kind::password(&user, password),
            (None, None) => Ok(None),
            _ => Err("has only one of `username` and `password`"),
        }
    }
}

impl Kind {
    fn password(user: &str, password: Secret) -> Result<Option<Self>, &'static str> {
        // RFC 7617 section 2.
        if user.is_empty()
            || user.contains(':')
            || [user, password.reveal()].iter().any(|text| text.contains(char::is_control))
        {
            return Err("has a user without a name, with a colon, or with a control character");
        }
        Ok(Some(Self::Password { user: user.into(), password }))
    }
}

/// Host and repository of an entry's name: `host`, `host/team`, or as `docker login` writes them, `https://host/v1/`.
fn host_and_path(name: &str) -> (&str, &str) {
    let bare = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_end_matches('/');
    (host, if matches!(path, "v1" | "v2") { "" } else { path })
}

fn hosts_agree(entry: &str, registry: &str) -> bool {
    entry.eq_ignore_ascii_case(registry) || (HUB.contains(&entry) && HUB.contains(&registry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(file: &str, registry: &str, repository: &str, strict: bool) -> Result<Option<String>, String> {
        let found = find(file.as_bytes(), Path::new("/f"), strict, registry, repository)?;
        assert!(
            !["\"pass\"", "\"abc\"", "p:q"].iter().any(|secret| format!("{found:?}").contains(secret)),
            "{found:?}"
        );
        Ok(found.map(|login| match login.kind {
            Kind::Password { user, password } => format!("{user}:{}", password.reveal()),
            Kind::Identity(token) => format!("identity {}", token.reveal()),
        }))
    }

    #[test]
    fn logins_are_found_as_docker_and_podman_wrote_them() {
        // `dXNlcjpwYXNz` is `user:pass`.
        for (file, registry, repository, expected) in [
            (
                r#"{"auths":{"reg.example:5000":{"auth":"dXNlcjpwYXNz"}}}"#,
                "reg.example:5000",
                "a",
                Some("user:pass"),
            ),
            (r#"{"auths":{"reg.example:5000":{"auth":"dXNlcjpwYXNz"}}}"#, "reg.example", "a", None),
            (
                r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dXNlcjpwYXNz"}}}"#,
                "docker.io",
                "library/nginx",
                Some("user:pass"),
            ),
            (
                r#"{"auths":{"docker.io":{"auth":"dXNlcjpwYXNz"}}}"#,
                "docker.io",
                "library/nginx",
                Some("user:pass"),
            ),
            (
                r#"{"auths":{"https://reg.example/v2/":{"username":"u","password":"p:q"}}}"#,
                "reg.example",
                "a",
                Some("u:p:q"),
            ),
            (r#"{"auths":{"REG.example":{"username":"u","password":""}}}"#, "reg.example", "a", Some("u:")),
            (
                r#"{"auths":{"reg":{"auth":"PHRva2VuPjo=","identitytoken":"abc"}}}"#,
                "reg",
                "a",
                Some("identity abc"),
            ),
            (
                r#"{"auths":{"reg":{"auth":"dTpw"},"reg/team":{"auth":"dXNlcjpwYXNz"}}}"#,
                "reg",
                "team/app",
                Some("user:pass"),
            ),
            (
                r#"{"auths":{"reg":{"auth":"dTpw"},"reg/team":{"auth":"dXNlcjpwYXNz"}}}"#,
                "reg",
                "teams/app",
                Some("u:p"),
            ),
            (r#"{"auths":{"reg/team":{"auth":"dXNlcjpwYXNz"}}}"#, "reg", "other", None),
            (r#"{"auths":{"reg":{}}}"#, "reg", "a", None),
            (r#"{"auths":{"reg.example.evil":{"auth":"dTpw"}}}"#, "reg.example", "a", None),
            (r#"{"auths":{"evil.reg.example":{"auth":"dTpw"}}}"#, "reg.example", "a", None),
            (r#"{"currentContext":"x","HttpHeaders":{"A":"b"},"auths":{}}"#, "reg", "a", None),
            ("{}", "reg", "a", None),
        ] {
            assert_eq!(look(file, registry, repository, true), Ok(expected.map(Into::into)), "{file}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_without_what_is_secret() {
        for (file, said) in [
            ("", "line 1"),
            ("[]", "line 1"),
            (r#"{"auths":{"reg":{"auth":"hunter2!"}}}"#, "base64"),
            (r#"{"auths":{"reg":{"auth":"aHVudGVyMg=="}}}"#, "`user:password`"),
            (r#"{"auths":{"reg":{"auth":"OmFiYw=="}}}"#, "without a name"),
            (r#"{"auths":{"reg":{"auth":"/w=="}}}"#, "base64"),
            (r#"{"auths":{"reg":{"username":"u"}}}"#, "only one"),
            (r#"{"auths":{"reg":{"password":"hunter2"}}}"#, "only one"),
            (r#"{"auths":{"reg":{"username":"a:b","password":"hunter2"}}}"#, "colon"),
            (r#"{"auths":{"reg":{"username":"a","password":"hunter2\n"}}}"#, "control"),
            (r#"{"auths":{"reg":{"auth":["hunter2"]}}}"#, "line 1"),
            (r#"{"auths":{"reg":"hunter2"}}"#, "line 1"),
            (r#"{"auths":{},"credsStore":"desktop"}"#, "docker-credential-desktop"),
            (r#"{"auths":{},"credHelpers":{"other":"ecr-login"}}"#, "docker-credential-ecr-login"),
        ] {
            let error = look(file, "reg", "a", true).unwrap_err();
            assert!(error.contains(said) && !error.contains("hunter2"), "{file}: {error}");
        }
        let many: BTreeMap<String, BTreeMap<String, String>> =
            (0..=ENTRIES_MAX).map(|n| (format!("r{n}"), BTreeMap::new())).collect();
        assert!(look(&serde_json::json!({"auths": many}).to_string(), "reg", "a", true).is_err());
    }

    #[test]
    fn a_callers_own_file_may_name_helpers_for_other_registries() {
        let file = r#"{"auths":{"reg":{"auth":"dTpw"}},"credHelpers":{"ecr.example":"ecr-login"}}"#;
        assert_eq!(look(file, "reg", "a", false), Ok(Some("u:p".into())));
        assert_eq!(look(file, "other", "a", false), Ok(None));
        assert!(look(file, "ecr.example", "a", false).unwrap_err().contains("ecr-login"));
        assert!(look(file, "reg", "a", true).is_err());
        assert!(look(r#"{"auths":{"reg":{}},"credsStore":"desktop"}"#, "reg", "a", false).is_err());
    }
}
