//! A machine of its own for this test program: another kernel, and cgroups mounted as it wants them.
//!
//! QEMU boots Debian's kernel with an initial file system of this program and the few others that it runs. The kernel is
//! of a time before SO_PEERPIDFD, so that what stands in for it is tried too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::common::fetched::set_up;

/// Set in the guest: the machine is the test's.
pub const MARK: &str = "EW_TEST_GUEST";
const PROGRAM: &str = "/test";
/// For a guest that hangs.
const PATIENCE_SECONDS: &str = "900";
const HOST_PROGRAMS: [&str; 7] = ["bash", "cat", "mkdir", "mount", "sleep", "true", "unshare"];

/// Kind of the guest's cgroup mounts (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    V1,
    Hybrid,
    V2,
}

impl Cgroups {
    fn script(self) -> &'static str {
        const V1: &str =
            "mount -t tmpfs tmpfs /sys/fs/cgroup; mkdir /sys/fs/cgroup/pids /sys/fs/cgroup/systemd
            mount -t cgroup -o pids cgroup /sys/fs/cgroup/pids
            mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd";
        const HYBRID: &str =
            "mount -t tmpfs tmpfs /sys/fs/cgroup; mkdir /sys/fs/cgroup/pids /sys/fs/cgroup/unified
            mount -t cgroup -o pids cgroup /sys/fs/cgroup/pids
            mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified";
        match self {
            Self::V1 => V1,
            Self::Hybrid => HYBRID,
            Self::V2 => "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        }
    }
}

pub fn is_inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Output of this program, run in a guest with these arguments. `None` where no guest can be had.
pub fn say(cgroups: Cgroups, arguments: &str) -> Option<String> {
    let kernel = kernel()?;
    let folder = tempfile::tempdir().unwrap();
    let initial = folder.path().join("initramfs");
    let script = format!(
        "#!/bin/bash
        export PATH=/usr/bin:/bin LD_LIBRARY_PATH=/lib TMPDIR=/tmp {MARK}=1
        mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
        {}
        cat /proc/sys/kernel/osrelease /proc/self/cgroup
        {PROGRAM} {arguments} 2>&1
        echo b > /proc/sysrq-trigger",
        cgroups.script()
    );
    std::fs::write(&initial, archive(&script)).unwrap();
    let mut qemu = Command::new("timeout");
    qemu.args([
        PATIENCE_SECONDS,
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-m",
        "1G",
        "-smp",
        "2",
    ]);
    // No devices but a serial line, no network.
    qemu.args(["-machine", "microvm,acpi=off", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot"]);
    qemu.args(["-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1 reboot=t"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initial);
    let Ok(output) = qemu.stdin(Stdio::null()).output() else {
        eprintln!("skipped: there is no `timeout` on this machine");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    Some(said)
}

fn kernel() -> Option<PathBuf> {
    // One at a time: the package manager has a lock of its own, and does not wait for it.
    static FETCHING: Mutex<()> = Mutex::new(());
    let _alone = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    if !cfg!(target_arch = "x86_64") || Command::new("qemu-system-x86_64").arg("-version").output().is_err() {
        eprintln!("skipped: a guest needs `qemu-system-x86_64`, on such a machine");
        return None;
    }
    // Only unpacked: installing a kernel would change what this machine boots.
    let fetch = r#"
        latest() { apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9]\S*\).*/\1/p' | head -1; }
        name=$(latest)
        [ -n "$name" ] || { apt-get update -qq; name=$(latest); }
        apt-get download -q -o APT::Sandbox::User=root "$name"
        dpkg-deb -x linux-image-*.deb . && rm -rf *.deb lib usr"#;
    let folder = set_up("guest-kernel", |_| {
        let mut command = Command::new("sh");
        command.args(["-ec", fetch]);
        command
    })?;
    let mut files = std::fs::read_dir(folder.join("boot")).unwrap().map(|entry| entry.unwrap().path());
    let kernel = files.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("vmlinuz"));
    Some(kernel.unwrap_or_else(|| panic!("there is no kernel in `{}`", folder.display())))
}

/// This program and those of the host, with their libraries, in the kernel's format for an initial file system ("newc",
/// Documentation/driver-api/early-userspace/buffer-format.rst).
fn archive(script: &str) -> Vec<u8> {
    let mut files = BTreeMap::from([("init".to_owned(), script.as_bytes().to_vec())]);
    let ours = std::env::current_exe().unwrap();
    take(&mut files, &ours, PROGRAM.trim_start_matches('/'));
    for program in HOST_PROGRAMS {
        take(&mut files, &Path::new("/usr/bin").join(program), &format!("usr/bin/{program}"));
    }
    let mut archive = Vec::new();
    for folder in ["bin", "dev", "etc", "lib", "lib64", "proc", "sys", "tmp", "usr", "usr/bin"] {
        add(&mut archive, folder, 0o040_755, &[]);
    }
    // The programs' own paths, as on the host.
    for link in ["bash", "sleep"] {
        add(&mut archive, &format!("bin/{link}"), 0o120_777, format!("/usr/bin/{link}").as_bytes());
    }
    for (name, content) in &files {
        add(&mut archive, name, 0o100_755, content);
    }
    add(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn take(files: &mut BTreeMap<String, Vec<u8>>, program: &Path, name: &str) {
    files.insert(name.to_owned(), std::fs::read(program).unwrap());
    let linked = Command::new("ldd").arg(program).output().unwrap();
    for word in String::from_utf8(linked.stdout).unwrap().split_whitespace() {
        let library = Path::new(word);
        if library.is_absolute() {
            let file = library.file_name().unwrap().to_str().unwrap();
            // The loader is looked for where the program says; libraries by LD_LIBRARY_PATH.
            let folder = if file.starts_with("ld-linux") { "lib64" } else { "lib" };
            files.entry(format!("{folder}/{file}")).or_insert_with(|| std::fs::read(library).unwrap());
        }
    }
}

fn add(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let mut head = "070701".to_owned();
    let size = u32::try_from(content.len()).unwrap();
    let name_size = u32::try_from(name.len() + 1).unwrap();
    let number = u32::try_from(archive.len()).unwrap();
    // Inode, mode, user, group, links, time, size, device, device of the file, length of the name, no checksum.
    for field in [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        write!(head, "{field:08x}").unwrap();
    }
    archive.extend_from_slice(head.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
