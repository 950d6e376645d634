//! A place of its own: new network, mount and process namespaces, so that tests run side by side on fixed ports
//! and nothing outlives them. The kernel ends every process, mount and interface in it when its first process ends.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set inside a sandbox.
const MARK: &str = "EDGEWARDEN_SANDBOX";

/// A command that runs `program` as the first process of a new sandbox.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(program)
        .env(MARK, "1");
    command
}

pub fn is_inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Brings up loopback: a new network namespace has it down.
pub fn prepare_network() -> io::Result<()> {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("cannot bring up the loopback interface")) }
}

/// Runs one test of the calling test program in a sandbox: `name` of the module `module`, as `module_path!()` has it.
///
/// In the outer process this starts the same test inside and passes its result on; inside, it runs `body`.
///
/// # Panics
/// When the test fails inside, or cannot be started.
pub fn test(module: &str, name: &str, body: impl FnOnce()) {
    test_with(module, name, &[], body);
}

/// As [`test`], with environment variables of its own.
///
/// # Panics
/// When the test fails inside, or cannot be started.
#[expect(clippy::panic, reason = "it is the body of a test, and a test fails by a panic")]
pub fn test_with(module: &str, name: &str, environment: &[(&str, String)], body: impl FnOnce()) {
    if is_inside() {
        if let Err(error) = prepare_network() {
            panic!("{error}");
        }
        body();
        return;
    }
    let program = std::env::current_exe().unwrap_or_else(|error| panic!("no path of this program: {error}"));
    let mut command = command(&program);
    // The program's own name is not a part of its tests' names.
    let name = module.split_once("::").map_or(name.to_owned(), |(_, module)| format!("{module}::{name}"));
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).envs(environment.iter().cloned());
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("cannot run `unshare`: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "`{name}` failed in its sandbox:\n{text}\n{words}"
    );
}

/// Removes the cgroups that a gateway's modules left when their sandbox ended.
pub fn remove_cgroups(gateway: &str) {
    for hierarchy in cgroup_hierarchies() {
        for top in std::fs::read_dir(hierarchy.join("edgewarden")).into_iter().flatten().flatten() {
            // The gateway's name and a mark of its root folder.
            let name = top.file_name();
            let mark = name.to_str().and_then(|name| name.strip_prefix(gateway)?.strip_prefix('-'));
            if !mark.is_some_and(|mark| mark.len() == 8 && mark.bytes().all(|b| b.is_ascii_hexdigit())) {
                continue;
            }
            // What is in use stays.
            for instance in std::fs::read_dir(top.path()).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(instance.path());
            }
            let _ = std::fs::remove_dir(top.path());
        }
        let _ = std::fs::remove_dir(hierarchy.join("edgewarden"));
    }
}

fn cgroup_hierarchies() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let mut found = vec![top.to_path_buf()];
    found.extend(std::fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path()));
    found
}
