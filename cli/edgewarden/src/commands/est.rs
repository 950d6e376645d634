//! The certificate from a site's own CA, by EST.

use edgewarden_names::{Reason, Refusal, UnixTime};
use edgewarden_protocol::control::{Status, questions};
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::runtime_console as runtime;

use super::ask;
use crate::exit::Problem;
use crate::output::{self, Format, until};

/// Subcommands of `est`.
#[derive(Debug, clap::Subcommand)]
pub enum Est {
    /// Shows the certificate, when it is renewed, and what is in the way.
    Status,
    /// Asks for a certificate now: renews the one that is held, or asks for a first one.
    Enroll {
        /// Ask for a first one even if one is held: with the password or certificate of the configuration alone.
        #[arg(long)]
        anew: bool,
    },
}

impl Est {
    /// Prints the site certificate's state, or has one asked for.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        match self {
            Self::Status => status(layout, format).await,
            Self::Enroll { anew } => enroll(layout, format, anew).await,
        }
    }
}

async fn enroll(layout: &Layout, format: Format, anew: bool) -> Result<(), Problem> {
    let outcome = super::runtime::ask(layout, runtime::questions::Est { anew }).await?;
    if format == Format::Json {
        return output::json(&outcome);
    }
    let now = UnixTime::now();
    match outcome {
        runtime::EstOutcome::Enrolled { not_after } => {
            println!("the site's CA has certified this gateway, ends {}", until(not_after, now));
        }
        runtime::EstOutcome::Pending { again_at } => println!(
            "the site's CA has not decided: ask its operator to approve; it is asked again {}",
            until(again_at, now)
        ),
    }
    Ok(())
}

async fn status(layout: &Layout, format: Format) -> Result<(), Problem> {
    let identity = ask(layout, questions::Status).await?;
    if identity.est.is_none() {
        let rule = "the configuration names no site's CA (`[est]`)";
        return Err(Refusal::new(Reason::EstConfig, "gateway", rule).into());
    }
    let link = super::runtime::ask(layout, runtime::questions::Status).await.ok();
    let link = link.and_then(|status| status.est);
    if format == Format::Json {
        return output::json(&serde_json::json!({
            "identity": identity.est,
            "gateway_ca_expires": identity.gateway_ca_expires,
            "runtime": link,
        }));
    }
    print(&identity, link.as_ref(), UnixTime::now());
    Ok(())
}

/// The lines about the site's CA, here and in `edgewarden status`.
pub fn print(identity: &Status, link: Option<&runtime::EstStatus>, now: UnixTime) {
    let Some(est) = &identity.est else { return };
    let held = match identity.gateway_ca_expires.filter(|_| est.certified) {
        Some(expires) => format!("certified, ends {}", until(expires, now)),
        None => "not certified yet".into(),
    };
    println!("site CA      {}, {held}", est.url);
    if let Some(since) = est.pending_since {
        println!("             a request waits for approval at the site's CA since {}", output::at(since));
    }
    match link {
        None => println!("             runtimed does not say when it is asked next"),
        Some(link) => {
            if let Some(trouble) = &link.trouble {
                let kind = if trouble.transient { "asked again by itself" } else { "needs a change first" };
                println!(
                    "             {} ({kind}, {} times, last {})",
                    trouble.refusal,
                    trouble.failures,
                    output::at(trouble.at)
                );
                println!("             next: {}", trouble.refusal.reason.next_step());
            }
        }
    }
}
