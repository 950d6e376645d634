//! Commands without what their help hides.

use clap::Command;

/// A copy of `program` for those who describe it. It parses nothing as `program` does.
pub fn visible(program: &Command) -> Command {
    let mut copy = Command::new(program.get_name().to_owned())
        .args(program.get_arguments().filter(|argument| !argument.is_hide_set()).cloned())
        .groups(program.get_groups().cloned())
        .subcommands(program.get_subcommands().filter(|command| !command.is_hide_set()).map(visible))
        .subcommand_required(program.is_subcommand_required_set());
    if let Some(version) = program.get_version() {
        copy = copy.version(version.to_owned());
    }
    if let Some(about) = program.get_about() {
        copy = copy.about(about.clone());
    }
    if let Some(about) = program.get_long_about() {
        copy = copy.long_about(about.clone());
    }
    copy
}
