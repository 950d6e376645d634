//! Other trust domains: where their bundles come from (SPIFFE Federation, section 5), as a deployment says it, and what a
//! gateway has of them.
//!
//! Whom a trust domain believes is decided by who signs deployments. Whoever can change the name, the URL or the profile
//! of an endpoint can speak for that trust domain (section 7.1): so all of them, and what the endpoint is told by, are in
//! the signed document, and nothing is taken from the system's store of certificates.

use edgewarden_names::{Digest, Refusal, SpiffeId, TrustDomain, UnixTime};
use serde::{Deserialize, Serialize};

use crate::Bytes;

/// Most other trust domains of one deployment.
pub const FEDERATION_MAX: usize = 16;
/// Largest bundle, and largest PEM file of CAs.
pub const BUNDLE_BYTES_MAX: usize = 128 * 1024;
/// Bounds of the interval at which an endpoint is asked. Its bundle hints at the interval; without a hint it is 300 s
/// (section 4.2).
pub const REFRESH_SECONDS: std::ops::RangeInclusive<u32> = 60..=86400;
pub const REFRESH_DEFAULT_SECONDS: u32 = 300;
const URL_BYTES_MAX: usize = 2048;

/// One other trust domain, and where its bundle is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub trust_domain: TrustDomain,
    /// `https://host[:port]/path`
    pub url: String,
    pub profile: Profile,
}

/// Endpoint profile (SPIFFE Federation, section 5): the way in which the endpoint proves itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Profile {
    /// By its host name, under these CAs (PEM) and no others.
    HttpsWeb { ca: String },
    /// By its X.509-SVID, which the bundle that is held of its own trust domain verifies. `bundle` is the first one.
    HttpsSpiffe { endpoint_spiffe_id: SpiffeId, bundle: String },
}

impl Endpoint {
    pub(crate) fn check(&self, own: &TrustDomain) -> Result<(), String> {
        if self.trust_domain == *own {
            return Err("it is the deployment's own trust domain".into());
        }
        let rest = self.url.strip_prefix("https://").unwrap_or_default();
        let (authority, _) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let bad = authority.is_empty() || authority.contains('@') || rest.contains(['#', '\\']);
        if bad || !graphic(&self.url) || self.url.len() > URL_BYTES_MAX {
            return Err("`url` is `https://host[:port]/path`, without a user and without a fragment".into());
        }
        match &self.profile {
            Profile::HttpsWeb { ca } if ca.is_empty() || ca.len() > BUNDLE_BYTES_MAX => {
                Err(format!("`ca` has 1 to {BUNDLE_BYTES_MAX} bytes"))
            }
            Profile::HttpsSpiffe { bundle, .. } if bundle.is_empty() || bundle.len() > BUNDLE_BYTES_MAX => {
                Err(format!("`bundle` has 1 to {BUNDLE_BYTES_MAX} bytes"))
            }
            // Whose bundle verifies the endpoint, and whose it serves, is one and the same (section 5.2.2.2).
            Profile::HttpsSpiffe { endpoint_spiffe_id, .. }
                if endpoint_spiffe_id.trust_domain() != self.trust_domain
                    || endpoint_spiffe_id.path().is_empty() =>
            {
                Err("`endpoint_spiffe_id` is an ID of that trust domain, with a path".into())
            }
            _ => Ok(()),
        }
    }
}

/// One trust domain that the deployment federates with: its endpoint and the state of its bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Federated {
    pub trust_domain: TrustDomain,
    pub url: String,
    pub told_by: ToldBy,
    /// Names this endpoint as it is configured: an answer counts for the configuration that was asked under.
    pub endpoint: Digest,
    pub refresh_seconds: u32,
    pub held: Option<BundleStatus>,
    /// The reason that the last answer does not count, since the last that did.
    pub trouble: Option<Trouble>,
}

/// Proof that an endpoint must give of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToldBy {
    /// A host name under these CAs (DER).
    Web { authorities: Vec<Bytes> },
    /// Its SPIFFE ID under these X.509 authorities (DER): those of the bundle that is held.
    Spiffe { id: SpiffeId, authorities: Vec<Bytes> },
}

/// State of a bundle that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleStatus {
    pub sequence: u64,
    pub x509_authorities: u32,
    pub jwt_keys: u32,
    /// Time at which it came to say what it says.
    pub changed: UnixTime,
    /// Time at which the endpoint last said so, as of some minutes ago; `None`: it never did, this is the first bundle.
    pub confirmed: Option<UnixTime>,
}

/// A row of failures, the last of them by its refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// Since when.
    pub since: UnixTime,
    /// In a row.
    pub failures: u32,
    pub refusal: Refusal,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn endpoints_are_checked() {
        let own = TrustDomain::parse("plant.example").unwrap();
        let judge = |value: serde_json::Value| {
            let endpoint: Endpoint = serde_json::from_value(value).map_err(|error| error.to_string())?;
            endpoint.check(&own)
        };
        let web = |url: &str| json!({"trust_domain": "other.example", "url": url, "profile": {"kind": "https_web", "ca": "x"}});
        let spiffe = |id: &str| json!({"trust_domain": "other.example", "url": "https://h/", "profile": {"kind": "https_spiffe", "endpoint_spiffe_id": id, "bundle": "{}"}});
        for good in ["https://h", "https://h:8443/a/b", "https://[::1]:7/x?td=y", "https://h/a@b"] {
            assert_eq!(judge(web(good)), Ok(()), "{good}");
        }
        assert_eq!(judge(spiffe("spiffe://other.example/server")), Ok(()));
        let mut of_own = web("https://h/");
        of_own["trust_domain"] = json!("plant.example");
        let mut system = web("https://h/");
        system["profile"] = json!({"kind": "https_web"});
        let mut both = web("https://h/");
        both["profile"]["endpoint_spiffe_id"] = json!("spiffe://other.example/server");
        let mut more = web("https://h/");
        more["follow_redirects"] = json!(true);
        let mut empty = spiffe("spiffe://other.example/server");
        empty["profile"]["bundle"] = json!("");
        for bad in [
            of_own,
            system,
            both,
            more,
            empty,
            spiffe("spiffe://other.example"),
            spiffe("spiffe://plant.example/server"),
            web(""),
            web("http://h/"),
            web("https:///x"),
            web("https://user@h/"),
            web("https://h/ x"),
            web("https://h/#x"),
            web("https://h\\@evil/"),
            web(&format!("https://h/{}", "x".repeat(URL_BYTES_MAX))),
        ] {
            assert!(judge(bad.clone()).is_err(), "{bad}");
        }
    }
}
