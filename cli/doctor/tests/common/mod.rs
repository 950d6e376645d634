//! A gateway in a folder: every file that the doctor reads, and servers in the place of daemons, fleet and registry.
//! All is well with it until a test breaks something.

mod documents;
mod servers;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgewarden_ca::{RootCa, spki};
use edgewarden_doctor::{Examined, Facts, Outcome, Peer, Sources, Volume, examine, gather};
use edgewarden_names::{TrustDomain, UnixTime, pem};

use edgewarden_platform::users::{self, User};
use edgewarden_protocol::est::EstStatus;
use edgewarden_protocol::layout::Layout;
use edgewarden_protocol::runtime_console as runtime;

pub use documents::{Answers, event_log};

pub const DAY: u64 = 86400;

pub struct Site {
    folder: tempfile::TempDir,
    pub layout: Layout,
    pub answers: Arc<Mutex<Answers>>,
    /// `config.toml`, written when the facts are gathered.
    pub config: toml::Table,
    servers: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

fn own_users() -> (User, User) {
    let user = |name: &str| users::lookup(name).unwrap().unwrap_or_else(|| panic!("there is no user {name}"));
    (user("ew-identity"), user("ew-gateway"))
}

impl Site {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        let layout = Layout::new(folder.path().join("root"));
        let domain = TrustDomain::parse(documents::DOMAIN).unwrap();
        let root = RootCa::create(&domain, Duration::from_secs(3650 * DAY), UnixTime::now()).unwrap();
        let (fleet, fleet_server) = servers::fleet(&root).await;
        let (registry, registry_server) = servers::registry().await;
        let answers = Answers::healthy(&format!("https://{fleet}"), &registry, root.certificate_der());
        let answers = Arc::new(Mutex::new(answers));
        let mut site = Self {
            config: toml::Table::new(),
            layout,
            answers,
            servers: vec![fleet_server, registry_server],
            folder,
        };
        site.make_root(&root);
        site.make_machine();
        site.config =
            documents::config(&site.layout, &format!("https://{fleet}"), &registry, &site.path("device"));
        site.servers.extend(servers::daemons(&site.layout, &site.answers));
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    pub fn proc(&self, name: &str) -> PathBuf {
        self.path("proc").join(name)
    }
    pub fn sys(&self, name: &str) -> PathBuf {
        self.path("sys").join(name)
    }
    pub fn etc(&self, name: &str) -> PathBuf {
        self.layout.config_file().with_file_name(name)
    }
    /// A file of `/proc` of the process that answers for all three daemons.
    pub fn process(&self, name: &str) -> PathBuf {
        self.proc(&std::process::id().to_string()).join(name)
    }
    pub fn answer(&self, change: impl FnOnce(&mut Answers)) {
        change(&mut self.answers.lock().unwrap());
    }

    fn make_root(&self, root: &RootCa) {
        let (identity, gateway) = own_users();
        let admin = User { uid: 0, gid: 0 };
        let layout = &self.layout;
        for (path, owner, mode) in [
            (layout.identity_state(), identity, 0o700),
            (layout.gateway_state(), gateway, 0o700),
            (layout.runtime_state(), admin, 0o700),
            (layout.logs(), admin, 0o700),
            (layout.identity_run(), identity, 0o755),
            (layout.identity_run().join("workload"), identity, 0o711),
            (layout.runtime_run(), admin, 0o755),
            (layout.gateway_run(), gateway, 0o755),
        ] {
            fs::create_dir_all(&path).unwrap();
            chown(&path, Some(owner.uid), Some(owner.gid)).unwrap();
            set_mode(&path, mode);
        }
        write(&self.etc("fleet-root.pem"), &pem::encode(pem::CERTIFICATE, root.certificate_der()));
        let point = edgewarden_ca::chain::facts(root.certificate_der()).unwrap().point;
        write(&self.etc("operator-1.pem"), &spki::to_pem(&point).unwrap());
        let floor = UnixTime::now().0 - 60;
        let clock = format!(r#"{{"version":1,"content":{{"floor":{floor}}}}}"#);
        write(&layout.identity_state().join("clock.json"), &clock);
        fs::write(self.path("event_log"), event_log(true)).unwrap();
        let device = self.path("device");
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        nix::sys::stat::mknod(&device, kind, mode, nix::sys::stat::makedev(1, 3)).unwrap();
        chown(&device, Some(identity.uid), Some(identity.gid)).unwrap();
        fs::create_dir_all(layout.root().join("run/systemd/system")).unwrap();
        for unit in ["identityd", "runtimed", "gatewayd"] {
            let name = format!("edgewarden-{unit}.service");
            write(&layout.root().join("etc/systemd/system").join(&name), "[Unit]\n");
            let wants = layout.root().join("etc/systemd/system/multi-user.target.wants");
            fs::create_dir_all(&wants).unwrap();
            symlink(format!("/etc/systemd/system/{name}"), wants.join(name)).unwrap();
        }
    }

    fn make_machine(&self) {
        for (name, text) in [
            (
                "sys/kernel/seccomp/actions_avail",
                "kill_process kill_thread trap errno user_notif trace log allow\n",
            ),
            ("sys/kernel/random/entropy_avail", "256\n"),
            ("sys/net/ipv4/ip_forward", "1\n"),
            ("sys/net/netfilter/nf_conntrack_count", "12\n"),
            ("sys/net/netfilter/nf_conntrack_max", "262144\n"),
            ("sys/kernel/osrelease", "6.1.0-18-amd64\n"),
            ("sys/fs/suid_dumpable", "0\n"),
            ("sys/fs/file-nr", "1024\t0\t9223372036854775807\n"),
            ("meminfo", "MemTotal: 4000000 kB\nMemFree: 100000 kB\nMemAvailable: 2000000 kB\n"),
            ("77/comm", "chronyd\n"),
            ("net/route", documents::ROUTES),
            ("net/tcp", documents::LISTENING),
        ] {
            write(&self.proc(name), text);
        }
        for kind in ["user", "pid", "net", "mnt", "ipc", "uts", "cgroup"] {
            write(&self.proc("self/ns").join(kind), "");
        }
        write(&self.process("status"), "Groups:\t0 \nGid:\t0\t0\t0\t0\nNoNewPrivs:\t1\nSeccomp:\t2\n");
        write(
            &self.process("limits"),
            "Max core file size        0                    0                    bytes\n",
        );
        symlink(std::env::current_exe().unwrap(), self.process("exe")).unwrap();
        write(&self.sys("fs/cgroup/cgroup.controllers"), "cpuset cpu io memory pids\n");
        write(&self.sys("class/rtc/rtc0/name"), "rtc_cmos\n");
        write(&self.sys("class/tpm/tpm0/pcr-sha256/0"), "00\n");
        write(&self.sys("devices/system/clocksource/clocksource0/current_clocksource"), "tsc\n");
        self.program("nft", "echo 'table inet edgewarden'");
        for name in ["mkfs.ext4", "e2fsck", "resize2fs", "mount"] {
            self.program(name, "exit 0");
        }
        self.program("ip", "exit 0");
        self.program("runc", "echo 'runc version 1.1.15'");
    }

    /// A program of this machine.
    pub fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        write(&path, &format!("#!/bin/sh\n{script}\n"));
        set_mode(&path, 0o755);
    }

    /// Keys in a file instead of a TPM, from here on.
    pub fn with_software(&mut self) {
        let file = self.path("passphrase");
        write(&file, "correct horse battery staple");
        set_mode(&file, 0o400);
        chown(&file, Some(own_users().0.uid), None).unwrap();
        self.config.insert("keystore".into(), documents::software(&file));
        self.answer(|answers| {
            answers.status.keystore = "software (hardware: none)".into();
            answers.health.as_mut().unwrap().lockout = None;
        });
    }

    /// A site's own CA in the fleet's place.
    pub fn with_est(&mut self) {
        self.config.remove("fleet");
        let password = self.etc("est-password");
        write(&password, "correct horse");
        set_mode(&password, 0o600);
        let path = |name: &str| self.etc(name).display().to_string();
        let est = format!(
            "url = \"https://est.example\"\ntrust_anchors = \"{}\"\noperator_keys = [\"{}\"]\n\
             [auth]\nkind = \"basic\"\nuser = \"gw\"\npassword_file = \"{}\"\n",
            path("fleet-root.pem"),
            path("operator-1.pem"),
            password.display()
        );
        let est: toml::Table = est.parse().unwrap();
        self.config.insert("est".into(), est.into());
        self.answer(|answers| {
            let url = "https://est.example".to_owned();
            answers.status.verdict = None;
            answers.status.est = Some(EstStatus { url: url.clone(), certified: true, pending_since: None });
            answers.runtime.fleet.url = None;
            answers.runtime.est =
                Some(runtime::EstStatus { url, last_success: None, again_at: None, trouble: None });
        });
    }

    pub fn set(&mut self, table: &str, key: &str, value: impl Into<toml::Value>) {
        let table = self.config.entry(table).or_insert_with(|| toml::Table::new().into());
        table.as_table_mut().unwrap().insert(key.into(), value.into());
    }

    /// Gathers the facts; what no folder can show is what a good machine has.
    pub async fn facts(&self) -> Facts {
        let file = self.layout.config_file();
        // A test may have broken the file itself.
        if !file.exists() && !self.config.is_empty() {
            write(&file, &toml::to_string(&self.config).unwrap());
        }
        let sources = Sources {
            layout: self.layout.clone(),
            proc: self.path("proc"),
            sys: self.path("sys"),
            path: vec![self.path("bin")],
            patience: Duration::from_secs(20),
        };
        let mut facts = gather(&sources).await;
        let (identity, gateway) = own_users();
        for (daemon, uid) in
            [(&mut facts.daemons.identityd, identity.uid), (&mut facts.daemons.gatewayd, gateway.uid)]
        {
            daemon.peer = daemon.peer.map(|peer| Peer { uid, ..peer });
        }
        facts.kernel.landlock = 5;
        for volume in facts.disk.volumes.iter_mut().flatten() {
            let folder = std::mem::take(&mut volume.folder);
            let (bytes, inodes) = (64 << 30, 4_000_000);
            *volume = Volume {
                folder,
                bytes,
                bytes_free: bytes / 2,
                inodes,
                inodes_free: inodes / 2,
                read_only: false,
                written: Ok(()),
                kind: 0xef53,
            };
        }
        facts
    }
}

/// The checks that did not come out well.
pub fn bad(facts: &Facts) -> Vec<(&'static str, Outcome)> {
    let bad = |one: &Examined| matches!(one.outcome, Outcome::Warn | Outcome::Fail);
    examine(facts, None).iter().filter(|one| bad(one)).map(|one| (one.id, one.outcome)).collect()
}

pub fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}
