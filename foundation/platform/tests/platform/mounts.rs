//! A file system in memory that another mount namespace has read-only, written to from here.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use edgewarden_platform::mounts::writable_view;
use edgewarden_platform::process::Process;

/// A shell in a mount namespace of its own, told what to do line by line.
struct Elsewhere {
    shell: Child,
    folder: tempfile::TempDir,
}

impl Elsewhere {
    fn new(mount: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut shell = Command::new("unshare")
            .args(["--mount", "--", "sh", "-c"])
            .arg(format!("{mount} && echo ready && while read line; do sh -c \"$line\"; echo done; done"))
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { shell, folder }
    }

    fn process(&self) -> Process {
        Process::open(i32::try_from(self.shell.id()).unwrap()).unwrap()
    }

    /// Output of a command there, up to its end.
    fn run(&mut self, command: &str) -> String {
        writeln!(self.shell.stdin.as_mut().unwrap(), "{command}").unwrap();
        let mut said = String::new();
        let mut output = BufReader::with_capacity(1, self.shell.stdout.as_mut().unwrap());
        while !said.ends_with("done\n") {
            assert_ne!(output.read_line(&mut said).unwrap(), 0, "{said}");
        }
        said.trim_end_matches("done\n").trim_end().to_owned()
    }

    fn place(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.shell.kill());
        drop(self.shell.wait());
    }
}

#[test]
fn what_is_written_here_is_seen_there_and_cannot_be_written_there() {
    for kind in ["tmpfs", "ramfs"] {
        let mount = format!("mount -t {kind} -o nosuid x . && cd . && mount -o remount,ro,bind .");
        let mut there = Elsewhere::new(&mount);
        let view = writable_view(&there.process(), there.place()).unwrap();
        let root = PathBuf::from(format!("/proc/self/fd/{}", view.as_raw_fd()));
        std::fs::write(root.join("secret"), "one").unwrap();
        let folder = there.place().display().to_string();
        assert_eq!(there.run(&format!("cat {folder}/secret")), "one", "{kind}");
        assert_eq!(there.run(&format!("echo two > {folder}/secret 2>/dev/null || echo refused")), "refused");
        assert!(!there.place().join("secret").exists(), "it is on no disk of ours");
        // Again, as after a restart of who writes.
        drop(view);
        let view = writable_view(&there.process(), there.place()).unwrap();
        std::fs::write(format!("/proc/self/fd/{}/secret", view.as_raw_fd()), "three").unwrap();
        assert_eq!(there.run(&format!("cat {folder}/secret")), "three", "{kind}");
    }
}

#[test]
fn nothing_else_is_opened() {
    let here = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
    let refused = writable_view(&here, Path::new("/tmp")).unwrap_err().to_string();
    assert!(refused.contains("no mount namespace of its own"), "{refused}");
    let there = Elsewhere::new("true");
    let refused = writable_view(&there.process(), Path::new("/proc")).unwrap_err().to_string();
    assert!(refused.contains("not in memory"), "{refused}");
    assert!(writable_view(&there.process(), Path::new("/no/such/place")).is_err());
}
