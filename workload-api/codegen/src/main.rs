//! Generated code of the Workload API socket: writes it, from `workload-api/proto`, into `workload-wire` and beside the
//! sources. Needs no protoc.
//!
//! Its output is kept in the tree, so that a build of the product needs none of this; a test holds both to each other.

mod generate;

use std::path::Path;
use std::process::ExitCode;

use crate::generate::{GenerateError, generate};

fn write(root: &Path) -> Result<(), GenerateError> {
    for (path, bytes) in generate(root)? {
        let path = root.join(path);
        std::fs::write(&path, bytes).map_err(|source| GenerateError::File { path, source })?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match write(&generate::workload_api()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_what_is_generated() {
        let root = generate::workload_api();
        for (path, bytes) in generate(&root).unwrap() {
            let kept = std::fs::read(root.join(&path)).unwrap_or_default();
            assert!(kept == bytes, "{} differs: cargo run -p edgewarden-codegen", path.display());
        }
    }
}
