//! Meaning of a name: a package, a file of tests, or a part of a test's name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::problem::Problem;

/// The test programs to build, and the tests to run of them.
#[derive(Debug)]
pub struct Choice {
    /// Arguments of `cargo test`, for each time that it is called.
    pub builds: Vec<Vec<String>>,
    /// Part of a test's name.
    pub filter: Option<String>,
    /// The product's programs are run by one of the tests.
    pub runs_programs: bool,
}

/// The package whose tests run the product as its users do. Those of every other link what they test.
const FROM_OUTSIDE: &str = "edgewarden-tests";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    src_path: PathBuf,
}

impl Choice {
    /// Every test of the workspace.
    pub fn all() -> Self {
        Self { builds: vec![vec!["--workspace".into()]], filter: None, runs_programs: true }
    }

    /// Files of tests are built with the features of the workspace, as `./ew test` builds them. A package alone has its own
    /// features, so that the first time its dependencies may be compiled once more.
    pub fn named(name: &str, root: &Path) -> Result<Self, Problem> {
        let packages = packages(root)?;
        if let Some(package) = packages
            .iter()
            .find(|package| package.name == name || package.name == format!("edgewarden-{name}"))
        {
            let build = vec!["--package".into(), package.name.clone()];
            return Ok(Self {
                builds: vec![build],
                filter: None,
                runs_programs: package.name == FROM_OUTSIDE,
            });
        }
        let mut with_file = Vec::new();
        for package in &packages {
            with_file.extend(package.programs_of(name).map(|target| (package, target)));
        }
        if !with_file.is_empty() {
            let runs_programs = with_file.iter().any(|(package, _)| package.name == FROM_OUTSIDE);
            let build = test_programs(with_file.iter().map(|(_, target)| target.name.as_str()));
            // A program that is the file runs whole.
            let is_part = with_file.iter().any(|(_, target)| target.name != name);
            return Ok(Self {
                builds: vec![build],
                filter: is_part.then(|| format!("{name}::")),
                runs_programs,
            });
        }
        let (mut programs, mut builds, mut runs_programs) = (BTreeSet::new(), Vec::new(), false);
        for package in &packages {
            let found = package.test_programs_with(name)?;
            runs_programs |= !found.is_empty() && package.name == FROM_OUTSIDE;
            programs.extend(found);
            builds.extend(package.unit_tests_with(name)?);
        }
        if !programs.is_empty() {
            builds.push(test_programs(programs));
        }
        if builds.is_empty() {
            return Err(Problem::Unknown(name.to_owned()));
        }
        Ok(Self { builds, filter: Some(name.to_owned()), runs_programs })
    }
}

fn packages(root: &Path) -> Result<Vec<Package>, Problem> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .map_err(|source| Problem::Run { program: "cargo metadata".into(), source })?;
    if !output.status.success() {
        return Err(Problem::Cargo(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).map_err(|error| Problem::Cargo(error.to_string()))?;
    Ok(metadata.packages)
}

/// Cargo takes `--workspace` once only.
fn test_programs<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let each = names.into_iter().flat_map(|name| ["--test".to_owned(), name.to_owned()]);
    std::iter::once("--workspace".to_owned()).chain(each).collect()
}

impl Package {
    fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("/"))
    }

    fn test_programs(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "test"))
    }

    /// The test programs that are this file, or of which it is a part.
    fn programs_of(&self, file: &str) -> impl Iterator<Item = &Target> {
        let part = format!("{file}.rs");
        self.test_programs().filter(move |target| match target.parts() {
            Some(folder) => folder.join(&part).is_file(),
            None => target.name == file,
        })
    }

    /// The test programs in which a test has this in its name.
    fn test_programs_with(&self, part: &str) -> Result<Vec<&str>, Problem> {
        let mut found = Vec::new();
        for target in self.test_programs() {
            let defines = match target.parts() {
                Some(folder) => any_defines(folder, part)?,
                None => defines(&target.src_path, part)?,
            };
            if defines {
                found.push(target.name.as_str());
            }
        }
        Ok(found)
    }

    /// Arguments of `cargo test` that build its own tests, if one of them has this in its name.
    fn unit_tests_with(&self, part: &str) -> Result<Option<Vec<String>>, Problem> {
        let sources = self.folder().join("src");
        if !sources.is_dir() || !any_defines(&sources, part)? {
            return Ok(None);
        }
        let mut build = vec!["--package".to_owned(), self.name.clone()];
        // Cargo refuses `--lib` where there is none.
        for (kind, flag) in [("lib", "--lib"), ("bin", "--bins")] {
            if self.targets.iter().any(|target| target.kind.iter().any(|known| known == kind)) {
                build.push(flag.to_owned());
            }
        }
        Ok(Some(build))
    }
}

impl Target {
    /// The folder of a program that has several files.
    fn parts(&self) -> Option<&Path> {
        self.src_path.parent().filter(|_| self.src_path.ends_with("main.rs"))
    }
}

fn any_defines(folder: &Path, part: &str) -> Result<bool, Problem> {
    let read = |source| Problem::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let found = match path.extension() {
            _ if path.is_dir() => any_defines(&path, part)?,
            Some(ending) if ending == "rs" => defines(&path, part)?,
            _ => false,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `true` when a test of the file has this in its name.
fn defines(file: &Path, part: &str) -> Result<bool, Problem> {
    let text = fs::read_to_string(file).map_err(|source| Problem::Read { path: file.to_owned(), source })?;
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, rest)) = line.split_once("fn ") {
            if is_test && rest.split('(').next().is_some_and(|name| name.contains(part)) {
                return Ok(true);
            }
            is_test = false;
        }
    }
    Ok(false)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use super::*;

    fn named(name: &str) -> Choice {
        Choice::named(name, &Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
    }

    /// `hint` is in the names of tests in several programs, of packages with a library and of one without.
    #[test]
    fn a_name_in_several_programs_is_what_cargo_takes() {
        let choice = named("hint");
        let files = choice.builds.iter().flatten().filter(|argument| *argument == "--test").count();
        assert!(files > 1 && choice.builds.len() > 1, "{choice:?}");
        for build in &choice.builds {
            let count = |flag: &str| build.iter().filter(|argument| *argument == flag).count();
            assert_eq!(count("--workspace") + count("--package"), 1, "{build:?}");
        }
        let of_cli = choice.builds.iter().find(|build| build.iter().any(|argument| argument == "edgewarden"));
        assert_eq!(of_cli.unwrap()[2..], ["--bins"]);
    }

    #[test]
    fn packages_and_files_are_found_by_their_names() {
        assert_eq!(named("mqtt").builds, [["--package", "edgewarden-mqtt"]]);
        let broker = named("broker");
        assert_eq!(broker.builds, [["--workspace", "--test", "mqtt", "--test", "gatewayd"]]);
        assert_eq!(broker.filter.as_deref(), Some("broker::"));
        let alone = named("checks");
        assert_eq!(
            (alone.builds, alone.filter),
            (vec![vec!["--workspace".into(), "--test".into(), "checks".into()]], None)
        );
        assert!(named("chaos").runs_programs && !named("broker").runs_programs);
        let unknown =
            Choice::named("no_test_has_this_name_", &Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
        assert!(matches!(unknown, Err(Problem::Unknown(_))));
    }
}
