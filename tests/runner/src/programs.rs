//! The test programs that cargo built.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::choice::Choice;
use crate::problem::Problem;

/// One test program, built and ready to run.
#[derive(Debug)]
pub struct Program {
    /// Its package without the product's name: `mqtt`; and the target, where that is not the package's tests:
    /// `mqtt/edgewarden_mqtt`.
    pub name: String,
    pub path: PathBuf,
    /// The folder of its package, where cargo runs it.
    pub folder: PathBuf,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    profile: Option<Profile>,
    target: Option<Target>,
    manifest_path: Option<PathBuf>,
    package_id: Option<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    src_path: PathBuf,
}

/// Builds what was chosen, with the product's programs where tests run them. The largest is first.
pub fn build(choice: &Choice) -> Result<Vec<Program>, Problem> {
    let run = |source| Problem::Run { program: "cargo".into(), source };
    if choice.runs_programs {
        let built = Command::new("cargo")
            .args(["build", "--workspace", "--bins", "--locked"])
            .status()
            .map_err(run)?;
        if !built.success() {
            return Err(Problem::Build);
        }
    }
    let mut programs = Vec::new();
    for arguments in &choice.builds {
        build_once(arguments, &mut programs)?;
    }
    // The largest first: one that begins last is what everybody waits for.
    programs.sort_by_cached_key(|program| {
        let bytes = std::fs::metadata(&program.path).map_or(0, |file| file.len());
        (std::cmp::Reverse(bytes), program.name.clone())
    });
    Ok(programs)
}

fn build_once(arguments: &[String], programs: &mut Vec<Program>) -> Result<(), Problem> {
    let run = |source| Problem::Run { program: "cargo".into(), source };
    let mut cargo = Command::new("cargo")
        .args(["test", "--locked", "--no-run", "--message-format", "json-render-diagnostics"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(run)?;
    for line in cargo.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
        let message: Message =
            serde_json::from_str(&line.map_err(run)?).map_err(|error| Problem::Cargo(error.to_string()))?;
        programs.extend(message.program());
    }
    if cargo.wait().map_err(run)?.success() { Ok(()) } else { Err(Problem::Build) }
}

/// `edgewarden-mqtt` of `path+file:///…/mqtt#edgewarden-mqtt@0.1.0`, and `doctor` of `path+file:///…/doctor#0.1.0`.
fn name(id: &str) -> &str {
    let (path, end) = id.rsplit_once('#').unwrap_or((id, ""));
    match end.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or_default(),
    }
}

impl Message {
    fn program(self) -> Option<Program> {
        if self.reason != "compiler-artifact" || !self.profile?.test {
            return None;
        }
        let id = self.package_id.unwrap_or_default();
        let package = name(&id);
        let package = package.strip_prefix("edgewarden-").unwrap_or(package);
        let target = self.target?;
        let is_all = target.kind.iter().any(|kind| kind == "test") && target.src_path.ends_with("main.rs");
        Some(Program {
            name: if is_all { package.to_owned() } else { format!("{package}/{}", target.name) },
            path: self.executable?,
            folder: self.manifest_path?.parent()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_package_is_named_whatever_its_folder_is() {
        for (id, name) in [
            ("path+file:///w/gateway/mqtt#edgewarden-mqtt@0.1.0", "edgewarden-mqtt"),
            ("path+file:///w/examples/glucose-monitor#0.1.0", "glucose-monitor"),
        ] {
            assert_eq!(super::name(id), name);
        }
    }
}
