//! Options that all commands have, and labels as arguments.

use std::path::PathBuf;

use clap::Args;

use super::client;
use super::exit::Stop;
use super::output::Format;
use crate::data_dir::DataDir;
use crate::selection::Labels;

/// Options of every command: the fleet, its server, the form of answers.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The fleet's folder; or the variable `EDGEWARDEN_FLEET_DATA`.
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The server, `https://host:port`; the one on this machine when absent.
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// Form of answers on standard output.
    #[arg(short = 'o', long = "output", global = true, default_value = "text")]
    format: Format,
}

impl Common {
    pub(super) fn data(&self) -> Result<DataDir, Stop> {
        let folder = self.data.clone().or_else(|| std::env::var_os("EDGEWARDEN_FLEET_DATA").map(Into::into));
        folder
            .map(DataDir::new)
            .ok_or_else(|| Stop::usage("which fleet? give `--data DIR` or set EDGEWARDEN_FLEET_DATA"))
    }

    pub(super) fn admin(&self) -> Result<client::Admin, Stop> {
        client::Admin::connect(&self.data()?, self.server.as_deref())
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }
}

/// `key=value`
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.into(), value.into())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

/// Each key once: of two values, neither is what the operator meant.
pub(super) fn distinct(pairs: Vec<(String, String)>) -> Result<Labels, Stop> {
    let mut labels = Labels::new();
    for (key, value) in pairs {
        if labels.contains_key(&key) {
            return Err(Stop::usage(format!("the label `{key}` is there twice")));
        }
        labels.insert(key, value);
    }
    Ok(labels)
}
