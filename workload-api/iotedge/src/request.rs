//! The object of a request: operation, module and generation, from method, path and query.
//!
//! Our module names and generations need no percent-encoding, so none is accepted: there is one way to write each path
//! (RFC 3986 section 6), and nothing to decode.

use edgewarden_names::{Generation, ModuleName, Reason, Refusal};
use hyper::StatusCode;

/// Longest path or query that is looked at.
pub const TARGET_BYTES_MAX: usize = 512;

/// All versions that Azure's workload or management API has had; what is here is the same in each.
pub const VERSIONS: [&str; 13] = [
    "2018-06-28",
    "2018-12-30",
    "2019-01-30",
    "2019-10-22",
    "2019-11-05",
    "2020-02-21",
    "2020-07-07",
    "2020-07-22",
    "2020-10-10",
    "2021-05-11",
    "2021-12-07",
    "2022-06-21",
    "2022-08-03",
];

/// Operation of the Workload and Management APIs of IoT Edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Modules,
    TrustBundle,
    Sign,
    Encrypt,
    Decrypt,
    ServerCertificate,
    IdentityCertificate,
}

impl Operation {
    /// The one HTTP method of the operation.
    pub fn method(self) -> &'static str {
        match self {
            Self::Modules | Self::TrustBundle => "GET",
            _ => "POST",
        }
    }
}

/// Operation, module and generation that a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub operation: Operation,
    /// The module that the path names, if it names one.
    pub module: Option<ModuleName>,
    pub generation: Option<Generation>,
}

/// A refusal with its HTTP status (RFC 9110 section 15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    pub status: StatusCode,
    pub refusal: Refusal,
}

impl From<Refusal> for Denied {
    /// The status by the refusal's reason. What waiting or the operator heals is a server's error: Azure's SDKs try
    /// again after those only.
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.reason {
            Reason::CallerUnknown
            | Reason::CallerNotModule
            | Reason::PeerUnauthorized
            | Reason::PolicyDenied
            | Reason::IotedgeModule
            | Reason::IotedgeName => StatusCode::FORBIDDEN,
            Reason::CallerBudget | Reason::Busy => StatusCode::TOO_MANY_REQUESTS,
            Reason::RequestInvalid | Reason::IotedgeVersion | Reason::IotedgeCiphertext => {
                StatusCode::BAD_REQUEST
            }
            Reason::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::AttestRequired | Reason::AttestFailed | Reason::IdentityUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, refusal }
    }
}

impl Target {
    /// Order: the path, the method, the version, so that each answer is about what was understood.
    pub fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Self, Denied> {
        let target = Self::parse_path(path)?;
        if method != target.operation.method() {
            let rule = format!("this path answers {} only", target.operation.method());
            return Err(Denied { status: StatusCode::METHOD_NOT_ALLOWED, refusal: invalid("method", rule) });
        }
        check_version(query)?;
        Ok(target)
    }

    fn parse_path(path: &str) -> Result<Self, Denied> {
        let unknown = || Denied {
            status: StatusCode::NOT_FOUND,
            refusal: invalid("path", "this socket does not offer that path"),
        };
        let rest = path.strip_prefix('/').filter(|_| path.len() <= TARGET_BYTES_MAX).ok_or_else(unknown)?;
        let mut parts = rest.split('/');
        // One more than the longest path has.
        let parts: [Option<&str>; 7] = std::array::from_fn(|_| parts.next());
        let (operation, module, generation) = match parts {
            [Some("modules"), None, ..] => (Operation::Modules, None, None),
            [Some("trust-bundle"), None, ..] => (Operation::TrustBundle, None, None),
            [Some("modules"), name, Some("certificate"), Some("identity"), None, ..] => {
                (Operation::IdentityCertificate, name, None)
            }
            [Some("modules"), name, Some("genid"), id, Some("certificate"), Some("server"), None] => {
                (Operation::ServerCertificate, name, id)
            }
            [Some("modules"), name, Some("genid"), id, Some("sign"), None, ..] => (Operation::Sign, name, id),
            [Some("modules"), name, Some("genid"), id, Some("encrypt"), None, ..] => {
                (Operation::Encrypt, name, id)
            }
            [Some("modules"), name, Some("genid"), id, Some("decrypt"), None, ..] => {
                (Operation::Decrypt, name, id)
            }
            _ => return Err(unknown()),
        };
        let module = module.map(parse_module).transpose()?;
        let generation = generation.map(parse_generation).transpose()?;
        Ok(Self { operation, module, generation })
    }
}

fn invalid(subject: &str, rule: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::RequestInvalid, subject, rule)
}

fn parse_module(text: &str) -> Result<ModuleName, Denied> {
    ModuleName::parse(text).map_err(|_| {
        let rule = "the path names no module: write it as IOTEDGE_MODULEID does, without percent-encoding";
        Refusal::new(Reason::IotedgeModule, "path", rule).into()
    })
}

/// Written as IOTEDGE_MODULEGENERATIONID writes it, in no other way.
fn parse_generation(text: &str) -> Result<Generation, Denied> {
    let number = text.parse().ok().map(Generation).filter(|generation| generation.to_string() == text);
    number.ok_or_else(|| {
        let rule = "the path names no generation: write it as IOTEDGE_MODULEGENERATIONID does";
        Refusal::new(Reason::IotedgeModule, "path", rule).into()
    })
}

/// `api-version`, once, and nothing else.
fn check_version(query: Option<&str>) -> Result<(), Denied> {
    let refuse = |rule: &str| Err(Refusal::new(Reason::IotedgeVersion, "api-version", rule).into());
    let Some(query) = query.filter(|query| !query.is_empty()) else {
        return refuse("the query must have `api-version`");
    };
    match query.strip_prefix("api-version=") {
        Some(version) if VERSIONS.contains(&version) => Ok(()),
        Some(_) => refuse("the version is unknown: 2018-06-28 to 2022-08-03 are spoken"),
        None => refuse("the query must have `api-version` and nothing else"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: Option<&str> = Some("api-version=2018-06-28");

    #[test]
    fn every_operation_has_one_path_and_one_method() {
        for (method, path, operation) in [
            ("GET", "/modules", Operation::Modules),
            ("GET", "/trust-bundle", Operation::TrustBundle),
            ("POST", "/modules/alerts/genid/7/sign", Operation::Sign),
            ("POST", "/modules/alerts/genid/7/encrypt", Operation::Encrypt),
            ("POST", "/modules/alerts/genid/7/decrypt", Operation::Decrypt),
            ("POST", "/modules/alerts/genid/7/certificate/server", Operation::ServerCertificate),
            ("POST", "/modules/alerts/certificate/identity", Operation::IdentityCertificate),
        ] {
            let target = Target::parse(method, path, VERSION).unwrap();
            assert_eq!(target.operation, operation);
            assert_eq!(target.module.is_some(), path.contains("alerts"));
            assert_eq!(target.generation, path.contains("genid").then_some(Generation(7)));
            for other in ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "get", ""] {
                let denied = Target::parse(other, path, VERSION).err().map(|denied| denied.status);
                assert_eq!(
                    denied,
                    (other != method).then_some(StatusCode::METHOD_NOT_ALLOWED),
                    "{other} {path}"
                );
            }
        }
    }

    #[test]
    fn other_ways_to_write_a_path_are_refused() {
        for (path, status) in [
            ("", 404),
            ("/", 404),
            ("modules", 404),
            ("//modules", 404),
            ("/modules/", 404),
            ("/Modules", 404),
            ("/%6dodules", 404),
            ("/modules/../trust-bundle", 404),
            ("/trust-bundle/.", 404),
            ("/trust-bundle%00", 404),
            ("/manifest-trust-bundle", 404),
            ("/secrets/a", 404),
            ("/modules/alerts", 404),
            ("/modules/alerts/genid/7", 404),
            ("/modules/alerts/genid/7/sign/", 404),
            ("/modules/alerts/genid//7/sign", 404),
            ("/modules/alerts/genid/7/certificate/identity", 404),
            ("/modules/alerts/certificate/server", 404),
            ("/modules/alerts/genid/7/certificate/server/more", 404),
            ("/modules/a/b/genid/7/sign", 404),
            ("/modules//genid/7/sign", 403),
            ("/modules/./genid/7/sign", 403),
            ("/modules/../genid/7/sign", 403),
            ("/modules/%2e%2e/genid/7/sign", 403),
            ("/modules/alerts%00/genid/7/sign", 403),
            ("/modules/alerts%2Fgenid/genid/7/sign", 403),
            ("/modules/%61lerts/genid/7/sign", 403),
            ("/modules/Alerts/genid/7/sign", 403),
            ("/modules/аlerts/genid/7/sign", 403),
            ("/modules/alerts\u{200b}/genid/7/sign", 403),
            ("/modules/alerts\0/genid/7/sign", 403),
            ("/modules/$edgeHub/genid/7/sign", 403),
            ("/modules/alerts/genid//sign", 403),
            ("/modules/alerts/genid/07/sign", 403),
            ("/modules/alerts/genid/+7/sign", 403),
            ("/modules/alerts/genid/-7/sign", 403),
            ("/modules/alerts/genid/7.0/sign", 403),
            ("/modules/alerts/genid/٧/sign", 403),
            ("/modules/alerts/genid/18446744073709551616/sign", 403),
            ("/modules/alerts/genid/7%20/sign", 403),
        ] {
            let method = if path.contains("genid") || path.contains("certificate") { "POST" } else { "GET" };
            let denied = Target::parse(method, path, VERSION).unwrap_err();
            assert_eq!(denied.status, status, "{path}");
        }
        let long = format!("/modules/alerts/genid/{}/sign", "7".repeat(TARGET_BYTES_MAX));
        assert_eq!(Target::parse("POST", &long, VERSION).unwrap_err().status, 404);
    }

    #[test]
    fn a_known_version_is_there_once() {
        for version in VERSIONS {
            let query = format!("api-version={version}");
            assert!(Target::parse("GET", "/modules", Some(&query)).is_ok(), "{version}");
        }
        for query in [
            None,
            Some(""),
            Some("api-version"),
            Some("api-version="),
            Some("api-version=2018-06-29"),
            Some("api-version=2022-08-04"),
            Some("api-version=2018-06-28 "),
            Some("api-version=%32018-06-28"),
            Some("Api-Version=2018-06-28"),
            Some("api-version=2018-06-28&"),
            Some("&api-version=2018-06-28"),
            Some("api-version=2018-06-28&api-version=2018-06-28"),
            Some("api-version=2018-06-28&api-version=latest"),
            Some("api-version=2018-06-28&more=1"),
            Some("more=1&api-version=2018-06-28"),
            Some("?api-version=2018-06-28"),
        ] {
            let denied = Target::parse("GET", "/modules", query).unwrap_err();
            assert_eq!(
                (denied.status, denied.refusal.reason),
                (StatusCode::BAD_REQUEST, Reason::IotedgeVersion),
                "{query:?}"
            );
        }
    }
}
