//! Asks the policy that is in force. The answer is computed here from the same tables that the enforcers use.

use edgewarden_names::{GatewayName, LeafName, ModuleName, Principal, Reason, Refusal};
use edgewarden_policy::{Action, CompiledEpoch};
use edgewarden_protocol::control::{Snapshot, questions};
use edgewarden_protocol::layout::Layout;

use super::ask;
use crate::exit::Problem;
use crate::output::{self, Format};

/// Subcommands of `policy`.
#[derive(Debug, clap::Subcommand)]
pub enum Policy {
    /// Says whether A may reach B, and by which rule. Exit code 3 when it may not.
    Explain {
        /// `module:NAME`, `leaf:NAME`, or a module's bare name.
        from: String,
        /// `NAME:PORT` (a module's port), `publish:TOPIC`, `subscribe:FILTER`, `receive:TOPIC`, `upload:ENDPOINT` or `gateway`.
        to: String,
    },
}

impl Policy {
    /// Prints the answer and its rule. Exit code 3 for a no.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let Self::Explain { from, to } = self;
        let snapshot = ask(layout, questions::Watch { seen: 0 }).await?;
        let epoch = compiled(&snapshot)?;
        let principal = principal(&from)?;
        let (action, target) = question(&to, &snapshot.gateway)?;
        let explanation = epoch.explain(&principal, action, &target);
        if format == Format::Json {
            output::json(&explanation)?;
        } else {
            println!("{explanation}");
        }
        if explanation.allowed {
            return Ok(());
        }
        let subject = format!("{principal} {action} {target}");
        let next = "if it is meant to be, add a rule that permits it to the deployment's policy (docs/policy.md), and deploy that";
        Err(Problem::Denied { refusal: Refusal::new(Reason::PolicyDenied, subject, explanation.rule), next })
    }
}

fn compiled(snapshot: &Snapshot) -> Result<CompiledEpoch, Problem> {
    let policy = snapshot.policy.as_ref().ok_or_else(|| Problem::Denied {
        refusal: Refusal::new(
            Reason::PolicyDenied,
            "policy",
            "no deployment is in force, so nothing is allowed",
        ),
        next: "deploy one to this gateway: `edgewarden-fleet deploy`",
    })?;
    serde_json::from_slice(policy.compiled.as_slice()).map_err(Problem::failed)
}

fn principal(text: &str) -> Result<Principal, Problem> {
    let wrong = |error: edgewarden_names::LabelError| Problem::Usage(format!("`{text}`: {error}"));
    match text.split_once(':') {
        Some(("leaf", name)) => Ok(Principal::Leaf(LeafName::parse(name).map_err(wrong)?)),
        Some(("module", name)) => Ok(Principal::Module(ModuleName::parse(name).map_err(wrong)?)),
        _ => Ok(Principal::Module(ModuleName::parse(text).map_err(wrong)?)),
    }
}

fn question(text: &str, gateway: &GatewayName) -> Result<(Action, String), Problem> {
    if text == "gateway" {
        return Ok((Action::Connect, gateway.to_string()));
    }
    let Some((kind, target)) = text.split_once(':') else {
        return Err(Problem::Usage(format!("`{text}` names no port, topic or endpoint; see `--help`")));
    };
    match Action::parse(kind) {
        Some(action) => Ok((action, target.into())),
        None => Ok((Action::OpenFlow, text.into())),
    }
}
