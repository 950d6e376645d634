//! Rights of the running daemons: the kernel's word on them, against docs/confinement/processes.txt.
//!
//! With keys in software: a simulated TPM would add TCP, which no gateway has. `may` lines are an upper bound: what is found and not listed has grown. `must` lines hold for every thread.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use edgewarden_tests::process::run;
use edgewarden_tests::sandbox;
use edgewarden_tests::site::{Keys, Site};
use edgewarden_tests::story;

const LIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/confinement/processes.txt");
/// In the order of their numbers (linux/capability.h).
const CAPABILITIES: &str = "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap \
    linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot \
    sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write \
    audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf \
    checkpoint_restore";
const LISTENING_TCP: &str = "0A";
/// __SO_ACCEPTCON
const LISTENING_UNIX: &str = "00010000";
const WRITABLE: u32 = 0o3;

#[test]
fn the_daemons_can_do_what_the_list_says_and_no_more() {
    let test = "the_daemons_can_do_what_the_list_says_and_no_more";
    let gateway = "gw-confined";
    sandbox::test(module_path!(), test, || {
        let folder = tempfile::tempdir().unwrap();
        let mut site = Site::new(&folder.path().join("site"), gateway, Keys::Software).unwrap();
        let steps = ["manufacture", "fleet", "enrol", "sign", "deploy", "identify", "flow"];
        if let Err(failure) = story::run(&mut site, &steps) {
            panic!("{failure}\n--- gateway log\n{}", site.gateway_log(40));
        }
        let mut found = BTreeSet::new();
        for daemon in ["identityd", "runtimed", "gatewayd"] {
            let facts = facts(&site, daemon);
            found.extend(facts.into_iter().map(|fact| format!("{daemon} {fact}")));
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let lines: Vec<&str> = found.iter().map(String::as_str).collect();
            fs::write(LIST, lines.join("\n") + "\n").unwrap();
        }
        let listed: BTreeSet<String> = fs::read_to_string(LIST).unwrap().lines().map(str::to_owned).collect();
        let grown: Vec<&String> = found.difference(&listed).collect();
        assert!(grown.is_empty(), "more than docs/confinement/processes.txt says: {grown:#?}");
        let lost = listed.difference(&found).filter(|line| line.contains(" must "));
        let lost: Vec<&String> = lost.collect();
        assert!(lost.is_empty(), "a daemon no longer gives this up: {lost:#?}");
        assert!(!site.gateway_log(10_000).contains("not confined"), "{}", site.gateway_log(10_000));
    });
    sandbox::remove_cgroups(gateway);
}

fn facts(site: &Site, daemon: &str) -> BTreeSet<String> {
    let pattern = format!("^[^ ]*edgewarden {daemon} --root {}", site.root().display());
    let pids = run(Command::new("pgrep").args(["-f", &pattern])).unwrap().ok().unwrap();
    let pid: u32 = pids.trim().parse().unwrap_or_else(|_| panic!("one {daemon}: {pids}"));
    let process = Path::new("/proc").join(pid.to_string());
    let mut facts = BTreeSet::new();
    let (mut threads, mut filtered, mut unprivileged) = (0, 0, 0);
    for thread in fs::read_dir(process.join("task")).unwrap() {
        let Ok(status) = fs::read_to_string(thread.unwrap().path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.unwrap_or_else(|| panic!("no {name}")).to_owned()
        };
        threads += 1;
        filtered += u32::from(field("Seccomp") == "2");
        unprivileged += u32::from(field("NoNewPrivs") == "1");
        for ids in [field("Uid"), field("Gid")] {
            let ids: BTreeSet<&str> = ids.split('\t').collect();
            assert_eq!(ids.len(), 1, "real, effective, saved and file system's are one: {ids:?}");
        }
        facts.insert(format!("must run as {}", owner(field("Uid").split('\t').next().unwrap())));
        for (set, name) in
            [("CapEff", "use"), ("CapBnd", "gain"), ("CapInh", "inherit"), ("CapAmb", "pass on")]
        {
            let bits = u64::from_str_radix(&field(set), 16).unwrap();
            let known = CAPABILITIES.split_ascii_whitespace();
            facts.extend(
                known
                    .enumerate()
                    .filter(|(bit, _)| bits >> bit & 1 == 1)
                    .map(|(_, cap)| format!("may {name} {cap}")),
            );
            assert_eq!(bits >> 41, 0, "a capability that this test does not know");
        }
    }
    assert!(threads > 1);
    if filtered == threads {
        facts.insert("must have its system calls filtered in every thread".into());
    }
    if unprivileged == threads {
        facts.insert("must gain no privileges in any thread".into());
    }
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    if core.split_whitespace().skip(4).take(2).all(|limit| limit == "0") {
        facts.insert("must leave no core file".into());
    }
    // The files of a process that nobody may dump are root's.
    let process_owner = fs::metadata(process.join("environ")).unwrap().uid();
    if process_owner == 0 {
        facts.insert("must be closed to debuggers of its user".into());
    }
    facts.extend(descriptors(site, &process));
    facts
}

fn owner(uid: &str) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(uid));
    line.map_or_else(|| format!("user {uid}"), |line| line.split(':').next().unwrap().to_owned())
}

fn socket(table: &dyn Fn(&str) -> String, inode: &str, place: &dyn Fn(&str) -> String) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for kind in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "netlink", "unix"] {
        let rows = table(kind);
        let row = rows.lines().find(|row| row.split_whitespace().any(|word| word == inode));
        let Some(row) = row else { continue };
        let words: Vec<&str> = row.split_whitespace().collect();
        facts.insert(format!("may have open {kind} sockets"));
        if kind.starts_with("tcp") && words[3] == LISTENING_TCP {
            let port = u16::from_str_radix(words[1].rsplit_once(':').unwrap().1, 16).unwrap();
            facts.insert(format!("may listen on tcp {port}"));
        }
        if kind == "unix" && words[3] == LISTENING_UNIX {
            facts.insert(format!(
                "may listen on {}",
                words.get(7).map_or("nothing".into(), |path| place(path))
            ));
        }
    }
    // A connection that a module made is a socket of the module's network namespace, also here.
    if facts.is_empty() {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let tables = processes.filter_map(|process| fs::read_to_string(process.path().join("net/unix")).ok());
        if tables.into_iter().any(|table| table.split_whitespace().any(|word| word == inode)) {
            facts.insert("may have open unix sockets".to_owned());
        }
    }
    facts
}

/// Sockets that it listens on or has, and files that it has open to write.
fn descriptors(site: &Site, process: &Path) -> BTreeSet<String> {
    let table = |name: &str| fs::read_to_string(process.join("net").join(name)).unwrap_or_default();
    let root = format!("{}", site.root().display());
    let place = |path: &str| {
        let path = path.strip_prefix(&root).unwrap_or(path);
        // An instance's name ends with its generation, a segment's with a number.
        path.split('/')
            .map(|part| if part.ends_with(|c: char| c.is_ascii_digit()) { "*" } else { part })
            .collect::<Vec<_>>()
            .join("/")
    };
    let mut facts = BTreeSet::new();
    for entry in fs::read_dir(process.join("fd")).unwrap() {
        let entry = entry.unwrap().path();
        let Ok(link) = fs::read_link(&entry) else { continue };
        let link = link.to_string_lossy().into_owned();
        let number = entry.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(inode) = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            // A table that changes while it is read may miss a row; a socket that was closed meanwhile is in none.
            let mut told = BTreeSet::new();
            for _ in 0..20 {
                told = socket(&table, inode, &place);
                if !told.is_empty() || fs::read_link(&entry).map_or(true, |now| now.to_string_lossy() != link)
                {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
                told = BTreeSet::from(["may have open sockets of another kind".to_owned()]);
            }
            facts.extend(told);
        } else if link.starts_with('/') && !link.ends_with(" (deleted)") {
            let info = fs::read_to_string(process.join("fdinfo").join(&number)).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("0").trim();
            let name = Path::new(&link).file_name().unwrap().to_string_lossy().into_owned();
            if u32::from_str_radix(flags, 8).unwrap() & WRITABLE != 0 && name != "gateway.log" {
                let folder = place(&Path::new(&link).parent().unwrap().to_string_lossy());
                facts.insert(format!("may have files open to write in {folder}"));
            }
        }
    }
    facts
}
