use std::fmt;

use crate::label::{GatewayName, LeafName, ModuleName, text_type};

/// Error of a text that is no SPIFFE ID or no trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error("a SPIFFE ID begins with `spiffe://`")]
    Scheme,
    #[error("the trust domain has 1 to 255 characters, this one has {0}")]
    TrustDomainLength(usize),
    #[error("a trust domain holds only `a-z`, `0-9`, `.`, `-` and `_`, not `{0}`")]
    TrustDomainCharacter(char),
    #[error("a SPIFFE ID has at most 2048 bytes, this one has {0}")]
    Length(usize),
    #[error("a path segment holds only `a-z`, `A-Z`, `0-9`, `.`, `-` and `_`, not `{0}`")]
    PathCharacter(char),
    #[error("a path segment is neither empty nor `.` nor `..`")]
    PathSegment,
}

/// A trust domain name (SPIFFE-ID section 2.1): 1 to 255 bytes of `a-z 0-9 . - _`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Box<str>);

impl TrustDomain {
    /// Parses 1 to 255 bytes of `a-z 0-9 . - _` (SPIFFE ID, sections 2.1 and 2.3).
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        if name.is_empty() || name.len() > 255 {
            return Err(SpiffeIdError::TrustDomainLength(name.len()));
        }
        match name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
            Some(bad) => Err(SpiffeIdError::TrustDomainCharacter(bad)),
            None => Ok(Self(name.into())),
        }
    }

    /// The trust domain's own ID, `spiffe://<name>`.
    pub fn id(&self) -> SpiffeId {
        SpiffeId { text: format!("spiffe://{self}").into(), path_at: "spiffe://".len() + self.0.len() }
    }
}
text_type!(TrustDomain, SpiffeIdError);

/// A SPIFFE ID (SPIFFE-ID section 2). The scheme is kept in lower case; the path is case-sensitive.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Box<str>,
    /// INVARIANT: a character boundary of `text`; before it are `spiffe://` and the trust domain.
    path_at: usize,
}

/// The object that an ID names, in Edgewarden's layout of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum IdKind {
    TrustDomain,
    Gateway(GatewayName),
    Module(GatewayName, ModuleName),
    Leaf(GatewayName, LeafName),
    /// A valid ID that no part of Edgewarden makes.
    Other,
}

impl SpiffeId {
    /// Parses `spiffe://<trust domain>[/path]`, at most 2048 bytes (SPIFFE ID, section 2).
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > 2048 {
            return Err(SpiffeIdError::Length(text.len()));
        }
        let rest = match text.split_at_checked("spiffe://".len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("spiffe://") => rest,
            _ => return Err(SpiffeIdError::Scheme),
        };
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(d, p)| (d, Some(p)));
        let mut id = TrustDomain::parse(domain)?.id();
        let Some(path) = path else { return Ok(id) };
        for segment in path.split('/') {
            if matches!(segment, "" | "." | "..") {
                return Err(SpiffeIdError::PathSegment);
            }
            let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            if let Some(bad) = segment.chars().find(|c| !allowed(c)) {
                return Err(SpiffeIdError::PathCharacter(bad));
            }
        }
        id.text = format!("{}/{path}", id.text).into();
        Ok(id)
    }

    /// `spiffe://<td>/fleet`: the fleet's own server.
    pub fn fleet(domain: &TrustDomain) -> Self {
        domain.id().join(&["fleet"])
    }

    /// `spiffe://<td>/gateway/<gateway>`
    pub fn gateway(domain: &TrustDomain, gateway: &GatewayName) -> Self {
        domain.id().join(&["gateway", gateway.as_str()])
    }

    /// `spiffe://<td>/gateway/<gateway>/module/<module>`
    pub fn module(domain: &TrustDomain, gateway: &GatewayName, module: &ModuleName) -> Self {
        domain.id().join(&["gateway", gateway.as_str(), "module", module.as_str()])
    }

    /// `spiffe://<td>/gateway/<gateway>/leaf/<leaf>`
    pub fn leaf(domain: &TrustDomain, gateway: &GatewayName, leaf: &LeafName) -> Self {
        domain.id().join(&["gateway", gateway.as_str(), "leaf", leaf.as_str()])
    }

    fn join(mut self, segments: &[&str]) -> Self {
        self.text = format!("{}/{}", self.text, segments.join("/")).into();
        self
    }

    /// The whole ID, with scheme and trust domain in lower case.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain of the ID.
    pub fn trust_domain(&self) -> TrustDomain {
        let (origin, _) = self.text.split_at(self.path_at);
        TrustDomain(origin.split_at("spiffe://".len()).1.into())
    }

    /// The path with its leading `/`, empty for a trust domain's own ID.
    pub fn path(&self) -> &str {
        self.text.split_at(self.path_at).1
    }

    /// The object that the path names, by Edgewarden's layout.
    pub fn kind(&self) -> IdKind {
        let segments: Vec<&str> = self.path().split('/').skip(1).collect();
        match *segments.as_slice() {
            [] => IdKind::TrustDomain,
            ["gateway", gateway] => GatewayName::parse(gateway).map_or(IdKind::Other, IdKind::Gateway),
            ["gateway", gateway, "module", module] => {
                match (GatewayName::parse(gateway), ModuleName::parse(module)) {
                    (Ok(gateway), Ok(module)) => IdKind::Module(gateway, module),
                    _ => IdKind::Other,
                }
            }
            ["gateway", gateway, "leaf", leaf] => {
                match (GatewayName::parse(gateway), LeafName::parse(leaf)) {
                    (Ok(gateway), Ok(leaf)) => IdKind::Leaf(gateway, leaf),
                    _ => IdKind::Other,
                }
            }
            _ => IdKind::Other,
        }
    }

    /// The gateway that this ID is, or lies beneath.
    pub fn gateway_name(&self) -> Option<GatewayName> {
        match self.kind() {
            IdKind::Gateway(gateway) | IdKind::Module(gateway, _) | IdKind::Leaf(gateway, _) => Some(gateway),
            IdKind::TrustDomain | IdKind::Other => None,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}
impl std::str::FromStr for SpiffeId {
    type Err = SpiffeIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}
impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}
impl From<SpiffeId> for String {
    fn from(value: SpiffeId) -> Self {
        value.text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_parsed_by_the_specification() {
        use SpiffeIdError as E;
        for (text, expected) in [
            ("spiffe://plant.example", Ok("")),
            ("SPIFFE://plant.example/A", Ok("/A")),
            ("spiffe://plant.example/gateway/gw-1/module/alerts", Ok("/gateway/gw-1/module/alerts")),
            ("", Err(E::Scheme)),
            ("https://plant.example", Err(E::Scheme)),
            ("spiffe://", Err(E::TrustDomainLength(0))),
            ("spiffe:///a", Err(E::TrustDomainLength(0))),
            ("spiffe://Plant", Err(E::TrustDomainCharacter('P'))),
            ("spiffe://plant:1", Err(E::TrustDomainCharacter(':'))),
            ("spiffe://user@plant", Err(E::TrustDomainCharacter('@'))),
            ("spiffe://plant/", Err(E::PathSegment)),
            ("spiffe://plant/a/", Err(E::PathSegment)),
            ("spiffe://plant//a", Err(E::PathSegment)),
            ("spiffe://plant/a/../b", Err(E::PathSegment)),
            ("spiffe://plant/./b", Err(E::PathSegment)),
            ("spiffe://plant/a%20b", Err(E::PathCharacter('%'))),
            ("spiffe://plant/a?b", Err(E::PathCharacter('?'))),
            ("spiffe://plant/a#b", Err(E::PathCharacter('#'))),
            ("spiffe://plant/é", Err(E::PathCharacter('é'))),
            ("spiffé://", Err(E::Scheme)),
        ] {
            let parsed = SpiffeId::parse(text);
            assert_eq!(parsed.as_ref().map(SpiffeId::path), expected.as_ref().map(|p| *p), "{text}");
        }
        let long = format!("spiffe://plant/{}", "a".repeat(2048));
        assert_eq!(SpiffeId::parse(&long), Err(E::Length(long.len())));
    }

    #[test]
    fn kinds_follow_the_layout() {
        let domain = TrustDomain::parse("plant.example").unwrap();
        let gateway = GatewayName::parse("gw-1").unwrap();
        let module = ModuleName::parse("alerts").unwrap();
        let id = SpiffeId::module(&domain, &gateway, &module);
        assert_eq!(id.as_str(), "spiffe://plant.example/gateway/gw-1/module/alerts");
        assert_eq!(id.trust_domain(), domain);
        assert_eq!(SpiffeId::parse(id.as_str()).unwrap(), id);
        assert_eq!(id.kind(), IdKind::Module(gateway.clone(), module));
        assert_eq!(id.gateway_name(), Some(gateway));
        for other in ["/gateway", "/gateway/GW", "/gateway/gw/module", "/gateway/gw/module/a/b", "/x/gw"] {
            let id = SpiffeId::parse(&format!("spiffe://plant.example{other}")).unwrap();
            assert_eq!(id.kind(), IdKind::Other, "{other}");
        }
    }
}
