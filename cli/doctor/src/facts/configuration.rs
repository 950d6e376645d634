//! `config.toml` and the files that it pins.

use edgewarden_names::{ErrorChain, pem};
use std::path::{Path, PathBuf};

use edgewarden_ca::{CaError, chain, spki};
use edgewarden_protocol::config::{Config, ConfigError};
use edgewarden_protocol::layout::Layout;

use super::{Read, text};

/// Outcome of reading `config.toml`. The text is the reason.
#[derive(Debug, Clone)]
pub enum ConfigState {
    /// Not there, or not to be read.
    Missing(String),
    /// Not what the format says, or with keys that nobody knows.
    Invalid(String),
    /// A value that is out of range or does not fit another.
    Range(String),
    Good(Box<Config>),
}

/// Facts about `config.toml` and the files that it pins.
#[derive(Debug, Clone)]
pub struct Configuration {
    pub path: PathBuf,
    pub state: ConfigState,
    /// The pinned root: its DER and what it says. `None` without a fleet.
    pub root: Option<Read<(Vec<u8>, chain::Facts)>>,
    /// Each pinned operator key, or what is wrong with it.
    pub operator_keys: Vec<(PathBuf, Read<()>)>,
}

/// Reads `config.toml`, the pinned root and the operators' keys.
pub fn gather(layout: &Layout) -> Configuration {
    let path = layout.config_file();
    // Bounded before the parser, which reads the file whole.
    let state = match text(&path) {
        Err(why) => ConfigState::Missing(why),
        Ok(_) => match Config::load(&path) {
            Ok(config) => ConfigState::Good(Box::new(config)),
            Err(error @ ConfigError::Read { .. }) => ConfigState::Missing(ErrorChain(&error).to_string()),
            Err(
                error @ (ConfigError::Range { .. }
                | ConfigError::Outlives { .. }
                | ConfigError::TwoCertifiers { .. }),
            ) => ConfigState::Range(error.to_string()),
            Err(error @ ConfigError::Parse { .. }) => ConfigState::Invalid(error.to_string()),
        },
    };
    let fleet = match &state {
        ConfigState::Good(config) => config.fleet.as_ref(),
        _ => None,
    };
    let root = fleet.map(|fleet| certificate(&fleet.root));
    let keys = match &state {
        ConfigState::Good(config) => config.operator_keys(),
        _ => &[],
    };
    let operator_keys = keys.iter().map(|path| (path.clone(), key(path))).collect();
    Configuration { path, state, root, operator_keys }
}

fn certificate(path: &Path) -> Read<(Vec<u8>, chain::Facts)> {
    let text = text(path)?;
    let read = pem::one(&text, pem::CERTIFICATE)
        .map_err(CaError::from)
        .and_then(|der| chain::facts(&der).map(|facts| (der, facts)));
    read.map_err(|error| format!("`{}`: {}", path.display(), ErrorChain(&error)))
}

fn key(path: &Path) -> Read<()> {
    let text = text(path)?;
    spki::point_of_pem(&text).map(drop).map_err(|error| ErrorChain(&error).to_string())
}
