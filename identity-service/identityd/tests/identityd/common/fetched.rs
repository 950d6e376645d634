//! Packages that a test needs, fetched once. Without their package manager or a network the test is skipped.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Longest time for fetching before the test is skipped.
const PATIENCE_SECONDS: &str = "150";

/// A folder beneath the target folder.
pub fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A folder that a command fills, kept for the next run. `None` when the command cannot be run or fails.
pub fn set_up(name: &str, fill: impl FnOnce(&Path) -> Command) -> Option<PathBuf> {
    let folder = kept(name);
    if folder.is_dir() {
        return Some(folder);
    }
    let partial = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let inner = partial.path().join("sdk");
    std::fs::create_dir(&inner).unwrap();
    let filling = fill(&inner);
    let mut command = Command::new("timeout");
    command.arg(PATIENCE_SECONDS).arg(filling.get_program()).args(filling.get_args());
    command.envs(filling.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.current_dir(filling.get_current_dir().unwrap_or(&inner));
    let filled = command.stdin(Stdio::null()).output().unwrap();
    if !filled.status.success() {
        let said = [filled.stdout, filled.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        // A program that is wrong is no reason to skip its test.
        assert!(!said.iter().any(|text| text.contains("COMPILATION ERROR")), "{said:?}");
        let last = said[1].lines().next_back().or(said[0].lines().next_back()).unwrap_or_default();
        eprintln!("skipped: `{filling:?}` does not succeed here ({}: {last})", filled.status);
        eprintln!("skipped: is its program installed, and is there a network?");
        return None;
    }
    // Another test program may have been faster.
    drop(std::fs::rename(&inner, &folder));
    Some(folder)
}

/// A name that changes with these files, and with the version that a program says it has. `None` when there is no such
/// program.
pub fn name_of(what: &str, version: &[&str], files: &[PathBuf]) -> Option<String> {
    let mut program = Command::new(version[0]);
    let Ok(said) = program.args(&version[1..]).stdin(Stdio::null()).output() else {
        eprintln!("skipped: there is no `{}` on this machine", version[0]);
        return None;
    };
    let mut hasher = DefaultHasher::new();
    (said.stdout, said.stderr).hash(&mut hasher);
    for file in files {
        std::fs::read(file).unwrap().hash(&mut hasher);
    }
    Some(format!("{what}-{:016x}", hasher.finish()))
}
