//! The way to registries: plain HTTP where it is named, roots, mirrors, proxies, and where logins are kept.
//!
//! One value is for one task, such as the pull of an image: files that it names are read when they are needed, so that a
//! password or root that was changed counts for the next.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use edgewarden_names::Reason;
use edgewarden_platform::operator_file::{self, Secrecy};
use edgewarden_protocol::config::Runtime;
use edgewarden_protocol::registries::{Direct, Mirror, Proxies, ProxyUrl, RegistryMirrors};
use hyper::header::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::OciError;
use crate::credentials::Place;
use crate::error::refused;
use crate::secret::Secret;

/// Debian's bundle of public roots.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Entries that hold for every command, as for other programs that read `NO_PROXY`.
const LOOPBACK: &str = "localhost,127.0.0.0/8,[::1]";
const CA_FILE_BYTES_MAX: usize = 1024 * 1024;
const PROXY_LOGIN_BYTES_MAX: usize = 1024;

/// How registries are reached.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    plain_http: Vec<String>,
    ca_files: Vec<PathBuf>,
    mirrors: Vec<RegistryMirrors>,
    https_proxy: Option<Proxy>,
    http_proxy: Option<Proxy>,
    direct: Vec<Direct>,
    logins: Place,
    tls: OnceLock<Arc<rustls::ClientConfig>>,
}

/// A proxy and the login for it.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) address: String,
    login: ProxyLogin,
}

#[derive(Clone)]
enum ProxyLogin {
    None,
    /// Holds `user:password`.
    File(PathBuf),
    Given(HeaderValue),
}

/// What the caller of a command says of registries.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// Registries (`host:port`) that are asked in plain HTTP.
    pub plain_http: Vec<String>,
    /// A file in the form of Docker's `config.json`, in the place of the caller's own.
    pub credentials: Option<PathBuf>,
    /// Roots (PEM) besides the system's.
    pub ca_files: Vec<PathBuf>,
}

impl From<&Runtime> for Access {
    /// A gateway's way, by its configuration alone.
    fn from(config: &Runtime) -> Self {
        let proxies = config.proxy.clone().unwrap_or_default();
        let Proxies { https, http, no_proxy, credentials_file } = proxies;
        let login = credentials_file.map_or(ProxyLogin::None, ProxyLogin::File);
        let proxy = |url: Option<ProxyUrl>| {
            url.map(|url| Proxy { address: url.address().into(), login: login.clone() })
        };
        Self(Arc::new(Inner {
            plain_http: config.plain_http_registries.clone(),
            ca_files: config.registry_ca_files.clone(),
            mirrors: config.registry_mirrors.clone(),
            https_proxy: proxy(https),
            http_proxy: proxy(http),
            direct: no_proxy,
            logins: Place::Gateway(config.registry_credentials_file.clone()),
            tls: OnceLock::new(),
        }))
    }
}

impl From<&Access> for Access {
    fn from(access: &Access) -> Self {
        access.clone()
    }
}

impl Access {
    /// The way of a command: by its options, and the environment of its caller, which `variable` looks up: `HTTPS_PROXY`,
    /// `HTTP_PROXY`, `NO_PROXY` (also in small letters), `DOCKER_CONFIG` and `HOME`.
    pub fn of_command(options: Command, variable: impl Fn(&str) -> Option<String>) -> Result<Self, OciError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let either = |name: &str| set(&name.to_ascii_lowercase()).or_else(|| set(name));
        let proxy = |name: &str| {
            either(name)
                .map(|url| Proxy::of_environment(&url))
                .transpose()
                .or_else(|rule| refused(Reason::RequestInvalid, name, rule))
        };
        // No proxy leads to this machine's own registry.
        let direct = format!("{LOOPBACK},{}", either("NO_PROXY").unwrap_or_default());
        let direct = direct.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(Direct::parse);
        let direct = direct
            .collect::<Result<_, _>>()
            .or_else(|rule| refused(Reason::RequestInvalid, "NO_PROXY", rule))?;
        let folder = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| format!("{home}/.docker")));
        let own = || Place::Docker(folder.map(|folder| PathBuf::from(folder).join("config.json")));
        Ok(Self(Arc::new(Inner {
            plain_http: options.plain_http,
            ca_files: options.ca_files,
            mirrors: Vec::new(),
            https_proxy: proxy("HTTPS_PROXY")?,
            http_proxy: proxy("HTTP_PROXY")?,
            direct,
            logins: options.credentials.map_or_else(own, Place::Command),
            tls: OnceLock::new(),
        })))
    }

    /// Whether a host is spoken to in plain HTTP.
    pub(crate) fn is_plain(&self, host: &str) -> bool {
        self.0.plain_http.iter().any(|named| named == host)
    }

    pub(crate) fn logins(&self) -> &Place {
        &self.0.logins
    }

    /// The mirrors of a registry in their order, and whether it is not to be asked itself.
    pub(crate) fn mirrors(&self, registry: &str) -> (&[Mirror], bool) {
        let entry = self.0.mirrors.iter().find(|entry| entry.registry == registry);
        entry.map_or((&[], false), |entry| (&entry.mirrors, entry.only))
    }

    /// The proxy on the way to a host (a name, or an address without brackets), if there is one.
    pub(crate) fn proxy(&self, host: &str, port: u16, tls: bool) -> Option<&Proxy> {
        let proxy = if tls { &self.0.https_proxy } else { &self.0.http_proxy };
        proxy.as_ref().filter(|_| !self.0.direct.iter().any(|entry| entry.holds(host, port)))
    }

    /// TLS with the system's roots and those that are configured. An error is the rule that does not hold.
    pub(crate) fn tls(&self) -> Result<Arc<rustls::ClientConfig>, String> {
        if let Some(config) = self.0.tls.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = rustls::RootCertStore::empty();
        let system = CertificateDer::pem_file_iter(SYSTEM_ROOTS)
            .map_err(|error| format!("cannot read `{SYSTEM_ROOTS}`: {error}"));
        match system {
            Ok(bundle) => drop(roots.add_parsable_certificates(bundle.filter_map(Result::ok))),
            // A plant that has its own roots needs no public ones.
            Err(error) if self.0.ca_files.is_empty() => return Err(error),
            Err(_) => {}
        }
        for path in &self.0.ca_files {
            let wrong =
                |why: &dyn fmt::Display| format!("`{}` in `registry_ca_files`: {why}", path.display());
            let pem = operator_file::read(path, CA_FILE_BYTES_MAX, Secrecy::Public)
                .map_err(|error| wrong(&error))?;
            let mut found = 0;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|_| wrong(&"it is not PEM"))?;
                roots.add(certificate).map_err(|error| wrong(&error))?;
                found += 1;
            }
            if found == 0 {
                return Err(wrong(&"it holds no certificate"));
            }
        }
        if roots.is_empty() {
            return Err(format!("`{SYSTEM_ROOTS}` holds no root certificate; install ca-certificates"));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        Ok(Arc::clone(self.0.tls.get_or_init(|| config)))
    }
}

impl Proxy {
    /// `http://[user:password@]host:port`, where `http://` may be missing: as people have it in their environment. An error
    /// does not repeat it.
    fn of_environment(url: &str) -> Result<Self, String> {
        let bare = url.strip_prefix("http://").unwrap_or(url);
        let (login, address) = match bare.rsplit_once('@') {
            // The scheme of another protocol would be taken for a user.
            _ if bare.contains("://") => (ProxyLogin::None, url.into()),
            None => (ProxyLogin::None, format!("http://{bare}")),
            Some((pair, address)) => {
                let header = decoded(pair)
                    .and_then(|pair| basic(&pair))
                    .ok_or("its user and password are malformed")?;
                (ProxyLogin::Given(header), format!("http://{address}"))
            }
        };
        Ok(Self { address: ProxyUrl::parse(&address)?.address().into(), login })
    }

    /// The header that the proxy wants to see, if it wants one. An error is the rule that does not hold.
    pub(crate) fn login(&self) -> Result<Option<HeaderValue>, String> {
        match &self.login {
            ProxyLogin::None => Ok(None),
            ProxyLogin::Given(header) => Ok(Some(header.clone())),
            ProxyLogin::File(path) => {
                let bytes = operator_file::read(path, PROXY_LOGIN_BYTES_MAX, Secrecy::Own)
                    .map_err(|error| error.to_string())?;
                let text = std::str::from_utf8(&bytes).unwrap_or_default().trim_end_matches(['\r', '\n']);
                let header = basic(text)
                    .ok_or_else(|| format!("`{}` is not one line `user:password`", path.display()))?;
                Ok(Some(header))
            }
        }
    }

    pub(crate) fn has_login(&self) -> bool {
        !matches!(self.login, ProxyLogin::None)
    }
}

fn basic(pair: &str) -> Option<HeaderValue> {
    let (user, password) = pair.split_once(':')?;
    if user.is_empty() || pair.contains(char::is_control) {
        return None;
    }
    Secret::new(password.into()).basic(user)
}

/// Percent-decoded, as userinfo of a URL is (RFC 3986 section 3.2.1).
fn decoded(text: &str) -> Option<zeroize::Zeroizing<String>> {
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        rest = after;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
    }
    std::str::from_utf8(&bytes).ok().map(|text| zeroize::Zeroizing::new(text.into()))
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(variables: &[(&str, &str)]) -> Result<Access, String> {
        let look =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        Access::of_command(Command::default(), look).map_err(|error| error.refusal().to_string())
    }

    #[test]
    fn proxies_are_those_of_the_callers_environment() {
        let both = [
            ("HTTPS_PROXY", "http://secure:3128"),
            ("http_proxy", "proxy:3128/"),
            ("NO_PROXY", ".plant.example, 10.0.0.0/8,"),
        ];
        let found = access(&both).unwrap();
        for (host, port, tls, expected) in [
            ("docker.io", 443, true, Some("secure:3128")),
            ("docker.io", 80, false, Some("proxy:3128")),
            ("reg.plant.example", 443, true, None),
            ("10.1.2.3", 5000, false, None),
            ("127.0.0.1", 5000, false, None),
            ("localhost", 443, true, None),
            ("::1", 443, true, None),
            ("192.0.2.1", 5000, false, Some("proxy:3128")),
        ] {
            assert_eq!(found.proxy(host, port, tls).map(|proxy| proxy.address.as_str()), expected, "{host}");
        }
        assert!(access(&[("NO_PROXY", "*")]).unwrap().proxy("a", 443, true).is_none());
        assert!(access(&[("HTTPS_PROXY", "")]).unwrap().proxy("a", 443, true).is_none());
        let given = access(&[("https_proxy", "http://us%65r:p%40ss@proxy:3128")]).unwrap();
        let header = given.proxy("a", 443, true).unwrap().login().unwrap().unwrap();
        // `user:p@ss`
        assert_eq!(header.as_bytes(), b"Basic dXNlcjpwQHNz");
        assert!(header.is_sensitive());
    }

    #[test]
    fn an_environment_that_is_not_understood_is_refused_without_its_password() {
        for variables in [
            [("HTTPS_PROXY", "https://proxy:3128")],
            [("HTTPS_PROXY", "socks5://user:hunter2@proxy:1080")],
            [("HTTPS_PROXY", "http://user:hunter2@proxy")],
            [("HTTPS_PROXY", "http://hunter2@proxy:3128")],
            [("HTTPS_PROXY", "http://user:hunter2%@proxy:3128")],
            [("HTTPS_PROXY", "http://user:hunter2%0a@proxy:3128")],
            [("HTTP_PROXY", "http://proxy:port")],
            [("NO_PROXY", "http://reg.example")],
        ] {
            let said = access(&variables).unwrap_err();
            assert!(said.contains(variables[0].0) && !said.contains("hunter2"), "{said}");
        }
    }
}
