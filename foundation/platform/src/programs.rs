//! Paths of the system's programs, also for a daemon whose PATH has no `sbin` (a shell's of an ordinary user, `su`,
//! cron).

use std::path::{Path, PathBuf};

/// Folders where distributions put the system's programs, searched in this order.
pub const KNOWN: [&str; 6] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin", "/usr/local/bin"];

/// The file behind a program's name: by `PATH`, then by the known places. A name with a slash is the file itself.
pub fn find(name: &Path) -> Option<PathBuf> {
    find_in(name, std::env::var_os("PATH").unwrap_or_default().as_os_str())
}

/// The same with a given `PATH`.
pub fn find_in(name: &Path, path: &std::ffi::OsStr) -> Option<PathBuf> {
    if name.components().count() != 1 {
        return is_program(name).then(|| name.to_owned());
    }
    // An empty entry means the working folder, which is nobody's choice here.
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    folders.chain(KNOWN.map(PathBuf::from)).map(|folder| folder.join(name)).find(|file| is_program(file))
}

/// The path to run for a name: the file that [`find`] names, or the name, whose absence the run then reports.
pub fn resolve(name: &str) -> PathBuf {
    find(Path::new(name)).unwrap_or_else(|| name.into())
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_without_sbin_does_not_hide_a_program() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("ip");
        std::fs::write(&own, "").unwrap();
        let find = |name: &str, path: &str| find_in(Path::new(name), path.as_ref());
        let here = folder.path().to_str().unwrap();
        assert_ne!(find("ip", here), Some(own.clone()), "it cannot be run");
        std::fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find("ip", here), Some(own.clone()));
        for path in ["", "/nowhere", ".", ":"] {
            let found = find("ip", path).unwrap();
            assert!(found.is_absolute() && found.ends_with("ip"), "{path}: {found:?}");
        }
        assert_eq!(find(own.to_str().unwrap(), ""), Some(own));
        assert_eq!(find("no-such-program-here", "/usr/bin"), None);
        assert_eq!(find("/usr/sbin", ""), None, "a folder");
    }
}
