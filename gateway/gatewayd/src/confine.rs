//! Confinement of `gatewayd` by itself, once its listeners are open and while it has one thread: no other files, no
//! other TCP ports (Landlock), no system calls but those that it serves with (seccomp, an allow-list), and no way to
//! more rights.

use std::path::{Path, PathBuf};

use edgewarden_platform::landlock::{ConfineError, Reach};
use edgewarden_platform::seccomp::{Allowed, Sockets};
use edgewarden_platform::{harden, seccomp};
use edgewarden_protocol::config::Config;
use edgewarden_protocol::layout::Layout;

/// Files and folders that name resolution and the C library read.
const SYSTEM_FOLDERS: [&str; 7] = ["/proc", "/etc", "/usr", "/lib", "/lib64", "/dev/urandom", "/dev/null"];
/// Name resolution over TCP.
const DNS: u16 = 53;

/// The step of the confinement that failed.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    #[error("cannot give up new privileges")]
    Harden(#[from] std::io::Error),
    #[error("cannot confine the process to its files")]
    Files(#[from] ConfineError),
    #[error("cannot confine the process to its system calls")]
    SystemCalls(#[from] seccomp::SeccompError),
}

/// The files and ports that are left.
fn reach(layout: &Layout, config: &Config) -> Reach {
    let mut read: Vec<PathBuf> = SYSTEM_FOLDERS.map(PathBuf::from).into();
    read.extend(layout.config_file().parent().map(Path::to_path_buf));
    // Sockets of identityd: connecting needs no right, finding them may on later kernels.
    read.push(layout.identity_run());
    let mut connect = vec![DNS];
    if let Some(fleet) = &config.fleet {
        read.push(fleet.root.clone());
        connect.extend(port_of(&fleet.url));
    }
    let write = vec![layout.gateway_state(), layout.gateway_run()];
    Reach { read, write, connect }
}

pub(crate) fn confine(layout: &Layout, config: &Config) -> Result<(), ConfinementError> {
    harden::no_new_privs()?;
    harden::no_core_dumps()?;
    reach(layout, config).confine()?;
    seccomp::serve(allowed(config))?;
    Ok(())
}

/// The system calls that are left. Without names to resolve no UDP, and no module of the C library's to load.
pub fn allowed(config: &Config) -> Allowed {
    let resolves = config.fleet.as_ref().is_some_and(|fleet| has_name(&fleet.url));
    Allowed {
        sockets: if resolves { Sockets::TcpAndUdp } else { Sockets::Tcp },
        loads_code: resolves,
        device_requests: false,
        locks_memory: false,
        asks_clock_state: false,
    }
}

/// `true` when the URL's host is a name, and not an address.
fn has_name(url: &str) -> bool {
    let authority = url.strip_prefix("https://").map_or(url, |rest| before(rest, '/'));
    let host = match authority.strip_prefix('[') {
        Some(rest) => before(rest, ']'),
        None => before(authority, ':'),
    };
    host.parse::<std::net::IpAddr>().is_err()
}

/// The text before the first `end`, all of it where there is none.
fn before(text: &str, end: char) -> &str {
    text.split_once(end).map_or(text, |(before, _)| before)
}

/// The port of `https://host[:port][/path]`.
fn port_of(url: &str) -> Option<u16> {
    let authority = url.strip_prefix("https://")?.split('/').next()?;
    // An IPv6 address has colons of its own, within brackets.
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    match after_host.rsplit_once(':') {
        Some((_, port)) => port.parse().ok(),
        None => Some(443),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn lines(url: &str) -> BTreeSet<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let text = format!(
            "[gateway]\nname = \"gw-1\"\ntrust_domain = \"plant.example\"\n\
             [fleet]\nurl = \"{url}\"\nroot = \"/etc/edgewarden/root.pem\"\noperator_keys = [\"/etc/edgewarden/o.pem\"]\n\
             [keystore]\nkind = \"tpm\"\ndevice = \"/dev/tpmrm0\"\n"
        );
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&path).unwrap();
        let reach = reach(&Layout::new("/"), &config);
        let mut lines = BTreeSet::new();
        lines.extend(reach.lines());
        lines.extend(allowed(&config).lines().iter().map(|call| format!("call {call}")));
        lines
    }

    /// `UPDATE_GOLDEN=1` writes the file anew, for a change that is meant.
    #[test]
    fn it_may_do_what_the_list_says_and_no_more() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/confinement/gatewayd.txt");
        let address = lines("https://192.0.2.1:8443");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let text: Vec<&str> = address.iter().map(String::as_str).collect();
            std::fs::write(path, text.join("\n") + "\n").unwrap();
        }
        let listed: BTreeSet<String> =
            std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
        let more: Vec<_> = address.difference(&listed).collect();
        assert!(more.is_empty(), "gatewayd may do more than docs/confinement/gatewayd.txt says: {more:#?}");
        let fewer: Vec<_> = listed.difference(&address).collect();
        assert!(fewer.is_empty(), "gatewayd may do less now; take it off the list: {fewer:#?}");
        let name = lines("https://fleet.example:8443");
        assert_eq!(
            name.difference(&address).collect::<Vec<_>>(),
            [
                "call mmap PROT_EXEC of a file, not PROT_WRITE",
                "call socket AF_INET UDP",
                "call socket AF_INET6 UDP",
            ]
        );
    }

    #[test]
    fn names() {
        for (url, expected) in [
            ("https://fleet.example:8443/x", true),
            ("https://localhost", true),
            ("https://192.0.2.1", false),
            ("https://192.0.2.1:8443/x", false),
            ("https://[2001:db8::1]:9", false),
            ("nonsense", true),
        ] {
            assert_eq!(has_name(url), expected, "{url}");
        }
    }

    #[test]
    fn ports() {
        for (url, expected) in [
            ("https://fleet.example", Some(443)),
            ("https://fleet.example/x", Some(443)),
            ("https://fleet.example:8443/x:1", Some(8443)),
            ("https://[2001:db8::1]", Some(443)),
            ("https://[2001:db8::1]:9", Some(9)),
            ("http://fleet.example", None),
            ("https://fleet.example:x", None),
        ] {
            assert_eq!(port_of(url), expected, "{url}");
        }
    }
}
