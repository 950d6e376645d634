//! What `identityd` takes away from itself.
//!
//! First files and ports (Landlock, while the process has one thread), then, when everything is open, system calls
//! (seccomp, an allow-list for the whole process): no socket but AF_UNIX, no program to run, no new code, no mount, no
//! namespace, no other process. Only a simulated TPM leaves TCP sockets, and Landlock then only its two ports.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgewarden_platform::landlock::{ConfineError, Enforcement, confine_files};
use edgewarden_platform::seccomp::{Allowed, Sockets};
use edgewarden_platform::{harden, libraries, memory, seccomp};
use edgewarden_protocol::config::{Config, Keystore};
use edgewarden_protocol::layout::Layout;

/// What the C libraries, the TPM's transport module and the user database are read from.
const SYSTEM_FOLDERS: [&str; 8] =
    ["/proc", "/etc", "/usr", "/lib", "/lib64", "/dev/urandom", "/dev/null", "/sys/kernel/security"];

/// Not at once: the first callers come when the daemons start together.
const MEMORY_FIRST: Duration = Duration::from_secs(1);
const MEMORY_INTERVAL: Duration = Duration::from_secs(300);

/// First of all: secrets go into no core file, and nothing gains privileges.
pub fn harden_process() -> io::Result<()> {
    harden::no_new_privs()?;
    harden::no_core_dumps()
}

/// No page of this process goes to swap: keys are copied to places that libraries choose. A service with a limit on
/// locked memory still serves, and says so.
pub fn lock_memory() {
    if let Err(error) = memory::lock() {
        tracing::warn!(%error, "memory is not locked: keys can reach swap, if there is any");
    }
}

/// Gives pages of the program back that only starting up needed, and later what rare work left. Never returns.
pub async fn let_go_of_memory() {
    let mut pause = MEMORY_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = MEMORY_INTERVAL;
        let released = tokio::task::spawn_blocking(memory::release_program).await;
        match released.map_err(io::Error::other).flatten() {
            Ok(bytes) => tracing::debug!(bytes, "let go of pages of the program"),
            Err(error) => tracing::warn!(%error, "cannot let go of pages of the program"),
        }
    }
}

/// The files and ports that are left. The folders of state and sockets must exist.
pub fn files(layout: &Layout, config: &Config) -> Result<(), ConfineError> {
    let mut read: Vec<PathBuf> = SYSTEM_FOLDERS.map(PathBuf::from).into();
    read.extend(layout.config_file().parent().map(Path::to_path_buf));
    // The folder, not the file: the log of a later boot of a simulated machine is another file under the same name.
    read.extend(config.attestation.event_log.parent().map(Path::to_path_buf));
    if let Some(fleet) = &config.fleet {
        read.push(fleet.root.clone());
    }
    read.extend(config.est.iter().map(|est| est.trust_anchors.clone()));
    read.extend(config.operator_keys().iter().cloned());
    let mut write = vec![layout.identity_state(), layout.identity_run()];
    let mut ports = Vec::new();
    match &config.keystore {
        Keystore::Tpm { device } => write.push(device.clone()),
        // Commands and, one above, the platform's control channel.
        Keystore::DangerousSimulatedTpm { address } => {
            ports.extend([address.port(), address.port().saturating_add(1)]);
        }
        Keystore::Pkcs11 { module, pin_file, library_files, .. } => {
            // The folder: a library brings others of its own.
            read.extend(module.parent().filter(|folder| folder.parent().is_some()).map(Path::to_path_buf));
            read.push(pin_file.clone());
            write.extend(library_files.iter().cloned());
        }
        Keystore::Software { passphrase_file } => read.push(passphrase_file.clone()),
    }
    read.retain(|path| path.exists());
    write.retain(|path| path.exists());
    let confinement = confine_files(&read, &write, &ports)?;
    if confinement.enforcement != Enforcement::Fully {
        tracing::warn!(enforcement = ?confinement.enforcement, "this kernel cannot confine files fully");
    }
    if !confinement.all_threads {
        tracing::warn!("threads that ran before are not confined to files");
    }
    Ok(())
}

/// The system calls that are left, for every thread there is and will be.
pub fn system_calls(config: &Config) -> Result<(), seccomp::SeccompError> {
    if !loads_code(&config.keystore) {
        // A store that is reached anew would load the TPM's transport module anew.
        libraries::keep();
    }
    seccomp::serve(allowed(&config.keystore))
}

/// What [`system_calls`] leaves with this keystore.
pub fn allowed(keystore: &Keystore) -> Allowed {
    let simulated = matches!(keystore, Keystore::DangerousSimulatedTpm { .. });
    Allowed {
        sockets: if simulated { Sockets::Tcp } else { Sockets::Unix },
        loads_code: loads_code(keystore),
        device_requests: matches!(keystore, Keystore::Pkcs11 { .. }),
    }
}

/// A vendor's library may load others of its own at any moment.
fn loads_code(keystore: &Keystore) -> bool {
    matches!(keystore, Keystore::Pkcs11 { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    fn config(folder: &Path, keystore: Keystore) -> Config {
        let text = "[gateway]\nname = \"gw-1\"\ntrust_domain = \"plant.example\"\n[keystore]\nkind = \"tpm\"\ndevice = \"/dev/null\"\n";
        let path = folder.join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config { keystore, ..Config::load(&path).unwrap() }
    }

    #[test]
    fn only_the_simulators_ports_and_our_own_folders_are_left() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path().join("root"));
        for needed in [layout.identity_state(), layout.identity_run()] {
            std::fs::create_dir_all(needed).unwrap();
        }
        let (simulator, other) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = simulator.local_addr().unwrap();
        let config = config(folder.path(), Keystore::DangerousSimulatedTpm { address });
        let foreign = folder.path().join("foreign");
        std::fs::write(&foreign, "secret").unwrap();
        // Landlock binds the thread that asks for it.
        let confined = std::thread::spawn(move || {
            files(&layout, &config).unwrap();
            TcpStream::connect(address).unwrap();
            std::fs::write(layout.identity_state().join("x"), "ours").unwrap();
            let denied = |outcome: io::Result<()>| outcome.unwrap_err().kind() == ErrorKind::PermissionDenied;
            assert!(denied(TcpStream::connect(other.local_addr().unwrap()).map(drop)), "another port");
            assert!(denied(TcpListener::bind("127.0.0.1:0").map(drop)), "a port of our own");
            assert!(denied(std::fs::read(foreign).map(drop)), "a file beside ours");
            assert!(denied(std::fs::write("/tmp/ew-identityd-test", "x")), "a file elsewhere");
            assert!(denied(std::fs::read_dir("/root").map(drop)), "a folder elsewhere");
        });
        confined.join().unwrap();
    }
}
