//! `edgewarden clock`: what time the gateway goes by, and the operator's word on it.

use clap::{Args, Subcommand};
use edgewarden_names::UnixTime;
use edgewarden_protocol::control::{TimeStatus, questions};
use edgewarden_protocol::layout::Layout;

use super::ask;
use crate::exit::Problem;
use crate::output::{self, Format, until};

/// Arguments of `clock`.
#[derive(Debug, Args)]
pub struct Clock {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say that the system clock is right: it is believed at once.
    Accept,
}

impl Clock {
    /// Prints the time that the gateway goes by; `accept` first takes the system clock's.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        if let Some(Action::Accept) = self.action {
            ask(layout, questions::TimeAccept).await?;
        }
        let time = ask(layout, questions::Status).await?.time;
        if format == Format::Json {
            return output::json(&time);
        }
        print(&time);
        Ok(())
    }
}

/// Prints the gateway's time in one or two lines.
pub fn print(time: &TimeStatus) {
    println!("time         {}, by {}", output::at(time.now), time.by.text());
    let Some(doubted) = &time.doubted else { return };
    let away = difference(doubted.shows, time.now);
    let then = match doubted.believed_from {
        Some(from) => format!("it is believed {} if nothing speaks against it", until(from, doubted.shows)),
        None => "it is not believed unless a time service, the fleet or you vouch for it".into(),
    };
    println!("  the system clock shows {}, {away}: {then}", output::at(doubted.shows));
    println!("  if it is right: `edgewarden clock accept`; if not: set it, or start a time service");
}

fn difference(shows: UnixTime, now: UnixTime) -> String {
    if shows > now {
        format!("{} s ahead", shows.after(now).as_secs())
    } else {
        format!("{} s behind", now.after(shows).as_secs())
    }
}
