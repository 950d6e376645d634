//! The documents say what is so: a test that they name exists, a file that they lead to is there.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file of this ending, but for what the build made.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                files(&path, ending, found);
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

fn all(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root(), ending, &mut found);
    found
}

/// Texts between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut seen = 0;
    let mut missing = Vec::new();
    for document in all(".md") {
        let text = fs::read_to_string(&document).unwrap();
        for (file, test) in quoted(&text).filter_map(|quoted| quoted.split_once(".rs::")) {
            seen += 1;
            let source = fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
            if !source.contains(&format!("fn {test}(")) {
                missing.push(format!("{}: `{file}.rs::{test}`", document.display()));
            }
        }
    }
    assert!(seen > 20, "only {seen} tests are named: has their form changed?");
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
}

#[test]
fn every_file_that_a_document_leads_to_is_there() {
    let mut missing = Vec::new();
    for document in all(".md") {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split('#').next().unwrap_or_default();
            if !link.contains("://") && !file.is_empty() && !document.with_file_name(file).exists() {
                missing.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "links to nothing:\n{}", missing.join("\n"));
}

#[test]
fn unsafe_code_is_in_one_crate() {
    // The workspace forbids it, and the forbidding cannot be lifted further down; a crate that does not take the
    // workspace's lints would escape.
    let mut lifted = Vec::new();
    for manifest in all("Cargo.toml") {
        let text = fs::read_to_string(&manifest).unwrap();
        let of_the_workspace = text.contains("[lints]\nworkspace = true") || text.contains("[workspace]");
        if !of_the_workspace {
            lifted.push(manifest.strip_prefix(root()).unwrap().to_owned());
        }
    }
    assert_eq!(lifted, [Path::new("foundation/platform/Cargo.toml")]);
    assert!(fs::read_to_string(root().join("Cargo.toml")).unwrap().contains("unsafe_code = \"forbid\""));
}
