//! `edgewarden doctor`: looks for what keeps the gateway from working.

use edgewarden_doctor::{Examined, Outcome, Sources, areas, examine, gather, table};
use edgewarden_protocol::layout::Layout;
use edgewarden_terminal::Waiting;

use crate::exit::Problem;
use crate::output::{self, Format};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Only the checks of one area, such as `keystore` or `disk`.
    #[arg(long, value_name = "AREA")]
    only: Option<String>,
    /// Print every check as a Markdown table, and examine nothing.
    #[arg(long)]
    list: bool,
}

impl Doctor {
    /// Runs the checks and prints what they found. Needs root. Exit code 1 when a check fails.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        if self.list {
            print!("{}", table());
            return Ok(());
        }
        if let Some(only) = &self.only
            && !areas().contains(&only.as_str())
        {
            return Err(Problem::Usage(format!("`{only}` is not an area: {}", areas().join(", "))));
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(Problem::text(
                "`edgewarden doctor` must run as root: it looks at what only the daemons may read",
            ));
        }
        let waiting = Waiting::begin("looking at the gateway");
        let facts = gather(&Sources::system(layout.clone())).await;
        drop(waiting);
        let examined = examine(&facts, self.only.as_deref());
        match format {
            Format::Json => output::json(&examined)?,
            Format::Text | Format::Pem => print(&examined),
        }
        match count(&examined, Outcome::Fail) {
            0 => Ok(()),
            failed => Err(Problem::text(format!("{failed} of {} checks failed", examined.len()))),
        }
    }
}

fn count(examined: &[Examined], outcome: Outcome) -> usize {
    examined.iter().filter(|one| one.outcome == outcome).count()
}

fn print(examined: &[Examined]) {
    let mut area = "";
    for one in examined {
        if one.area != area {
            area = one.area;
            println!("{area}");
        }
        let mark = match one.outcome {
            Outcome::Pass => '✓',
            Outcome::Skip => '-',
            Outcome::Warn => '!',
            Outcome::Fail => '✗',
        };
        println!("  {mark} {} ({})", one.title, one.id);
        if one.outcome != Outcome::Pass {
            println!("      {}", one.said);
        }
        if let Some(remedy) = &one.remedy {
            println!("      → {remedy}");
        }
    }
    println!(
        "{} fine, {} to look at, {} failed, {} do not apply",
        count(examined, Outcome::Pass),
        count(examined, Outcome::Warn),
        count(examined, Outcome::Fail),
        count(examined, Outcome::Skip)
    );
}
