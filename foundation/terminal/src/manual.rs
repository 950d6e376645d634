//! Manual pages.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man;

use crate::visible::visible;

/// `man FOLDER`
#[derive(Debug, Args)]
pub struct Manual {
    /// Made where it is not there.
    folder: PathBuf,
}

/// A folder that does not take the pages.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the manual into `{}`", folder.display())]
pub struct ManualError {
    folder: PathBuf,
    source: io::Error,
}

impl Manual {
    /// Writes a page of section 1 for `program` and one for each of its commands, `edgewarden-policy-explain.1`. What help
    /// hides has none.
    pub fn write(&self, program: &Command) -> Result<(), ManualError> {
        let mut shown = visible(program).disable_help_subcommand(true);
        shown.build();
        let source = format!("{} {}", program.get_name(), program.get_version().unwrap_or_default());
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| pages(shown, &source, &self.folder))
            .map_err(|source| ManualError { folder: self.folder.clone(), source })
    }
}

fn pages(command: Command, source: &str, folder: &Path) -> io::Result<()> {
    for inner in command.get_subcommands() {
        pages(inner.clone(), source, folder)?;
    }
    Man::new(command).source(source).manual("Edgewarden").generate_to(folder).map(drop)
}
