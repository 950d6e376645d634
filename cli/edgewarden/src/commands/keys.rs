//! Keys and secrets that modules keep in the gateway's keystore: what there is, never the keys.

use edgewarden_names::{KeyName, ModuleName};
use edgewarden_protocol::control::{ResidentKey, questions};
use edgewarden_protocol::layout::Layout;

use super::ask;
use crate::exit::Problem;
use crate::output::{self, Format};

/// Subcommands of `keys`.
#[derive(Debug, clap::Subcommand)]
pub enum Keys {
    /// Shows the keys of all modules, or of one.
    List {
        #[arg(long)]
        module: Option<ModuleName>,
    },
    /// Destroys a key for good, such as one of a module that is no longer deployed.
    Delete { module: ModuleName, key: KeyName },
}

impl Keys {
    /// Prints the names of modules' keys, or destroys one.
    pub async fn run(self, layout: &Layout, format: Format) -> Result<(), Problem> {
        match self {
            Self::Delete { module, key } => ask(layout, questions::KeyDelete { module, key }).await,
            Self::List { module } => {
                let mut keys = ask(layout, questions::KeysList).await?;
                keys.retain(|key| module.as_ref().is_none_or(|module| key.module == *module));
                show(&keys, format)
            }
        }
    }
}

fn show(keys: &[ResidentKey], format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        return output::json(&keys);
    }
    let row = |key: &ResidentKey| {
        vec![
            key.module.to_string(),
            key.name.to_string(),
            key.purpose.clone(),
            output::at(key.created),
            key.uses.to_string(),
        ]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    output::table(&["MODULE", "KEY", "FOR", "CREATED", "USES"], &rows);
    Ok(())
}
