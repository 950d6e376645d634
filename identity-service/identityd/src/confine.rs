//! Rights that `identityd` takes away from itself.
//!
//! First files and ports (Landlock, while the process has one thread), then, when everything is open, system calls
//! (seccomp, an allow-list for the whole process): no socket but AF_UNIX, no program to run, no new code, no mount, no
//! namespace, no other process. Only a simulated TPM leaves TCP sockets, and Landlock then only its two ports.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use edgewarden_platform::landlock::{ConfineError, Reach};
use edgewarden_platform::seccomp::{Allowed, Sockets};
use edgewarden_platform::{harden, libraries, memory, seccomp};
use edgewarden_protocol::config::{Config, Keystore};
use edgewarden_protocol::layout::Layout;

/// Folders that the C libraries, the TPM's transport module and the user database are read from, and the machine's own
/// clock.
const SYSTEM_FOLDERS: [&str; 9] = [
    "/proc",
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/dev/urandom",
    "/dev/null",
    "/sys/kernel/security",
    "/sys/class/rtc/rtc0",
];

/// Not at once: the first callers come when the daemons start together.
const MEMORY_FIRST: Duration = Duration::from_secs(1);
const MEMORY_INTERVAL: Duration = Duration::from_secs(30);

/// Enough for the connections of all sockets of 128 modules, of both APIs.
const OPEN_FILES: u64 = 65_536;

/// First of all: secrets go into no core file, and nothing gains privileges.
pub fn harden_process() -> io::Result<()> {
    harden::no_new_privs()?;
    harden::no_core_dumps()?;
    match harden::raise_open_files(OPEN_FILES) {
        Ok(OPEN_FILES..) => {}
        Ok(files) => {
            tracing::warn!(
                files,
                wanted = OPEN_FILES,
                "the limit of open files (RLIMIT_NOFILE) is low: modules share fewer connections"
            );
        }
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
    Ok(())
}

/// No page of this process goes to swap: keys are copied to places that libraries choose. A service with a limit on
/// locked memory still serves, and says so.
pub fn lock_memory() {
    if let Err(error) = memory::lock() {
        tracing::warn!(%error, "memory is not locked: keys can reach swap, if there is any");
    }
}

/// Gives pages of the program back that only starting up needed, and later what rare work or a crowd of callers left.
/// Never returns.
pub async fn let_go_of_memory() {
    let mut pause = MEMORY_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = MEMORY_INTERVAL;
        // One does not hang on the other.
        let release = || (memory::release_heap(), memory::release_program());
        let Ok((heap, program)) = tokio::task::spawn_blocking(release).await else { continue };
        if let Err(error) = heap {
            tracing::warn!(%error, "cannot let go of the heap's free memory, or not lock the rest again");
        }
        match program {
            Ok(bytes) => tracing::debug!(bytes, "let go of pages of the program"),
            Err(error) => tracing::warn!(%error, "cannot let go of pages of the program"),
        }
    }
}

/// The files and ports that are left.
fn reach(layout: &Layout, config: &Config) -> Reach {
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
    let mut connect = Vec::new();
    match &config.keystore {
        Keystore::Tpm { device } => write.push(device.clone()),
        // Commands and, one above, the platform's control channel.
        Keystore::DangerousSimulatedTpm { address } => {
            connect.extend([address.port(), address.port().saturating_add(1)]);
        }
        Keystore::Pkcs11 { module, pin_file, library_files, .. } => {
            // The folder: a library brings others of its own.
            read.extend(module.parent().filter(|folder| folder.parent().is_some()).map(Path::to_path_buf));
            read.push(pin_file.clone());
            write.extend(library_files.iter().cloned());
        }
        Keystore::Software { passphrase_file } => read.push(passphrase_file.clone()),
    }
    Reach { read, write, connect }
}

/// From now on only the files and ports that this configuration needs. The folders of state and sockets must exist.
pub fn files(layout: &Layout, config: &Config) -> Result<(), ConfineError> {
    reach(layout, config).confine()
}

/// The system calls that are left, for every thread there is and will be.
pub fn system_calls(config: &Config) -> Result<(), seccomp::SeccompError> {
    if !loads_code(&config.keystore) {
        // A store that is reached anew would load the TPM's transport module anew.
        libraries::keep();
    }
    seccomp::serve(allowed(&config.keystore))
}

/// Rights that [`system_calls`] leaves with this keystore.
pub fn allowed(keystore: &Keystore) -> Allowed {
    let simulated = matches!(keystore, Keystore::DangerousSimulatedTpm { .. });
    Allowed {
        sockets: if simulated { Sockets::Tcp } else { Sockets::Unix },
        loads_code: loads_code(keystore),
        device_requests: matches!(keystore, Keystore::Pkcs11 { .. }),
        locks_memory: true,
        asks_clock_state: true,
    }
}

/// A vendor's library may load others of its own at any moment.
fn loads_code(keystore: &Keystore) -> bool {
    matches!(keystore, Keystore::Pkcs11 { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use edgewarden_protocol::config::Fleet;

    fn config(folder: &Path, keystore: Keystore) -> Config {
        let text = "[gateway]\nname = \"gw-1\"\ntrust_domain = \"plant.example\"\n[keystore]\nkind = \"tpm\"\ndevice = \"/dev/null\"\n";
        let path = folder.join("config.toml");
        std::fs::write(&path, text).unwrap();
        Config { keystore, ..Config::load(&path).unwrap() }
    }

    /// Rights that this process keeps, one a line.
    fn lines(keystore: Keystore) -> BTreeSet<String> {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path(), keystore);
        config.fleet = Some(Fleet {
            url: "https://fleet.example".into(),
            root: "/etc/edgewarden/root.pem".into(),
            operator_keys: vec!["/etc/edgewarden/operator.pem".into()],
        });
        let reach = reach(&Layout::new("/"), &config);
        let mut lines = BTreeSet::new();
        lines.extend(reach.lines());
        lines.extend(allowed(&config.keystore).lines().iter().map(|call| format!("call {call}")));
        lines
    }

    /// `UPDATE_GOLDEN=1` writes the file anew, for a change that is meant.
    #[test]
    fn it_may_do_what_the_list_says_and_no_more() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/confinement/identityd.txt");
        let tpm = lines(Keystore::Tpm { device: "/dev/tpmrm0".into() });
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let text: Vec<&str> = tpm.iter().map(String::as_str).collect();
            std::fs::write(path, text.join("\n") + "\n").unwrap();
        }
        let listed: BTreeSet<String> =
            std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
        let more: Vec<_> = tpm.difference(&listed).collect();
        assert!(more.is_empty(), "identityd may do more than docs/confinement/identityd.txt says: {more:#?}");
        let fewer: Vec<_> = listed.difference(&tpm).collect();
        assert!(fewer.is_empty(), "identityd may do less now; take it off the list: {fewer:#?}");

        // The other stores, by what they add.
        let added = |keystore| lines(keystore).difference(&tpm).cloned().collect::<Vec<_>>();
        assert_eq!(added(Keystore::Software { passphrase_file: "/p".into() }), ["read /p"]);
        assert_eq!(
            added(Keystore::DangerousSimulatedTpm { address: ([127, 0, 0, 1], 2321).into() }),
            ["call socket AF_INET TCP", "call socket AF_INET6 TCP", "connect tcp 2321", "connect tcp 2322",]
        );
        let token = Keystore::Pkcs11 {
            module: "/opt/vendor/lib.so".into(),
            token: "plant".into(),
            pin_file: "/pin".into(),
            library_files: vec!["/dev/hsm".into()],
        };
        assert_eq!(
            added(token),
            [
                "call ioctl any but TIOCSTI, TIOCLINUX",
                "call mmap PROT_EXEC of a file, not PROT_WRITE",
                "read /opt/vendor",
                "read /pin",
                "write /dev/hsm",
            ]
        );
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
