//! Each next step that a refusal names can be taken: its commands and flags are there.

use clap::{Command, CommandFactory as _};
use edgewarden_names::Reason;

/// The commands in backticks of a text that begin with this program's name.
fn commands_of<'t>(text: &'t str, program: &'t str) -> impl Iterator<Item = Vec<&'t str>> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(move |quoted| {
        let mut words = quoted.split_ascii_whitespace();
        (words.next() == Some(program)).then(|| words.collect())
    })
}

/// The first word of a command line that is no command or flag of `program`. Words in capitals stand for values.
fn unknown(program: &Command, words: &[&str]) -> Option<String> {
    let mut command = program;
    for word in words {
        let is_value = !word.starts_with("--") && word.chars().any(|c| c.is_ascii_uppercase());
        if is_value {
            continue;
        }
        if let Some(flag) = word.strip_prefix("--") {
            let known = |argument: &clap::Arg| argument.get_long() == Some(flag);
            if !command.get_arguments().chain(program.get_arguments()).any(known) {
                return Some((*word).to_owned());
            }
        } else {
            match command.find_subcommand(word) {
                Some(next) => command = next,
                None => return Some((*word).to_owned()),
            }
        }
    }
    None
}

#[test]
fn every_hint_names_commands_and_flags_that_exist() {
    let programs = [
        ("edgewarden", crate::Arguments::command()),
        ("edgewarden-fleet", edgewarden_fleet::command::Arguments::command()),
    ];
    let mut named = 0;
    for reason in Reason::ALL {
        for (name, program) in &programs {
            for words in commands_of(reason.next_step(), name) {
                named += 1;
                assert_eq!(unknown(program, &words), None, "{reason}: {words:?} of `{}`", reason.next_step());
            }
        }
    }
    assert!(named > 10, "{named}");
}

#[test]
fn what_is_not_there_is_found() {
    let program = crate::Arguments::command();
    for (line, expected) in [
        ("status", None),
        ("policy explain FROM TO", None),
        ("deployment show --output json", None),
        ("attest show", Some("show")),
        ("policy explain --why", Some("--why")),
        ("launch", Some("launch")),
    ] {
        let words: Vec<&str> = line.split(' ').filter(|word| *word != "json").collect();
        assert_eq!(unknown(&program, &words).as_deref(), expected, "{line}");
    }
    assert_eq!(commands_of("see `edgewarden status` and `ls`, or `edgewarden up`", "edgewarden").count(), 2);
}
