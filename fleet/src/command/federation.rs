//! Other trust domains as people write them into a deployment: CAs and first bundles in files beside it.

use std::path::{Path, PathBuf};

use edgewarden_names::{SpiffeId, TrustDomain};
use edgewarden_protocol::federation::{Endpoint, Profile};
use serde::Deserialize;

use super::document::one;
use super::exit::Stop;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    trust_domain: TrustDomain,
    url: String,
    profile: WrittenProfile,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum WrittenProfile {
    HttpsWeb { ca: Option<String>, ca_file: Option<PathBuf> },
    HttpsSpiffe { endpoint_spiffe_id: SpiffeId, bundle: Option<String>, bundle_file: Option<PathBuf> },
}

impl Written {
    /// Files are looked for in `folder`.
    pub(super) fn resolve(self, folder: &Path) -> Result<Endpoint, Stop> {
        let beside = |file: Option<PathBuf>| file.map(|file| folder.join(file));
        let profile = match self.profile {
            WrittenProfile::HttpsWeb { ca, ca_file } => {
                Profile::HttpsWeb { ca: one("ca", ca, beside(ca_file))? }
            }
            WrittenProfile::HttpsSpiffe { endpoint_spiffe_id, bundle, bundle_file } => {
                let bundle = one("bundle", bundle, beside(bundle_file))?;
                Profile::HttpsSpiffe { endpoint_spiffe_id, bundle }
            }
        };
        Ok(Endpoint { trust_domain: self.trust_domain, url: self.url, profile })
    }
}
