//! The OCI runtime configuration of one instance (OCI runtime-spec 1.0, `config.json`).
//!
//! Fixed for every module: own pid, mount, ipc, uts and network namespaces; a read-only root file system; no capability
//! in any set; no new privileges; a system call allow-list; no device but the usual harmless ones; limits on memory,
//! processes and open files; a user that is not root. A deployment chooses arguments, variables and limits, nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use edgewarden_names::{GatewayName, Generation, Refusal, TrustDomain};
use edgewarden_oci::execution::{Execution, SEARCH_PATH};
use edgewarden_oci::manifest::ImageConfig;
use edgewarden_protocol::deployment::Module;
use serde_json::{Value, json};

use crate::{iotedge, seccomp, secrets};

const NOFILE_MAX: u64 = 4096;
/// Largest file that a module writes. Nothing that it can write to is on the gateway's disk; this is the wall behind that.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Values from which an instance's OCI runtime configuration is made.
#[derive(Debug)]
pub struct Bundle<'a> {
    pub gateway: &'a GatewayName,
    pub trust_domain: &'a TrustDomain,
    pub module: &'a Module,
    pub generation: Generation,
    pub image: &'a ImageConfig,
    pub mqtt_port: u16,
    /// The unpacked image.
    pub root: &'a Path,
    pub network_namespace: &'a Path,
    /// Mounted at `/run/edgewarden`.
    pub workload_folder: &'a Path,
    pub hosts: &'a Path,
    pub cgroup: &'a str,
    /// Users of the gateway that no module runs as.
    pub forbidden_users: &'a [u32],
    /// User and group of a module whose image names none. What the kernel counts for each user (inotify instances, keys,
    /// pending signals, message queues) is then this module's alone.
    pub own_user: u32,
}

impl Bundle<'_> {
    /// `config.json`.
    pub fn config(&self) -> Result<Value, Refusal> {
        let execution = self.execution();
        execution.check()?;
        let (user, group) = execution.user()?;
        Ok(json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": user, "gid": group},
                "args": execution.args()?,
                "env": self.env(),
                "cwd": execution.working_folder()?,
                "capabilities": {"bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []},
                "rlimits": [
                    {"type": "RLIMIT_NOFILE", "soft": nofile_max(), "hard": nofile_max()},
                    {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                    {"type": "RLIMIT_FSIZE", "soft": FILE_BYTES_MAX, "hard": FILE_BYTES_MAX},
                ],
                "noNewPrivileges": true,
                // When memory is short a module goes before the daemons that guard it.
                "oomScoreAdj": 500,
            },
            "root": {"path": self.root, "readonly": true},
            "hostname": self.module.name,
            "mounts": self.mounts((user, group)),
            "linux": self.linux(),
        }))
    }

    fn execution(&self) -> Execution<'_> {
        let Self { module, image, root, own_user, forbidden_users, .. } = *self;
        Execution { module, image, root, own_user, forbidden_users }
    }

    /// The image's variables, then the deployment's, then ours: the last word on a name counts.
    fn env(&self) -> Vec<String> {
        self.variables().into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    fn variables(&self) -> BTreeMap<String, String> {
        let mut env: BTreeMap<&str, &str> = BTreeMap::from([("PATH", SEARCH_PATH)]);
        env.extend(self.image.config.env.iter().flatten().filter_map(|pair| pair.split_once('=')));
        env.extend(self.module.env.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let mqtt = format!("gateway:{}", self.mqtt_port);
        let generation = self.generation.to_string();
        env.extend([
            ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/edgewarden/api.sock"),
            ("EDGEWARDEN_MODULE", self.module.name.as_str()),
            ("EDGEWARDEN_GATEWAY", self.gateway.as_str()),
            ("EDGEWARDEN_TRUST_DOMAIN", self.trust_domain.as_str()),
            ("EDGEWARDEN_MQTT", &mqtt),
        ]);
        if self.module.iotedge {
            env.extend(iotedge::env(self.gateway, self.trust_domain, &self.module.name, &generation));
        }
        env.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// User and group that the module runs as.
    pub fn user(&self) -> Result<(u32, u32), Refusal> {
        self.execution().user()
    }

    fn mounts(&self, owner: (u32, u32)) -> Value {
        let tmpfs = |place: &str, options: &[&str]| {
            let options = [&["nosuid", "nodev", "noexec"], options].concat();
            json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options})
        };
        let bind = |place: &str, source: &Path| {
            json!({"destination": place, "type": "bind", "source": source,
                   "options": ["bind", "ro", "nosuid", "nodev", "noexec"]})
        };
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]}),
            tmpfs("/dev/shm", &["mode=1777", "size=16m"]),
            tmpfs("/tmp", &["mode=1777", "size=16m"]),
            tmpfs("/run", &["mode=755", "size=1m"]),
            bind("/run/edgewarden", self.workload_folder),
            bind("/etc/hosts", self.hosts),
        ];
        if !self.module.secrets.is_empty() {
            mounts.push(secrets::mount_entry(owner));
        }
        Value::Array(mounts)
    }

    fn linux(&self) -> Value {
        json!({
            "cgroupsPath": self.cgroup,
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "memory": memory(self.module.memory_bytes),
                "pids": {"limit": self.module.pids_max},
            },
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network", "path": self.network_namespace},
            ],
            "seccomp": seccomp::profile(),
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
                "/sys/devices/virtual/powercap", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        })
    }
}

/// The limit holds for memory and swap together where the kernel counts swap.
fn memory(bytes: u64) -> Value {
    let counts_swap = Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
        || Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if counts_swap { json!({"limit": bytes, "swap": bytes}) } else { json!({"limit": bytes}) }
}

/// Never above our own limit, which some machines do not let even root raise.
fn nofile_max() -> u64 {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .map_or(1024, |(_, hard)| hard.min(NOFILE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewarden_names::Reason;
    use edgewarden_oci::manifest::{self, RootFs};

    struct Case {
        root: tempfile::TempDir,
        module: Module,
        image: ImageConfig,
    }

    impl Case {
        fn new(user: &str) -> Self {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir(root.path().join("etc")).unwrap();
            std::fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:\napp:x:1000:2000::/:\nbad:x\n")
                .unwrap();
            for folder in ["dev", "proc", "run", "sys", "tmp"] {
                std::fs::create_dir(root.path().join(folder)).unwrap();
            }
            for (folder, program) in [("bin", "alerts"), ("x", "own")] {
                std::fs::create_dir(root.path().join(folder)).unwrap();
                let path = root.path().join(folder).join(program);
                std::fs::write(&path, "").unwrap();
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
            }
            std::fs::write(root.path().join("etc/group"), "root:x:0:\nstaff:x:50:\n").unwrap();
            let image = format!("r/a@sha256:{}", "ab".repeat(32));
            let module = serde_json::from_value(json!({"name": "alerts", "image": image})).unwrap();
            let config = manifest::Execution {
                user: Some(user.into()),
                env: Some(vec![
                    "A=image".into(),
                    "EDGEWARDEN_MODULE=liar".into(),
                    "PATH=/x".into(),
                    "bad".into(),
                ]),
                entrypoint: Some(vec!["/bin/alerts".into()]),
                cmd: Some(vec!["default".into()]),
                ..manifest::Execution::default()
            };
            let rootfs = RootFs { kind: "layers".into(), diff_ids: Vec::new() };
            let image = ImageConfig { architecture: "amd64".into(), os: "linux".into(), config, rootfs };
            Self { root, module, image }
        }

        fn config(&self) -> Result<Value, Refusal> {
            Bundle {
                gateway: &GatewayName::parse("gw-1").unwrap(),
                trust_domain: &TrustDomain::parse("plant.example").unwrap(),
                module: &self.module,
                generation: Generation(7),
                image: &self.image,
                mqtt_port: 8885,
                root: self.root.path(),
                network_namespace: Path::new("/run/n"),
                workload_folder: Path::new("/run/w"),
                hosts: Path::new("/run/hosts"),
                cgroup: "/edgewarden/gw-1/alerts-1",
                forbidden_users: &[998, 999],
                own_user: 0x7000_0001,
            }
            .config()
        }
    }

    #[test]
    fn a_module_runs_as_the_images_user_and_never_as_root() {
        for (user, expected) in [
            ("", Some((0x7000_0001, 0x7000_0001))),
            ("1000", Some((1000, 1000))),
            ("1000:2000", Some((1000, 2000))),
            ("app", Some((1000, 2000))),
            ("app:staff", Some((1000, 50))),
            ("1000:staff", Some((1000, 50))),
            ("0", None),
            ("root", None),
            ("1000:0", None),
            ("1000:root", None),
            ("0:1000", None),
            ("nobody", None),
            ("bad", None),
            ("app:none", None),
            ("-1", None),
            ("4294967296", None),
            ("4294967295", None),
            ("2147483648", None),
            ("1000:4294967295", None),
            ("999", None),
            ("998:1000", None),
            ("1000:999", Some((1000, 999))),
            ("+0", None),
            ("00", None),
            ("app:", None),
            ("a\nb", None),
        ] {
            let config = Case::new(user).config();
            let found = config.as_ref().ok().map(|config| &config["process"]["user"]);
            let expected = expected.map(|(uid, gid): (u32, u32)| json!({"uid": uid, "gid": gid}));
            assert_eq!(found, expected.as_ref(), "{user:?}");
            if let Err(refusal) = config {
                assert_eq!(refusal.reason, Reason::ImageUser);
            }
        }
        let linked = Case::new("app");
        std::fs::remove_dir_all(linked.root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc", linked.root.path().join("etc")).unwrap();
        assert!(linked.config().is_err(), "the table of the gateway itself is not asked");
    }

    #[test]
    fn the_deployment_says_more_than_the_image_and_we_have_the_last_word() {
        let mut case = Case::new("");
        case.module.env = [("A", "deployment"), ("SPIFFE_ENDPOINT_SOCKET", "unix:///tmp/other")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let config = case.config().unwrap();
        assert_eq!(config["process"]["args"], json!(["/bin/alerts", "default"]));
        let env = config["process"]["env"].to_string();
        for expected in [
            "A=deployment",
            "PATH=/x",
            "EDGEWARDEN_MODULE=alerts",
            "SPIFFE_ENDPOINT_SOCKET=unix:///run/edgewarden/api.sock",
        ] {
            assert!(env.contains(&format!("\"{expected}\"")), "{expected} in {env}");
        }
        assert!(!env.contains("liar") && !env.contains("other") && !env.contains("bad"));
        case.module.args = vec!["own".into()];
        assert_eq!(case.config().unwrap()["process"]["args"], json!(["/bin/alerts", "own"]));
        case.image.config.entrypoint = Some(vec!["own".into()]);
        assert_eq!(case.config().unwrap()["process"]["args"], json!(["/x/own", "own"]), "found in PATH");
        case.image.config.entrypoint = None;
        case.image.config.cmd = None;
        case.module.args = Vec::new();
        assert_eq!(case.config().unwrap_err().reason, Reason::ImageCommand);
        case.module.args = vec!["/x/own".into()];
        assert!(case.config().is_ok());
    }

    #[test]
    fn variables_for_azures_sdks_come_only_where_the_deployment_asks_for_them() {
        let mut case = Case::new("");
        let env = |case: &Case| case.config().unwrap()["process"]["env"].to_string();
        assert!(!env(&case).contains("IOTEDGE_"));
        case.module.iotedge = true;
        case.module.env = [("IOTEDGE_MODULEID".to_owned(), "other".to_owned())].into();
        let env = env(&case);
        for expected in [
            "IOTEDGE_WORKLOADURI=unix:///run/edgewarden/workload.sock",
            "IOTEDGE_MODULEID=alerts",
            "IOTEDGE_MODULEGENERATIONID=7",
            "IOTEDGE_DEVICEID=gw-1",
            "IOTEDGE_IOTHUBHOSTNAME=plant.example",
            "IOTEDGE_GATEWAYHOSTNAME=gateway",
            "IOTEDGE_APIVERSION=2022-08-03",
            "IOTEDGE_AUTHSCHEME=sasToken",
        ] {
            assert!(env.contains(&format!("\"{expected}\"")), "{expected} in {env}");
        }
    }

    #[test]
    fn program_and_working_folder_are_in_the_image() {
        let mut case = Case::new("");
        let root = case.root.path();
        std::os::unix::fs::symlink("/proc/self/fd/7", root.join("descriptor")).unwrap();
        std::os::unix::fs::symlink("/proc/self/exe", root.join("bin/exe")).unwrap();
        std::os::unix::fs::symlink("/x", root.join("link")).unwrap();
        for (folder, good) in [
            (None, true),
            (Some(""), true),
            (Some("/"), true),
            (Some("/x"), true),
            (Some("/link"), true),
            (Some("/tmp"), true),
            (Some("/proc"), false),
            (Some("/run"), false),
            (Some("/x/../x"), true),
            (Some("relative"), false),
            (Some("/missing"), false),
            (Some("/bin/alerts"), false),
            (Some("/proc/self/fd/7"), false),
            (Some("/proc/self/fd/7/../../.."), false),
            (Some("/descriptor"), false),
            (Some("/../../../../tmp"), true),
            (Some("/../../../../usr"), false),
            (Some("/x\0"), false),
        ] {
            case.image.config.working_dir = folder.map(Into::into);
            let reason = case.config().err().map(|refusal| refusal.reason);
            assert_eq!(reason, (!good).then_some(Reason::ImageCommand), "{folder:?}");
        }
        case.image.config.working_dir = None;
        for (program, good) in [
            ("/bin/alerts", true),
            ("own", true),
            ("alerts", false),
            ("exe", false),
            ("missing", false),
            ("bin/alerts", true),
            ("/link/own", true),
            ("/bin/missing", false),
            ("/bin", false),
            ("/proc/self/exe", false),
            ("/bin/exe", false),
            ("/proc/self/fd/7/bin/sh", false),
            ("../bin/sh", false),
            ("/bin/alerts\0", false),
            ("./own", false),
        ] {
            case.image.config.entrypoint = Some(vec![program.into()]);
            let reason = case.config().err().map(|refusal| refusal.reason);
            assert_eq!(reason, (!good).then_some(Reason::ImageCommand), "{program:?}");
        }
        case.image.config.working_dir = Some("/x".into());
        case.image.config.entrypoint = Some(vec!["./own".into()]);
        assert!(case.config().is_ok(), "from the working folder");
        case.image.config.working_dir = Some("/link".into());
        assert_eq!(case.config().unwrap()["process"]["cwd"], "/x", "without links");

        // The image's own `/proc/self/exe` is not what the runtime would execute.
        case.module.env = [("PATH".to_owned(), "/proc/self:/x".to_owned())].into();
        case.image.config.entrypoint = Some(vec!["exe".into()]);
        std::fs::create_dir(case.root.path().join("proc/self")).unwrap();
        std::fs::copy(case.root.path().join("x/own"), case.root.path().join("proc/self/exe")).unwrap();
        assert_eq!(case.config().unwrap_err().reason, Reason::ImageCommand);
    }

    #[test]
    fn nothing_opens_the_confinement() {
        let config = Case::new("").config().unwrap();
        let capabilities = config["process"]["capabilities"].as_object().unwrap();
        assert!(capabilities.len() == 5 && capabilities.values().all(|set| *set == json!([])));
        assert_eq!(config["process"]["noNewPrivileges"], true);
        assert_eq!(config["root"]["readonly"], true);
        let namespaces = config["linux"]["namespaces"].to_string();
        assert!(["pid", "mount", "ipc", "uts", "network"].iter().all(|kind| namespaces.contains(kind)));
        for mount in config["mounts"].as_array().unwrap() {
            let options = mount["options"].to_string();
            assert!(options.contains("nosuid"), "{mount}");
            assert!(mount["type"] != "bind" || options.contains("\"ro\""), "{mount}");
        }
    }
}
