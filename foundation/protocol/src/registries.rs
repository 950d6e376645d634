//! How registries are reached, as `config.toml` says it: mirrors in front of them, and proxies on the way.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::image_reference::{is_registry, is_repository};

/// Mirrors of one registry, other registries in their turn.
pub const MIRRORS_MAX: usize = 8;
/// Registries with mirrors of their own; files of roots.
pub const REGISTRIES_MAX: usize = 32;
const NO_PROXY_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 255;

/// Element of `runtime.registry_mirrors`: where the images of one registry are asked for first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryMirrors {
    /// The registry as image references name it, such as `docker.io`.
    pub registry: String,
    /// In the order in which they are asked.
    pub mirrors: Vec<Mirror>,
    /// The registry itself is not asked.
    #[serde(default)]
    pub only: bool,
}

/// `host[:port][/path]`: a registry that has the images of another one, beneath `path` if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mirror {
    host: String,
    path: Option<String>,
}

impl Mirror {
    /// A mirror of this form, without a scheme. An error is the rule that does not hold.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, path) = text.split_once('/').map_or((text, None), |(host, path)| (host, Some(path)));
        if text.len() > NAME_BYTES_MAX || !is_registry(host) || path.is_some_and(|path| !is_repository(path))
        {
            return Err(format!(
                "`{}` is not a mirror: write `host`, `host:port` or `host:port/path`, without a scheme",
                text.escape_debug()
            ));
        }
        Ok(Self { host: host.into(), path: path.map(Into::into) })
    }

    /// Host, with a port if there is one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The mirror's name for a repository of the registry that it mirrors.
    pub fn repository(&self, repository: &str) -> String {
        self.path.as_ref().map_or_else(|| repository.into(), |path| format!("{path}/{repository}"))
    }
}

impl std::fmt::Display for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            None => f.write_str(&self.host),
            Some(path) => write!(f, "{}/{path}", self.host),
        }
    }
}

impl TryFrom<String> for Mirror {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Mirror> for String {
    fn from(mirror: Mirror) -> Self {
        mirror.to_string()
    }
}

/// Table `runtime.proxy`: HTTP proxies on the way to registries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxies {
    /// For registries that are spoken to in TLS: a tunnel (`CONNECT`), in which TLS is with the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<ProxyUrl>,
    /// For registries in plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<ProxyUrl>,
    /// What is asked without a proxy.
    pub no_proxy: Vec<Direct>,
    /// File with `user:password` for the proxies; root's, and open to nobody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<std::path::PathBuf>,
}

/// `http://host:port` of a proxy. It is spoken to in plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProxyUrl(String);

impl ProxyUrl {
    /// A proxy of this form, without a user. An error is the rule that does not hold, and repeats nothing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |rule: &str| Err(format!("the proxy is not usable: {rule}"));
        let Some(rest) = text.strip_prefix("http://") else {
            return wrong(
                "write `http://host:port`; the registry is spoken to in TLS through it all the same",
            );
        };
        // The text may hold a password, and is not repeated.
        if rest.contains('@') {
            return wrong("its user and password do not belong into the URL, but into `credentials_file`");
        }
        let address = rest.strip_suffix('/').unwrap_or(rest);
        let port = address.rsplit_once(':').map(|(_, port)| port);
        let numbered = port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
        if address.len() > NAME_BYTES_MAX || !is_registry(address) || !numbered {
            return wrong("write `http://host:port`");
        }
        Ok(Self(address.into()))
    }

    /// `host:port`
    pub fn address(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ProxyUrl {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<ProxyUrl> for String {
    fn from(url: ProxyUrl) -> Self {
        format!("http://{}", url.0)
    }
}

/// An entry of `no_proxy`: what is asked directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Direct {
    /// `*`
    All,
    /// `host` or an address, on any port.
    Host(String),
    /// `host:port`
    HostPort(String, u16),
    /// `.suffix` or `*.suffix`: every host beneath it, and not itself. Kept with its dot.
    Beneath(String),
    /// `address/prefix`: for registries that are named by their address. Names are not resolved for it.
    Network(IpAddr, u8),
}

impl Direct {
    /// An entry as it is written. An error is the rule that does not hold.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            Err(format!(
                "`{}` is no entry of `no_proxy`: write a host, `host:port`, `.suffix`, `address/prefix` or `*`",
                text.escape_debug()
            ))
        };
        if text == "*" {
            return Ok(Self::All);
        }
        let lower = text.to_ascii_lowercase();
        if let Some((address, prefix)) = lower.split_once('/') {
            let (Ok(address), Ok(prefix)) = (address.parse::<IpAddr>(), prefix.parse::<u8>()) else {
                return wrong();
            };
            let longest = if address.is_ipv4() { 32 } else { 128 };
            return if prefix <= longest { Ok(Self::Network(address, prefix)) } else { wrong() };
        }
        let bare = lower.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Host(address.to_string()));
        }
        let name = |text: &str| {
            !text.is_empty()
                && text.len() <= NAME_BYTES_MAX
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        let suffix = lower.strip_prefix('*').unwrap_or(&lower);
        if let Some(beneath) = suffix.strip_prefix('.') {
            return if name(beneath) { Ok(Self::Beneath(suffix.into())) } else { wrong() };
        }
        if let Some((host, port)) = lower.rsplit_once(':') {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            return match port.parse() {
                Ok(port) if name(host) || host.parse::<IpAddr>().is_ok() => {
                    Ok(Self::HostPort(host.into(), port))
                }
                _ => wrong(),
            };
        }
        if name(&lower) { Ok(Self::Host(lower)) } else { wrong() }
    }

    /// Whether a host (a name, or an address without brackets) and port is asked directly.
    pub fn holds(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        match self {
            Self::All => true,
            Self::Host(name) => *name == host,
            Self::HostPort(name, of) => *name == host && *of == port,
            Self::Beneath(suffix) => host.ends_with(suffix.as_str()),
            Self::Network(network, prefix) => {
                host.parse().is_ok_and(|address| is_within(address, *network, *prefix))
            }
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let (difference, bits) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (u128::from(address.to_bits() ^ network.to_bits()), 32_u8)
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits() ^ network.to_bits(), 128),
        _ => return false,
    };
    difference.checked_shr(u32::from(bits.saturating_sub(prefix))).is_none_or(|left| left == 0)
}

impl std::fmt::Display for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Host(host) | Self::Beneath(host) => f.write_str(host),
            Self::HostPort(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::HostPort(host, port) => write!(f, "{host}:{port}"),
            Self::Network(address, prefix) => write!(f, "{address}/{prefix}"),
        }
    }
}

impl TryFrom<String> for Direct {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Direct> for String {
    fn from(direct: Direct) -> Self {
        direct.to_string()
    }
}

/// What is wrong with the way to registries, as the key and the range that holds.
pub(crate) fn check(runtime: &crate::config::Runtime) -> Result<(), (&'static str, &'static str)> {
    let absolute = |path: &std::path::PathBuf| path.is_absolute();
    if !runtime.registry_credentials_file.iter().all(absolute) {
        return Err(("runtime.registry_credentials_file", "an absolute path"));
    }
    if runtime.registry_ca_files.len() > REGISTRIES_MAX || !runtime.registry_ca_files.iter().all(absolute) {
        return Err(("runtime.registry_ca_files", "32 absolute paths at most"));
    }
    let mirrored = &runtime.registry_mirrors;
    if mirrored.len() > REGISTRIES_MAX {
        return Err(("runtime.registry_mirrors", "32 registries at most"));
    }
    for (number, entry) in mirrored.iter().enumerate() {
        if !is_registry(&entry.registry) {
            return Err((
                "runtime.registry_mirrors.registry",
                "`host` or `host:port`, as image references name it",
            ));
        }
        if mirrored.iter().take(number).any(|before| before.registry == entry.registry) {
            return Err(("runtime.registry_mirrors.registry", "one entry for each registry"));
        }
        if entry.mirrors.is_empty() || entry.mirrors.len() > MIRRORS_MAX {
            return Err(("runtime.registry_mirrors.mirrors", "1 to 8 mirrors"));
        }
    }
    let Some(proxy) = &runtime.proxy else { return Ok(()) };
    if proxy.https.is_none() && proxy.http.is_none() {
        return Err(("runtime.proxy", "`https`, `http` or both: without one nothing goes through a proxy"));
    }
    if proxy.no_proxy.len() > NO_PROXY_MAX {
        return Err(("runtime.proxy.no_proxy", "64 entries at most"));
    }
    if !proxy.credentials_file.iter().all(absolute) {
        return Err(("runtime.proxy.credentials_file", "an absolute path"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_hosts_with_a_path_at_most() {
        for (text, repository) in [
            ("cache.plant.example:5000", "library/nginx"),
            ("cache", "library/nginx"),
            ("harbor.example/hub", "hub/library/nginx"),
            ("harbor.example:443/a/b", "a/b/library/nginx"),
        ] {
            let mirror = Mirror::parse(text).unwrap();
            assert_eq!(
                (mirror.repository("library/nginx").as_str(), mirror.to_string().as_str()),
                (repository, text)
            );
        }
        for text in [
            "",
            "/",
            "/hub",
            "cache/",
            "https://cache",
            "cache//hub",
            "cache/../v2",
            "cache/Hub",
            "user:secret@cache",
            "cache?x",
            "ca che",
            "cache/hub:1",
            &"c".repeat(256),
        ] {
            assert!(Mirror::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_proxy_is_a_host_and_a_port_without_a_password() {
        for text in ["http://proxy:3128", "http://proxy.plant.example:8080/", "http://[::1]:3128"] {
            assert_eq!(
                ProxyUrl::parse(text).unwrap().address(),
                text.trim_start_matches("http://").trim_end_matches('/')
            );
        }
        for text in [
            "",
            "proxy:3128",
            "http://proxy",
            "http://proxy:0",
            "http://proxy:65536",
            "http://proxy:3128/path",
            "https://proxy:3128",
            "socks5://proxy:1080",
            "http://:3128",
            "http://pro xy:1",
        ] {
            assert!(ProxyUrl::parse(text).is_err(), "{text}");
        }
        let said = ProxyUrl::parse("http://user:hunter2@proxy:3128").unwrap_err();
        assert!(said.contains("credentials_file") && !said.contains("hunter2"), "{said}");
    }

    #[test]
    fn what_is_asked_directly() {
        for (entry, host, port, expected) in [
            ("*", "anything", 443, true),
            ("reg.example", "reg.example", 443, true),
            ("REG.example", "reg.EXAMPLE", 5000, true),
            ("reg.example", "sub.reg.example", 443, false),
            ("reg.example", "xreg.example", 443, false),
            (".example", "reg.example", 443, true),
            ("*.example", "reg.example", 443, true),
            (".example", "example", 443, false),
            (".example", "notexample", 443, false),
            ("reg.example:5000", "reg.example", 5000, true),
            ("reg.example:5000", "reg.example", 443, false),
            ("10.0.0.0/8", "10.200.3.4", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("10.0.0.0/8", "ten.example", 443, false),
            ("0.0.0.0/0", "192.0.2.1", 443, true),
            ("0.0.0.0/0", "2001:db8::1", 443, false),
            ("::/0", "2001:db8::1", 443, true),
            ("192.0.2.1/32", "192.0.2.1", 443, true),
            ("192.0.2.1/32", "192.0.2.2", 443, false),
            ("2001:db8::/32", "2001:db8:1::1", 443, true),
            ("2001:db8::/32", "2001:db9::1", 443, false),
            ("127.0.0.1", "127.0.0.1", 5000, true),
            ("[::1]", "::1", 5000, true),
            ("[::1]:5000", "::1", 5000, true),
        ] {
            let entry = Direct::parse(entry).unwrap();
            assert_eq!(entry.holds(host, port), expected, "{entry} {host}:{port}");
            assert_eq!(Direct::parse(&entry.to_string()).unwrap(), entry);
        }
        for bad in [
            "",
            ".",
            "*.",
            "10.0.0.0/33",
            "x/8",
            "::/129",
            "a b",
            "reg:port",
            "http://x",
            "a*b",
            "@",
            "1.2.3.4/-1",
        ] {
            assert!(Direct::parse(bad).is_err(), "{bad}");
        }
    }
}
