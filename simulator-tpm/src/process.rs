//! The swtpm process: power on with a measured boot, power off.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::manufacture::tpm_folder;
use crate::wire::{START_TIMEOUT, Wire};
use crate::{Boot, SimulatorError, Start};

const EXIT_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);

/// Starts swtpm on loopback (`port` for commands, the next for control) in the caller's network namespace, starts the
/// TPM (TPM2_Startup(CLEAR)) as the boot says and plays the boot into its PCRs. On return nobody is connected to it.
pub fn boot(state: &Path, port: u16, boot: &Boot) -> Result<Child, SimulatorError> {
    let control = port.checked_add(1).ok_or(SimulatorError::Malformed("port"))?;
    let log = File::create(state.join("swtpm.log")).map_err(SimulatorError::io("write `swtpm.log`"))?;
    let log_too = log.try_clone().map_err(SimulatorError::io("write `swtpm.log`"))?;
    let mut command = Command::new("swtpm");
    command.args(["socket", "--tpm2", "--tpmstate"]).arg(format!("dir={}", tpm_folder(state).display()));
    command.arg("--server").arg(format!("type=tcp,port={port},bindaddr=127.0.0.1"));
    command.arg("--ctrl").arg(format!("type=tcp,port={control},bindaddr=127.0.0.1"));
    command.args(["--flags", if is_plain(boot) { "not-need-init,startup-clear" } else { "not-need-init" }]);
    // A group of its own, so that Ctrl-C in a terminal does not cut the power of a gateway that is to go on.
    command.process_group(0).stdin(Stdio::null()).stdout(log).stderr(log_too);
    let mut child = command.spawn().map_err(|error| SimulatorError::Program {
        program: "swtpm".to_owned(),
        output: error.to_string(),
    })?;
    let played = play(&mut child, port, boot);
    if let Err(error) = played {
        let _ = child.kill();
        let _ = child.wait();
        let output = fs::read_to_string(state.join("swtpm.log")).unwrap_or_default();
        return Err(match output.trim() {
            "" => error,
            output => SimulatorError::Program { program: "swtpm".to_owned(), output: output.to_owned() },
        });
    }
    Ok(child)
}

fn play(child: &mut Child, port: u16, boot: &Boot) -> Result<(), SimulatorError> {
    if !is_plain(boot) {
        measure_by_hardware(child, port + 1, boot.start())?;
    }
    let mut wire = Wire::connect(port, || matches!(child.try_wait(), Ok(None)))?;
    if !is_plain(boot) {
        wire.startup()?;
        control(port + 1, &["-l", "0"], b"")?;
    }
    wire.self_test()?;
    wire.play(boot)?;
    drop(wire);
    // Had another process held the port, this swtpm would have ended by now and the boot gone to a stranger.
    match child.try_wait() {
        Ok(None) => Ok(()),
        _ => Err(SimulatorError::Timeout("stay alive")),
    }
}

fn is_plain(boot: &Boot) -> bool {
    boot.start() == Start::Plain
}

/// Plays the hardware before TPM2_Startup: the H-CRTM sequence, and the choice of the startup's locality.
fn measure_by_hardware(child: &mut Child, port: u16, start: Start) -> Result<(), SimulatorError> {
    let deadline = Instant::now() + START_TIMEOUT;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if Instant::now() > deadline || !matches!(child.try_wait(), Ok(None)) {
            return Err(SimulatorError::Timeout("listen"));
        }
        thread::sleep(POLL);
    }
    if let Some(content) = start.h_crtm() {
        control(port, &["-h", "-"], content)?;
    }
    control(port, &["-l", &start.locality().to_string()], b"")
}

/// A command on swtpm's control channel, which stands for the wires beside the TPM's bus.
fn control(port: u16, arguments: &[&str], input: &[u8]) -> Result<(), SimulatorError> {
    const PROGRAM: &str = "swtpm_ioctl";
    let failed = |output: String| SimulatorError::Program { program: PROGRAM.to_owned(), output };
    let mut command = Command::new(PROGRAM);
    command.arg("--tcp").arg(format!("127.0.0.1:{port}")).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that has ended already tells why below.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

/// Reads a file that holds the number of a running swtpm.
pub fn read_pid(pid_file: &Path) -> Result<i32, SimulatorError> {
    let missing = || SimulatorError::NotRunning(pid_file.display().to_string());
    let text = fs::read_to_string(pid_file).map_err(|_| missing())?;
    let pid: i32 = text.trim().parse().ok().filter(|pid| *pid > 1).ok_or_else(missing)?;
    // The number may be another process's by now.
    if is_running(pid) { Ok(pid) } else { Err(missing()) }
}

/// A process that has ended but was not waited for counts as gone.
fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start().chars().next());
    stat.contains("(swtpm)") && !matches!(state, Some(Some('Z' | 'X')))
}

/// Ends swtpm as a power cut would: with SIGKILL, without TPM2_Shutdown.
pub fn power_cut(pid_file: &Path) -> Result<(), SimulatorError> {
    let pid = read_pid(pid_file)?;
    end(pid, Signal::SIGKILL)?;
    forget(pid_file)
}

/// Ends swtpm with SIGTERM; with SIGKILL when that does not help.
pub fn stop(pid_file: &Path) -> Result<(), SimulatorError> {
    let pid = read_pid(pid_file)?;
    if end(pid, Signal::SIGTERM).is_err() {
        end(pid, Signal::SIGKILL)?;
    }
    forget(pid_file)
}

fn end(pid: i32, signal: Signal) -> Result<(), SimulatorError> {
    let _ = kill(Pid::from_raw(pid), signal);
    let deadline = Instant::now() + EXIT_TIMEOUT;
    while is_running(pid) {
        if Instant::now() > deadline {
            return Err(SimulatorError::Timeout("end"));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn forget(pid_file: &Path) -> Result<(), SimulatorError> {
    fs::remove_file(pid_file).map_err(SimulatorError::io(format!("remove `{}`", pid_file.display())))
}
