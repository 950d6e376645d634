//! Makes a TPM as its vendor would: state, endorsement keys and their certificates from the vendor's CA.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::SimulatorError;

/// Key generation (RSA-2048 in the TPM, RSA-3072 for the CA) under load.
const SETUP_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// swtpm's own folder beneath the state folder.
pub fn tpm_folder(state: &Path) -> PathBuf {
    state.join("tpm")
}

/// The vendor's root and issuing certificates, one PEM file: what a fleet adds to its vendor roots.
pub fn vendor_ca_file(state: &Path) -> PathBuf {
    state.join("vendor-ca.pem")
}

/// Manufactures a TPM in `state`, unless it is there already. The vendor's CA is made on first use; several TPMs may
/// share one. Gives the path of the vendor's certificates.
pub fn manufacture(state: &Path, vendor_ca: Option<&Path>) -> Result<PathBuf, SimulatorError> {
    fs::create_dir_all(tpm_folder(state))
        .map_err(SimulatorError::io(format!("make `{}`", state.display())))?;
    let state = fs::canonicalize(state).map_err(SimulatorError::io(format!("find `{}`", state.display())))?;
    let bundle = vendor_ca_file(&state);
    if bundle.exists() {
        return Ok(bundle);
    }
    let ca = vendor_ca.map_or_else(|| state.join("vendor-ca"), Path::to_owned);
    fs::create_dir_all(&ca).map_err(SimulatorError::io(format!("make `{}`", ca.display())))?;
    let ca = fs::canonicalize(&ca).map_err(SimulatorError::io(format!("find `{}`", ca.display())))?;
    let setup_config = write_configuration(&state, &ca)?;
    let tpm = tpm_folder(&state);
    let mut setup = Command::new("swtpm_setup");
    setup.arg("--tpm2").arg("--tpmstate").arg(&tpm).arg("--config").arg(setup_config);
    setup.args(["--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--pcr-banks", "sha256"]);
    setup.args(["--overwrite", "--write-ek-cert-files"]).arg(&tpm);
    run(setup)?;
    // Last of all: the bundle's presence says that the manufacture was completed.
    let read =
        |name: &str| fs::read(ca.join(name)).map_err(SimulatorError::io(format!("read the CA's `{name}`")));
    let certificates = [read("swtpm-localca-rootca-cert.pem")?, read("issuercert.pem")?].concat();
    fs::write(&bundle, certificates).map_err(SimulatorError::io(format!("write `{}`", bundle.display())))?;
    Ok(bundle)
}

/// Configuration of swtpm_setup and of its CA program, swtpm_localca.
fn write_configuration(state: &Path, ca: &Path) -> Result<PathBuf, SimulatorError> {
    let write = |name: &str, text: String| {
        let path = state.join(name);
        fs::write(&path, text).map_err(SimulatorError::io(format!("write `{}`", path.display())))?;
        Ok(path)
    };
    let ca = ca.display();
    let localca = write(
        "swtpm-localca.conf",
        format!(
            "statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuercert.pem\n\
             certserial = {ca}/certserial\n"
        ),
    )?;
    let options = write(
        "swtpm-localca.options",
        "--platform-manufacturer Edgewarden\n--platform-version 1.0\n--platform-model simulator\n".to_owned(),
    )?;
    let program =
        ["/usr/bin/swtpm_localca", "/usr/local/bin/swtpm_localca", "/usr/share/swtpm/swtpm-localca"];
    let program = program.into_iter().find(|path| Path::new(path).exists()).unwrap_or("swtpm_localca");
    write(
        "swtpm_setup.conf",
        format!(
            "create_certs_tool = {program}\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n\
             active_pcr_banks = sha256\n",
            localca.display(),
            options.display()
        ),
    )
}

/// Runs a program to its end or to the deadline; its output is told only when it fails.
fn run(mut command: Command) -> Result<(), SimulatorError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |output: String| SimulatorError::Program { program: program.clone(), output };
    // Its own process group: it starts a swtpm of its own, which must not outlive it.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    // The standard library made an unsigned number of the kernel's `pid_t`.
    let group = Pid::from_raw(child.id().cast_signed());
    let readers = [collect(child.stdout.take()), collect(child.stderr.take())];
    let deadline = Instant::now() + SETUP_TIMEOUT;
    let status = loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(status) => break status,
            None if Instant::now() < deadline => thread::sleep(POLL),
            None => {
                let _ = killpg(group, Signal::SIGKILL);
                let _ = child.wait();
                return Err(failed("it did not end in time".to_owned()));
            }
        }
    };
    // Ends whatever it left behind, so that the readers below meet the end of its output.
    let _ = killpg(group, Signal::SIGKILL);
    let output: String = readers.into_iter().filter_map(|reader| reader.join().ok()).collect();
    if status.success() { Ok(()) } else { Err(failed(output)) }
}

fn collect(source: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            let _ = source.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
            let _ = std::io::copy(&mut source, &mut std::io::sink());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
