//! SoftHSM2 in a process of its own: its configuration is in an environment variable, which a process with threads cannot
//! safely set. So a test runs itself again, with a folder of tokens for it alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use edgewarden_protocol::config;
use tempfile::TempDir;

const CONFIGURATION: &str = "SOFTHSM2_CONF";
const LABEL: &str = "gateway";
const PIN: &str = "correct horse";
/// Paths of the SoftHSM library on the distributions.
const LIBRARIES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];

/// True in the process that has a token. Elsewhere runs the test of this name again, there.
pub fn is_inside(test: &str) -> bool {
    if std::env::var_os(CONFIGURATION).is_some() {
        return true;
    }
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("tokens")).unwrap();
    let file = folder.path().join("softhsm2.conf");
    let tokens = folder.path().join("tokens");
    let lines = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    std::fs::write(&file, lines).unwrap();
    let mut make = Command::new("softhsm2-util");
    make.args(["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "officer"]);
    assert!(make.env(CONFIGURATION, &file).status().unwrap().success());
    // In no cgroup of its own, but without what this process has open.
    let mut again = Command::new("bash");
    again.args(["-c", super::container::ENTER, "/dev/null"]).arg(std::env::current_exe().unwrap());
    again.args(["--exact", test, "--nocapture"]).env(CONFIGURATION, &file);
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// The configuration of a gateway whose keys are in the token.
pub fn keystore(folder: &Path) -> config::Keystore {
    let pin_file = folder.join("pin");
    std::fs::write(&pin_file, PIN).unwrap();
    super::restrict(&pin_file);
    let module = LIBRARIES.into_iter().map(PathBuf::from).find(|path| path.exists());
    config::Keystore::Pkcs11 {
        module: module.expect("SoftHSM2 is not installed (package softhsm2)"),
        token: LABEL.into(),
        pin_file,
        library_files: Vec::new(),
    }
}
