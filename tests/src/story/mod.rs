//! The ten steps of the demo. Each is shown by what the product's own programs print, and fails when it does not hold.

pub mod deploy;
mod enrol;
mod flow;
mod identify;
mod look;
mod offline;
pub mod refusals;
pub mod sign;

use crate::Failure;
use crate::site::Site;

/// Output of a step: the first line is the step's, the others are details.
pub type Shown = Result<Vec<String>, Failure>;

#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Stable: the `step` of the JSON lines.
    pub name: &'static str,
    pub run: fn(&mut Site) -> Shown,
}

pub const STEPS: [Step; 10] = [
    Step { name: "manufacture", run: enrol::manufacture },
    Step { name: "fleet", run: enrol::fleet },
    Step { name: "enrol", run: enrol::enrol },
    Step { name: "sign", run: sign::sign },
    Step { name: "deploy", run: deploy::deploy },
    Step { name: "identify", run: identify::identify },
    Step { name: "flow", run: flow::flow },
    Step { name: "refusals", run: refusals::all },
    Step { name: "offline", run: offline::offline },
    Step { name: "look", run: look::look },
];

/// Runs the steps of these names, in this order.
pub fn run(site: &mut Site, names: &[&str]) -> Result<(), Failure> {
    for name in names {
        let step = STEPS.iter().find(|step| step.name == *name);
        let step = step.ok_or_else(|| Failure(format!("there is no step `{name}`")))?;
        (step.run)(site).map_err(|Failure(why)| Failure(format!("step {name}: {why}")))?;
    }
    Ok(())
}

/// The lines of a text that hold a word.
fn lines_with<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.contains(word)).collect()
}
