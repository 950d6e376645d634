//! Completions of a shell.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::visible::visible;

/// `completions SHELL`
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell that is to complete.
    shell: Shell,
}

impl Completions {
    /// The shell's script for `program`, without what its help hides.
    pub fn script(&self, program: &Command) -> String {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut visible(program), program.get_name(), &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}
