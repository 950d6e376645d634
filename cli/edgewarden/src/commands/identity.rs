//! Commands that `identityd` answers: leaf devices.

use edgewarden_names::LeafName;
use edgewarden_protocol::control::questions;
use edgewarden_protocol::layout::Layout;

use super::ask;
use crate::exit::Problem;
use crate::output::{self, Format};

/// Subcommands of `leaf`.
#[derive(Debug, clap::Subcommand)]
pub enum Leaf {
    /// Makes a one-time token with which a declared leaf device enrols. Prints it once.
    Allow {
        leaf: LeafName,
        /// Life of the token in seconds: until the machine is started again at most.
        #[arg(long, default_value_t = 3600)]
        lifetime: u32,
    },
}

impl Leaf {
    /// Prints a new one-time token.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        let Self::Allow { leaf, lifetime } = self;
        let allowed = ask(layout, questions::LeafAllow { leaf, lifetime_seconds: lifetime }).await?;
        if format == Format::Json {
            return output::json(&allowed);
        }
        println!("{}", allowed.token.reveal());
        Ok(())
    }
}
