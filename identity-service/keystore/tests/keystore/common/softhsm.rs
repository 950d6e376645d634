//! SoftHSM2 in a process of its own. PKCS#11 libraries have one state for a whole process, and SoftHSM2 takes its
//! configuration from an environment variable, which a process with threads cannot safely set. So a test that needs it
//! runs itself again, with a configuration and a folder of tokens for it alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use tempfile::TempDir;

pub const PIN: &str = "correct horse";
const CONFIGURATION: &str = "SOFTHSM2_CONF";
/// Paths of the SoftHSM library on the distributions.
const LIBRARIES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];

pub fn library() -> PathBuf {
    let found = LIBRARIES.into_iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("SoftHSM2 is not installed (package softhsm2)")
}

/// True in the process that has SoftHSM2 to itself.
pub fn is_inside() -> bool {
    std::env::var_os(CONFIGURATION).is_some()
}

/// Runs the test function that `test` is a closure of again, and `test` there.
pub fn alone<F: Fn()>(test: F) {
    alone_with("", test);
}

/// The same, with more lines in the configuration.
pub fn alone_with<F: Fn()>(configuration: &str, test: F) {
    if is_inside() {
        return test();
    }
    run_again(&name_of::<F>(), configuration);
}

/// Runs a test of this name again, which finds itself inside then.
pub fn alone_as(test: &str) {
    run_again(test, "");
}

fn run_again(test: &str, configuration: &str) {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("tokens")).unwrap();
    let file = folder.path().join("softhsm2.conf");
    std::fs::write(
        &file,
        format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n{configuration}\n",
            folder.path().join("tokens").display()
        ),
    )
    .unwrap();
    rerun(test, &[(CONFIGURATION, &file)]);
}

/// `crate::test::{{closure}}` without its ends: what the test is called on the command line.
pub fn name_of<F>() -> String {
    let full = std::any::type_name::<F>();
    let path = full.split_once("::").unwrap().1;
    path.split("::{{closure}}").next().unwrap().to_owned()
}

pub fn rerun(test: &str, environment: &[(&str, &Path)]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{test}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Folder of this process's tokens.
pub fn tokens() -> PathBuf {
    Path::new(&std::env::var_os(CONFIGURATION).unwrap()).with_file_name("tokens")
}

/// Makes a token of a label that no other has.
pub fn make_token() -> String {
    static TOKENS: AtomicUsize = AtomicUsize::new(1);
    let label = format!("gateway {}", TOKENS.fetch_add(1, Ordering::Relaxed));
    make_token_named(&label);
    label
}

pub fn make_token_named(label: &str) {
    super::run(Command::new("softhsm2-util").args([
        "--init-token",
        "--free",
        "--label",
        label,
        "--pin",
        PIN,
        "--so-pin",
        "officer",
    ]));
}

/// Another user of the library in this process, for doing to tokens what the store does not.
pub struct Other {
    pub library: Pkcs11,
    pub slot: Slot,
    pub session: Session,
}

impl Other {
    /// While no store is open.
    pub fn log_in(label: &str) -> Self {
        let library = Pkcs11::new(library()).unwrap();
        library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        Self::with(library, label)
    }

    /// While a store is open, which has logged in.
    pub fn beside(label: &str) -> Self {
        Self::with(Pkcs11::new(library()).unwrap(), label)
    }

    fn with(library: Pkcs11, label: &str) -> Self {
        let slot = library
            .get_slots_with_token()
            .unwrap()
            .into_iter()
            .find(|slot| library.get_token_info(*slot).unwrap().label() == label)
            .unwrap();
        let session = library.open_rw_session(slot).unwrap();
        // Refused when the store has logged this process in.
        let _ = session.login(UserType::User, Some(&AuthPin::new(PIN.into())));
        Self { library, slot, session }
    }

    pub fn delete(&self, class: ObjectClass, label: &str) {
        let found =
            self.session.find_objects(&[Attribute::Class(class), Attribute::Label(label.into())]).unwrap();
        assert_eq!(found.len(), 1, "{class:?} {label}");
        self.session.destroy_object(found[0]).unwrap();
    }

    pub fn objects(&self) -> usize {
        self.session.find_objects(&[]).unwrap().len()
    }

    /// Leaves the library as it would be without us.
    pub fn end(self) {
        drop(self.session);
        self.library.finalize().unwrap();
    }
}
