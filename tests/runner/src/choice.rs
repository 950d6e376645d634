//! What a name means: a package, a file of tests, or a part of a test's name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::Problem;

/// What to build, as arguments of `cargo test`, and which tests to run of it.
#[derive(Debug)]
pub struct Choice {
    pub cargo: Vec<String>,
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
    pub fn all() -> Self {
        Self { cargo: vec!["--workspace".into()], filter: None, runs_programs: true }
    }

    /// The features are always those of the workspace: with others, cargo would build the dependencies once more.
    pub fn named(name: &str, root: &Path) -> Result<Self, Problem> {
        let packages = packages(root)?;
        if let Some(package) = packages
            .iter()
            .find(|package| package.name == name || package.name == format!("edgewarden-{name}"))
        {
            let cargo = vec!["--package".into(), package.name.clone()];
            return Ok(Self { cargo, filter: None, runs_programs: package.name == FROM_OUTSIDE });
        }
        let with_file: Vec<_> =
            packages.iter().filter(|package| package.test_files().any(|file| file.name == name)).collect();
        if !with_file.is_empty() {
            let runs_programs = with_file.iter().any(|package| package.name == FROM_OUTSIDE);
            return Ok(Self { cargo: test_target(name).into(), filter: None, runs_programs });
        }
        let mut cargo = BTreeSet::new();
        let mut runs_programs = false;
        for package in &packages {
            let before = cargo.len();
            package.targets_with(name, &mut cargo)?;
            runs_programs |= cargo.len() > before && package.name == FROM_OUTSIDE;
        }
        if cargo.is_empty() {
            return Err(Problem::Unknown(name.to_owned()));
        }
        Ok(Self {
            cargo: cargo.into_iter().flatten().collect(),
            filter: Some(name.to_owned()),
            runs_programs,
        })
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

fn test_target(name: &str) -> [String; 3] {
    ["--workspace".into(), "--test".into(), name.to_owned()]
}

impl Package {
    fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("/"))
    }

    fn test_files(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "test"))
    }

    /// The targets one of whose files has a function with this in its name.
    fn targets_with(&self, part: &str, cargo: &mut BTreeSet<Vec<String>>) -> Result<(), Problem> {
        for target in self.test_files() {
            // A folder beside it holds its parts.
            let beside = target.src_path.with_extension("");
            if defines(&target.src_path, part)? || (beside.is_dir() && any_defines(&beside, part)?) {
                cargo.insert(test_target(&target.name).into());
            }
        }
        let sources = self.folder().join("src");
        if sources.is_dir() && any_defines(&sources, part)? {
            cargo.insert(vec!["--package".into(), self.name.clone(), "--lib".into(), "--bins".into()]);
        }
        Ok(())
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

/// Whether a test of the file, or the module that it is, has this in its name.
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
