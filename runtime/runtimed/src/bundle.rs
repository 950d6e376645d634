//! The OCI runtime configuration of one instance (OCI runtime-spec 1.0, `config.json`).
//!
//! Fixed for every module: own user, pid, mount, ipc, uts, cgroup and network namespaces; no new privileges; a system call
//! allow-list; limits on memory, processes and open files. The module's users are a range of its own: whoever is root in it
//! is nobody outside, and has of root's capabilities those that change what is the module's own.

use std::collections::BTreeMap;
use std::path::Path;

use edgewarden_names::{GatewayName, Generation, Refusal, TrustDomain};
use edgewarden_oci::execution::{Account, Execution, SEARCH_PATH};
use edgewarden_oci::manifest::ImageConfig;
use edgewarden_platform::user_namespace::UserRange;
use edgewarden_protocol::container::{Cpu, StopSignal};
use edgewarden_protocol::deployment::Module;
use serde_json::{Value, json};

use crate::devices::DeviceNode;
use crate::limits::{CPU_PERIOD, cpu_quota};
use crate::mounting::{self, Sources};
use crate::{iotedge, seccomp};

/// Largest file where nothing that the module writes lies on the gateway's disk.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What root in a module may do: nothing that its user namespace does not hold.
const OF_ROOT: [&str; 10] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

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
    pub unpacked: &'a Path,
    /// The image and what the instance writes, mounted.
    pub root: &'a Path,
    pub network_namespace: &'a Path,
    pub sources: &'a Sources<'a>,
    pub devices: &'a [DeviceNode],
    pub cgroup: &'a str,
    /// Users of the machine that are the module's 0 and up.
    pub users: UserRange,
}

impl Bundle<'_> {
    /// `config.json`.
    pub fn config(&self) -> Result<Value, Refusal> {
        let execution = self.execution();
        execution.check()?;
        let account = execution.account()?;
        let none: &[&str] = &[];
        let capabilities = if account.is_root() { &OF_ROOT } else { none };
        let mounts = mounting::mounts(&execution, self.root, self.sources, self.devices);
        Ok(json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": account.user, "gid": account.group, "additionalGids": account.more_groups},
                "args": execution.args()?,
                "env": self.env(&account),
                "cwd": execution.working_folder()?,
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                    "inheritable": [], "ambient": [],
                },
                "rlimits": self.limits(),
                "noNewPrivileges": true,
                // When memory is short a module goes before the daemons that guard it.
                "oomScoreAdj": 500,
            },
            "root": {"path": self.root, "readonly": self.module.read_only},
            "hostname": self.hostname(),
            "mounts": mounts,
            "linux": self.linux(&account),
        }))
    }

    fn execution(&self) -> Execution<'_> {
        Execution { module: self.module, image: self.image, root: self.unpacked }
    }

    fn hostname(&self) -> &str {
        self.module.hostname.as_deref().unwrap_or(self.module.name.as_str())
    }

    /// The image's variables, then the deployment's, then ours: the last word on a name counts.
    fn env(&self, account: &Account) -> Vec<String> {
        self.variables(account).into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    fn variables(&self, account: &Account) -> BTreeMap<String, String> {
        let home = account.home.as_deref().unwrap_or("/");
        let mut env: BTreeMap<&str, &str> =
            BTreeMap::from([("PATH", SEARCH_PATH), ("HOME", home), ("HOSTNAME", self.hostname())]);
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

    /// User and group that the module runs as, in the machine's numbers.
    pub fn owner(&self) -> Result<(u32, u32), Refusal> {
        let account = self.execution().account()?;
        let outside = |id: u32| self.users.first.saturating_add(id);
        Ok((outside(account.user), outside(account.group)))
    }

    /// Signal that asks it to end.
    pub fn stop_signal(&self) -> StopSignal {
        self.execution().stop_signal()
    }

    fn limits(&self) -> Value {
        let Module { volumes, temporary, writable_bytes, .. } = self.module;
        let sizes = volumes.iter().map(|volume| volume.bytes_max);
        let sizes = sizes.chain(temporary.iter().map(|folder| folder.bytes_max)).chain([*writable_bytes]);
        let file = sizes.max().unwrap_or(0).max(FILE_BYTES_MAX);
        let files = self.module.nofile_max.min(own_nofile_max());
        json!([
            {"type": "RLIMIT_NOFILE", "soft": files, "hard": files},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            {"type": "RLIMIT_FSIZE", "soft": file, "hard": file},
        ])
    }

    fn linux(&self, account: &Account) -> Value {
        let ids = json!([{"containerID": 0, "hostID": self.users.first, "size": self.users.count}]);
        let mut devices = vec![json!({"allow": false, "access": "rwm"})];
        devices.extend(self.devices.iter().map(DeviceNode::allowed));
        json!({
            "cgroupsPath": self.cgroup,
            "uidMappings": ids,
            "gidMappings": ids,
            "resources": {
                "devices": devices,
                "memory": memory(self.module.memory_bytes),
                "pids": {"limit": self.module.pids_max},
                "cpu": cpu(&self.module.cpu),
            },
            "namespaces": [
                {"type": "user"}, {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "cgroup"}, {"type": "network", "path": self.network_namespace},
            ],
            "seccomp": seccomp::profile(account.is_root()),
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

fn cpu(cpu: &Cpu) -> Value {
    let mut value = serde_json::Map::new();
    if let Some(millis) = cpu.millis_max {
        value.insert("period".into(), CPU_PERIOD.into());
        value.insert("quota".into(), cpu_quota(millis).into());
    }
    if let Some(weight) = cpu.weight {
        // The runtime-spec has the shares of cgroup v1, 2 to 262,144, which runtimes turn back into a weight so.
        let shares = u64::from(weight.saturating_sub(1)).saturating_mul(262_142) / 9_999;
        value.insert("shares".into(), shares.saturating_add(2).into());
    }
    if let Some(set) = &cpu.set {
        value.insert("cpus".into(), set.as_str().into());
    }
    Value::Object(value)
}

/// Our own limit, which some machines do not let even root raise.
fn own_nofile_max() -> u64 {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard)
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
            std::fs::write(
                root.path().join("etc/passwd"),
                "root:x:0:0::/:\napp:x:1000:2000::/home/app:\nbad:x\n",
            )
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
            std::fs::write(root.path().join("etc/group"), "root:x:0:\nstaff:x:50:app\nother:x:60:x, app\n")
                .unwrap();
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
                unpacked: self.root.path(),
                root: Path::new("/run/root"),
                network_namespace: Path::new("/run/n"),
                sources: &Sources {
                    workload_folder: Path::new("/run/w"),
                    hosts: Path::new("/run/hosts"),
                    secrets: Some(Path::new("/run/s")),
                    files: &["/run/f".into()],
                    volumes: &["/run/v".into()],
                },
                devices: &[],
                cgroup: "/edgewarden/gw-1/alerts-1",
                users: UserRange { first: 0x7001_0000, count: 65_536 },
            }
            .config()
        }
    }

    #[test]
    fn a_module_runs_as_the_user_that_image_or_deployment_names() {
        for (user, expected) in [
            ("", Some((0, 0))),
            ("0", Some((0, 0))),
            ("root", Some((0, 0))),
            ("1000", Some((1000, 2000))),
            ("999", Some((999, 0))),
            ("1000:2000", Some((1000, 2000))),
            ("app", Some((1000, 2000))),
            ("app:staff", Some((1000, 50))),
            ("1000:staff", Some((1000, 50))),
            ("1000:root", Some((1000, 0))),
            ("65535:65535", Some((65_535, 65_535))),
            ("nobody", None),
            ("bad", None),
            ("app:none", None),
            ("-1", None),
            ("65536", None),
            ("4294967295", None),
            ("4294967296", None),
            ("0:65536", None),
            ("app:", None),
            ("a\nb", None),
        ] {
            let image = Case::new(user).config();
            let mut deployed = Case::new("nobody");
            deployed.module.user = Some(user.to_owned()).filter(|user| !user.is_empty());
            if user.is_empty() {
                deployed.image.config.user = None;
            }
            for config in [image, deployed.config()] {
                let found = config.as_ref().ok().map(|config| &config["process"]["user"]);
                let found = found.map(|user| json!({"uid": user["uid"], "gid": user["gid"]}));
                let expected = expected.map(|(uid, gid): (u32, u32)| json!({"uid": uid, "gid": gid}));
                assert_eq!(found, expected, "{user:?}");
                if let Err(refusal) = config {
                    assert_eq!(refusal.reason, Reason::ImageUser);
                }
            }
        }
        let config = Case::new("app").config().unwrap();
        assert_eq!(config["process"]["user"]["additionalGids"], json!([50, 60]), "by the image's groups");
        assert!(config["process"]["env"].to_string().contains("\"HOME=/home/app\""));
        let config = Case::new("app:staff").config().unwrap();
        assert_eq!(
            config["process"]["user"]["additionalGids"],
            json!([]),
            "a group that is named is the only one"
        );
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
            (Some("/missing/below"), true),
            (Some("/missing/../x"), false),
            (Some("/proc/missing"), false),
            (Some("/bin/alerts"), false),
            (Some("/bin/alerts/below"), false),
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
        let sets = |user: &str| Case::new(user).config().unwrap()["process"]["capabilities"].clone();
        let capabilities = sets("app");
        let capabilities = capabilities.as_object().unwrap();
        assert!(capabilities.len() == 5 && capabilities.values().all(|set| *set == json!([])));
        let root = sets("0").to_string();
        assert!(root.contains("CAP_CHOWN"));
        for never in [
            "SYS_ADMIN",
            "SYS_MODULE",
            "SYS_RAWIO",
            "SYS_PTRACE",
            "NET_ADMIN",
            "NET_RAW",
            "MKNOD",
            "BPF",
            "DAC_READ",
        ] {
            assert!(!root.contains(never), "{never}");
        }
        let mut case = Case::new("app");
        case.module.volumes =
            vec![serde_json::from_value(json!({"name": "v", "path": "/bin/data"})).unwrap()];
        case.module.files = vec![serde_json::from_value(json!({"path": "/etc/f", "text": ""})).unwrap()];
        case.module.secrets = vec![serde_json::from_value(json!({"name": "s"})).unwrap()];
        let config = case.config().unwrap();
        assert_eq!(config["process"]["noNewPrivileges"], true);
        assert_eq!(config["root"]["readonly"], true);
        let namespaces = config["linux"]["namespaces"].to_string();
        let kinds = ["user", "pid", "mount", "ipc", "uts", "cgroup", "network"];
        assert!(kinds.iter().all(|kind| namespaces.contains(kind)));
        assert_eq!(
            config["linux"]["uidMappings"],
            json!([{"containerID": 0, "hostID": 0x7001_0000, "size": 65_536}])
        );
        assert_eq!(config["linux"]["uidMappings"], config["linux"]["gidMappings"]);
        for mount in config["mounts"].as_array().unwrap() {
            let options = mount["options"].to_string();
            assert!(options.contains("nosuid"), "{mount}");
            let writable = ["/run", "/bin/data"].contains(&mount["destination"].as_str().unwrap());
            assert!(mount["type"] != "bind" || writable || options.contains("\"ro\""), "{mount}");
        }
    }

    #[test]
    fn limits_are_what_the_deployment_says() {
        let mut case = Case::new("app");
        case.module.cpu =
            serde_json::from_value(json!({"millis_max": 1500, "weight": 10_000, "set": "0-1"})).unwrap();
        case.module.nofile_max = 100;
        case.module.read_only = false;
        case.module.hostname = Some("plc-reader".into());
        let config = case.config().unwrap();
        let cpu = json!({"period": 100_000, "quota": 150_000, "shares": 262_144, "cpus": "0-1"});
        assert_eq!(config["linux"]["resources"]["cpu"], cpu);
        assert_eq!(
            config["process"]["rlimits"][0],
            json!({"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100})
        );
        assert_eq!(config["root"]["readonly"], false);
        assert_eq!(config["hostname"], "plc-reader");
    }
}
