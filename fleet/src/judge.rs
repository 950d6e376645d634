//! What a gateway will say of a deployment, said before: by the functions that the gateway itself asks.
//!
//! Not a wall: each gateway judges for itself. What is refused here keeps honest mistakes away from gateways.

use edgewarden_names::{Epoch, GatewayName, Reason, Refusal, TrustDomain};
use edgewarden_protocol::deployment::Deployment;

use crate::Problem;

/// The document's fields, image keys, address and policy: all that does not depend on a gateway.
pub async fn document(payload: Vec<u8>, domain: &TrustDomain) -> Result<Deployment, Problem> {
    let domain = domain.clone();
    let judged = tokio::task::spawn_blocking(move || judge(&payload, &domain)).await;
    Ok(judged.map_err(Problem::internal)??)
}

fn judge(payload: &[u8], domain: &TrustDomain) -> Result<Deployment, Refusal> {
    let deployment = Deployment::parse(payload)?;
    let refuse = |reason, rule: String| Err(Refusal::new(reason, &deployment.name, rule));
    if deployment.trust_domain != *domain {
        return refuse(
            Reason::DeploymentTarget,
            format!("it is for `{}`, this fleet is `{domain}`", deployment.trust_domain),
        );
    }
    if i64::try_from(deployment.version).is_err() {
        return refuse(Reason::DeploymentInvalid, "a version is below 2^63".into());
    }
    // The name of a gateway is in no policy: any will do to see whether it compiles.
    let gateway =
        GatewayName::parse("gateway").map_err(|error| Refusal::new(Reason::Internal, "policy", error))?;
    edgewarden_policy::compile(&deployment, &gateway, Epoch(1))?;
    Ok(deployment)
}
