//! The order of the crates, held to: what lies above uses what lies below, `identityd` links nothing that speaks to a
//! network, what is declared pure is, and the files of a crate have an order too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

mod circles;

/// Crates of the product, lowest layer first: each uses those of lower layers only. ARCHITECTURE.md has the same order.
const LAYERS: [&[&str]; 9] = [
    &["edgewarden-names"],
    &[
        "edgewarden-protocol",
        "edgewarden-platform",
        "edgewarden-sealing",
        "edgewarden-terminal",
        "edgewarden-svid",
        "edgewarden-evidence",
        "edgewarden-ca",
        "edgewarden-mqtt",
    ],
    &[
        "edgewarden-exchange",
        "edgewarden-metrics",
        "edgewarden-transport",
        "edgewarden-policy",
        "edgewarden-appraisal",
        "edgewarden-image-trust",
        "edgewarden-workload-wire",
        "edgewarden-keystore",
        "edgewarden-est",
        "edgewarden-audit",
        "edgewarden-queue",
        "edgewarden-oci",
    ],
    &[
        "edgewarden-workload-client",
        "edgewarden-workload-server",
        "edgewarden-est-client",
        "edgewarden-state",
        "edgewarden-decisions",
    ],
    &["edgewarden-iotedge-api"],
    &["edgewarden-identityd", "edgewarden-runtimed", "edgewarden-gatewayd", "edgewarden-fleet"],
    &["edgewarden-doctor"],
    &["edgewarden"],
    // Beside the product: they drive it, and no crate of it uses them.
    &[
        "edgewarden-codegen",
        "edgewarden-simulator-tpm",
        "edgewarden-test-runner",
        "edgewarden-testkit",
        "edgewarden-tests",
        "glucose-monitor",
        "workload-client",
    ],
];

/// Crates that decide or parse, and touch nothing: no file, no socket, no runtime.
const PURE: [&str; 11] = [
    "edgewarden-names",
    "edgewarden-protocol",
    "edgewarden-svid",
    "edgewarden-sealing",
    "edgewarden-evidence",
    "edgewarden-appraisal",
    "edgewarden-image-trust",
    "edgewarden-policy",
    "edgewarden-mqtt",
    "edgewarden-est",
    "edgewarden-decisions",
];

/// Crates by which a program reads, writes, waits or connects.
const RUNTIMES: [&str; 17] = [
    "tokio",
    "mio",
    "async-std",
    "smol",
    "async-io",
    "socket2",
    "hyper",
    "hyper-util",
    "h2",
    "axum",
    "reqwest",
    "rustls",
    "tokio-rustls",
    "nix",
    "rustix",
    "edgewarden-platform",
    "edgewarden-keystore",
];

/// The standard library's ways to do so.
const OUTSIDE: [&str; 8] = [
    "std::fs",
    "std::process",
    "std::thread",
    "std::env::var",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os::unix",
    "Instant::now",
];

/// Two doors for who runs a program: an operator's key, and a daemon's configuration, read from the file that was named.
const READ_A_FILE: [&str; 2] = ["attestation/image-trust/src/sign.rs", "foundation/protocol/src/config.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .args(["--offline", "--locked"])
        .current_dir(root())
        // However the build that runs this unites features: asked is what a crate brings by itself.
        .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

struct Package {
    folder: PathBuf,
    /// Of the workspace, for its code; what its tests use may lie above.
    uses: BTreeSet<String>,
}

fn packages() -> BTreeMap<String, Package> {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let package = |package: &Value| {
        let is_used = |one: &&Value| one["path"].is_string() && one["kind"] != "dev";
        let uses = package["dependencies"].as_array().unwrap().iter().filter(is_used);
        let folder = Path::new(&text(&package["manifest_path"])).parent().unwrap().to_owned();
        (text(&package["name"]), Package { folder, uses: uses.map(|one| text(&one["name"])).collect() })
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

/// Files of a package's code, with their text; those that are tests by their names are not among them.
fn sources(package: &Path) -> Vec<(PathBuf, String)> {
    let mut sources = Vec::new();
    let mut next = vec![package.join("src")];
    while let Some(path) = next.pop() {
        if path.is_dir() {
            next.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let is_test = path.file_name().is_some_and(|name| name == "tests.rs")
            || path.parent().is_some_and(|folder| folder.ends_with("tests"));
        if !is_test && path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            sources.push((path, text));
        }
    }
    sources
}

/// Crates that a package links, each with its features, as its own build would have them.
fn linked(package: &str) -> BTreeMap<String, BTreeSet<String>> {
    let tree = cargo(&[
        "tree",
        "--package",
        package,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}|{f}",
    ]);
    let mut linked = BTreeMap::<String, BTreeSet<String>>::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, features) = line.split_once('|').unwrap();
        let name = package.split(' ').next().unwrap().to_owned();
        let features = features.trim_end_matches(" (*)").split(',').filter(|feature| !feature.is_empty());
        linked.entry(name).or_default().extend(features.map(str::to_owned));
    }
    assert!(linked.contains_key(package), "{tree}");
    linked
}

#[test]
fn a_crate_uses_what_lies_lower() {
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let packages = packages();
    let mut wrong = Vec::new();
    for (name, package) in &packages {
        let Some(own) = layer(name) else {
            wrong.push(format!("{name} is in no layer"));
            continue;
        };
        let is_beside = own + 1 == LAYERS.len();
        let above = package
            .uses
            .iter()
            .filter(|used| layer(used).is_none_or(|used| if is_beside { used > own } else { used >= own }));
        wrong.extend(above.map(|used| format!("{name} uses {used}, which does not lie lower")));
    }
    let gone = LAYERS.iter().copied().flatten().filter(|name| !packages.contains_key(**name));
    wrong.extend(gone.map(|name| format!("there is no crate {name}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn identityd_links_nothing_that_speaks_to_a_network() {
    let linked = linked("edgewarden-identityd");
    for client in [
        "reqwest",
        "ureq",
        "hyper-rustls",
        "tokio-rustls",
        "rustls",
        "edgewarden-transport",
        "edgewarden-est-client",
        "edgewarden-workload-client",
        "edgewarden-oci",
    ] {
        assert!(!linked.contains_key(client), "identityd links {client}");
    }
    for (name, client) in
        [("hyper", "client"), ("hyper-util", "client"), ("tonic", "channel"), ("tonic", "transport")]
    {
        let features = linked.get(name).unwrap_or_else(|| panic!("identityd does not link {name}"));
        let found = features.iter().find(|feature| feature.starts_with(client));
        assert!(found.is_none(), "identityd links {name} with {found:?}");
    }
}

#[test]
fn what_is_declared_pure_touches_nothing() {
    let packages = packages();
    for name in PURE {
        let linked = linked(name);
        for runtime in RUNTIMES {
            assert!(!linked.contains_key(runtime), "{name} links {runtime}");
        }
        for (path, text) in sources(&packages[name].folder) {
            if READ_A_FILE.iter().any(|file| path == root().join(file)) {
                continue;
            }
            // A file's tests are at its end, and may do as they like.
            let code = text.split("#[cfg(test)]").next().unwrap();
            for outside in OUTSIDE {
                assert!(!code.contains(outside), "{} has {outside}", path.display());
            }
        }
    }
}

#[test]
fn files_of_a_crate_import_each_other_in_no_circle() {
    let mut found = Vec::new();
    for (name, package) in packages() {
        let below = |path: &Path| path.strip_prefix(package.folder.join("src")).unwrap().to_owned();
        // `main.rs` beside a `lib.rs`, and what lies in `bin`, are crates of their own, of one file.
        let is_lib = package.folder.join("src/lib.rs").exists();
        let is_other = |path: &Path| path.starts_with("bin") || (is_lib && path == Path::new("main.rs"));
        let files = sources(&package.folder).into_iter().map(|(path, text)| (below(&path), text));
        let files = files.filter(|(path, _)| !is_other(path));
        let files = files.map(|(path, text)| (path.to_str().unwrap().to_owned(), text)).collect();
        found.extend(circles::circles(&files).into_iter().map(|circle| format!("in {name}: {circle}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
