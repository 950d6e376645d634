//! Checks of what a deployment says of other trust domains: whether their endpoints can be told by it. Called by the
//! gateway that takes a deployment, and before by the fleet that carries it.

use edgewarden_names::{Reason, Refusal, pem};
use edgewarden_protocol::Bytes;
use edgewarden_protocol::deployment::Deployment;
use edgewarden_protocol::federation::Profile;
use edgewarden_svid::anchors;
use edgewarden_svid::bundle::TrustBundle;

/// Refuses a deployment whose first bundles or CAs cannot be used: later there is nobody to tell.
pub fn check(deployment: &Deployment) -> Result<(), Refusal> {
    for endpoint in &deployment.federation {
        let domain = &endpoint.trust_domain;
        let refuse = |what: &str, rule: String| {
            Err(Refusal::new(
                Reason::DeploymentInvalid,
                &deployment.name,
                format!("federation `{domain}`: {what}: {rule}"),
            ))
        };
        match &endpoint.profile {
            Profile::HttpsWeb { ca } => {
                if let Err(rule) = authorities(ca) {
                    return refuse("`ca`", rule);
                }
            }
            Profile::HttpsSpiffe { bundle, .. } => match TrustBundle::parse(bundle.as_bytes(), domain) {
                Ok(bundle) if bundle.x509.is_empty() => {
                    return refuse("`bundle`", "it has no X.509 authority to tell the endpoint by".into());
                }
                Ok(_) => {}
                Err(error) => return refuse("`bundle`", error.to_string()),
            },
        }
    }
    Ok(())
}

/// The CAs of a PEM text, DER.
pub fn authorities(text: &str) -> Result<Vec<Bytes>, String> {
    let all = pem::all(text, pem::CERTIFICATE).map_err(|error| error.to_string())?;
    if all.is_empty() {
        return Err("it has no certificate".into());
    }
    anchors(&all).map_err(|error| error.to_string())?;
    Ok(all.into_iter().map(Into::into).collect())
}
