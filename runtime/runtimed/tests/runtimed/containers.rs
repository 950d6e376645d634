//! What a deployment declares of a module's container is what the module finds, and no more.

use edgewarden_names::{ModuleName, Reason, VolumeName};
use edgewarden_protocol::runtime_console::{ModuleStatus, Reply, Request};
use edgewarden_protocol::uplink::ModuleState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::common::{Gateway, call, in_namespaces, shell};

const TOOLS: [&str; 17] = [
    "chown", "cp", "dd", "df", "grep", "head", "hostname", "ls", "mknod", "mount", "rm", "stat", "sync",
    "tr", "wc", "cut", "env",
];

/// Waits until it is told to end.
const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn running(module: &ModuleStatus) -> bool {
    module.state == ModuleState::Running
}

#[test]
fn root_is_root_inside_and_nobody_outside() {
    in_namespaces("containers::root_is_root_inside_and_nobody_outside", async || {
        let mut gateway = Gateway::joined("root").await;
        let image = gateway.image_with("clinic/alerts", &TOOLS).await;
        let script = format!(
            "id; touch /usr/made && chown 33:33 /usr/made && stat -c 'made by %u:%g' /usr/made; \
             touch /tmp/x && echo tmp; touch /run/x && echo run; echo fd > /dev/stdout; \
             grep Cap /proc/self/status; cat /proc/self/uid_map; \
             (exec 3<>/dev/tcp/127.0.0.1/1) 2>&1 | grep -o refused; \
             mknod /tmp/disk b 8 0 2>&1; mkdir /mnt; mount -t tmpfs none /mnt 2>&1; \
             echo nobody > /proc/sys/kernel/hostname; dd if=/dev/zero of=/usr/full bs=64k 2>&1 | tail -1; \
             cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; echo end; {WAIT}"
        );
        let mut module = shell("alerts", &image, &script);
        module["user"] = json!("root");
        module["read_only"] = json!(false);
        module["writable_bytes"] = json!(8 << 20);
        module["memory_bytes"] = json!(128 << 20);
        gateway.deploy(1, vec![module], "").await;
        gateway.start_runtimed().await;
        gateway.printed("alerts", "end").await;
        let log = gateway.logs("alerts").await;
        for expected in
            ["uid=0(root)", "made by 33:33", "tmp", "run", "fd", "refused", "CapAmb:\t0000000000000000"]
        {
            assert!(log.iter().any(|line| line.contains(expected)), "{expected} in {log:#?}");
        }
        assert!(log.iter().any(|line| line == &(128 << 20).to_string()), "its memory limit: {log:#?}");
        let map: Vec<&str> =
            log.iter().find(|line| line.ends_with("65536")).unwrap().split_whitespace().collect();
        assert_eq!(map[0], "0");
        assert!(map[1].parse::<u32>().unwrap() >= 0x7000_0000, "{map:?}");
        for denied in ["mknod: ", "mount: "] {
            let line = log.iter().find(|line| line.contains(denied));
            assert!(
                line.is_some_and(|line| line.contains("ermi") || line.contains("not found")),
                "{denied} {log:#?}"
            );
        }
        let module = gateway.module("alerts", "running", running).await;
        let outside = std::fs::metadata(format!("/proc/{}", module.pid.unwrap())).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&outside).to_string(), map[1], "its root, outside");

        // What an instance wrote ends with it, and the image is whole.
        kill(Pid::from_raw(module.pid.unwrap()), Signal::SIGKILL).unwrap();
        let again = |again: &ModuleStatus| running(again) && again.pid != module.pid;
        gateway.module("alerts", "running again", again).await;
        let made = |log: &[String]| log.iter().filter(|line| line.contains("made by")).count();
        for _ in 0..600 {
            if made(&gateway.logs("alerts").await) == 2 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(made(&gateway.logs("alerts").await), 2);
    });
}

#[test]
fn a_volume_outlives_instances_updates_and_the_daemon_and_no_other_module_has_it() {
    in_namespaces(
        "containers::a_volume_outlives_instances_updates_and_the_daemon_and_no_other_module_has_it",
        async || {
            let mut gateway = Gateway::joined("volumes").await;
            let image = gateway.image_with("clinic/alerts", &TOOLS).await;
            let script = |word: &str| {
                format!(
                    "cat /data/first /data/second 2>/dev/null; cat /data/other 2>/dev/null; echo {word} > /data/{word}; \
                     dd if=/dev/zero of=/data/full bs=64k 2>&1 | grep -o 'No space left on device'; rm -f /data/full; \
                     sync; df -k --output=size /data | tail -1; echo kept {word}; {WAIT}"
                )
            };
            let module = |name: &str, word: &str| {
                let mut module = shell(name, &image, &script(word));
                module["user"] = json!("0");
                module["memory_bytes"] = json!(64 << 20);
                module["volumes"] = json!([{"name": "data", "path": "/data", "bytes_max": 24 << 20}]);
                module
            };
            gateway.deploy(1, vec![module("one", "first"), module("two", "other")], "").await;
            gateway.start_runtimed().await;
            gateway.printed("one", "kept first").await;
            assert!(
                gateway.logs("one").await.iter().any(|line| line == "No space left on device"),
                "its quota"
            );
            gateway.printed("two", "kept other").await;
            let first = gateway.module("one", "running", running).await;

            // Another instance, another revision, another daemon.
            gateway.kill_runtimed();
            kill(Pid::from_raw(first.pid.unwrap()), Signal::SIGKILL).unwrap();
            gateway.deploy(2, vec![module("one", "second"), module("two", "other")], "").await;
            gateway.start_runtimed().await;
            gateway.printed("one", "kept second").await;
            let log = gateway.logs("one").await;
            assert!(log.iter().any(|line| line == "first"), "what the one before wrote: {log:#?}");
            assert!(!log.iter().any(|line| line == "other"), "another module's volume: {log:#?}");
            let file = gateway.layout().runtime_state().join("volumes/one/data.ext4");
            assert_eq!(std::fs::metadata(&file).unwrap().len(), 24 << 20);

            // It grows, and a volume that cannot be read stops its module, not the gateway.
            let mut larger = module("one", "third");
            larger["volumes"][0]["bytes_max"] = json!(48 << 20);
            let mut two = module("two", "other");
            two["volumes"] = json!([]);
            gateway.deploy(3, vec![larger, two], "").await;
            gateway.printed("one", "kept third").await;
            let sizes: Vec<u64> =
                gateway.logs("one").await.iter().filter_map(|line| line.trim().parse().ok()).collect();
            assert!(sizes.last().unwrap() > &40_000 && sizes[0] < 24 << 10, "KiB: {sizes:?}");
            // Removed only by word, and not from under who has it.
            let asked = async |request| call(&gateway.layout(), &request).await.unwrap();
            let listed = match asked(Request::Volumes).await {
                Reply::Volumes(all) => all,
                other => panic!("{other:?}"),
            };
            let shown: Vec<_> =
                listed.iter().map(|one| (one.module.as_str(), one.bytes_max >> 20, one.in_use)).collect();
            assert_eq!(shown, [("one", 48, true), ("two", 24, false)]);
            let remove = |module: &str, volume: &str| Request::VolumeRemove {
                module: ModuleName::parse(module).unwrap(),
                volume: VolumeName::parse(volume).unwrap(),
            };
            for (module, volume) in [("one", "data"), ("two", "other"), ("three", "data")] {
                let answer = asked(remove(module, volume)).await;
                assert!(matches!(answer, Reply::Refused(_)), "{module}/{volume}: {answer:?}");
            }
            assert!(matches!(asked(remove("two", "data")).await, Reply::Done));
            assert!(!gateway.layout().runtime_state().join("volumes/two").exists());
            assert!(gateway.layout().runtime_state().join("volumes/one/data.ext4").exists());
        },
    );
}

#[test]
fn a_broken_volume_is_refused_and_stays_as_it_is() {
    in_namespaces("containers::a_broken_volume_is_refused_and_stays_as_it_is", async || {
        let mut gateway = Gateway::joined("broken").await;
        let image = gateway.image_with("clinic/alerts", &TOOLS).await;
        let folder = gateway.layout().runtime_state().join("volumes/one");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("data.ext4");
        let rubbish = vec![0x5a; 8 << 20];
        std::fs::write(&file, &rubbish).unwrap();
        // Left by a power cut while a volume was made.
        std::fs::write(folder.join(".new-other"), "half").unwrap();
        let mut module = shell("one", &image, WAIT);
        module["volumes"] = json!([{"name": "data", "path": "/data"}]);
        let mut good = shell("good", &image, WAIT);
        good["volumes"] = json!([{"name": "data", "path": "/data"}]);
        gateway.deploy(1, vec![module.clone(), good], "").await;
        gateway.start_runtimed().await;
        let refused = |module: &ModuleStatus| {
            module.reason.as_ref().is_some_and(|reason| reason.reason == Reason::VolumeFailed)
        };
        gateway.module("one", "refused", refused).await;
        gateway.module("good", "running", running).await;
        assert!(std::fs::read(&file).unwrap() == rubbish, "it is somebody's data");
        let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounted.contains("one-1/"), "nothing of it is left: {mounted}");
        module["volumes"] = json!([{"name": "other", "path": "/data", "bytes_max": 8 << 20}]);
        gateway.deploy(2, vec![module], "").await;
        gateway.module("one", "running", running).await;
    });
}

#[test]
fn files_folders_devices_and_names_are_where_the_deployment_says() {
    in_namespaces("containers::files_folders_devices_and_names_are_where_the_deployment_says", async || {
        let mut gateway = Gateway::joined("found").await;
        let image = gateway.image_with("clinic/alerts", &TOOLS).await;
        let script = "cat /etc/app/config.toml; echo x >> /etc/app/config.toml; /opt/hook; hostname; \
             cp /opt/hook /scratch/hook && /scratch/hook ran; cp /opt/hook /tmp/hook && /tmp/hook 2>&1; \
             grep plc /etc/hosts; stat -c '%F %A' /dev/plc; head -c 3 /dev/plc | wc -c; head -c 1 /dev/plc-write 2>&1; \
             head -c 1 /dev/full > /dev/null && echo usual; ls -l /dev/shm /dev/pts > /dev/null && echo dev; \
             df -k --output=size /dev/shm | tail -1; ulimit -n; \
             (exec 3<>/dev/udp/127.0.0.1/9) && echo network; trap 'echo asked; exit 0' INT; echo end; while :; do sleep 0.1; done";
        let mut module = shell("alerts", &image, script);
        module["files"] = json!([
            {"path": "/etc/app/config.toml", "text": "interval = 5\n"},
            {"path": "/opt/hook", "text": "#!/usr/bin/bash\necho hook $1\n", "exec": true},
        ]);
        module["temporary"] =
            json!([{"path": "/scratch", "exec": true}, {"path": "/dev/shm", "bytes_max": 2 << 20}]);
        module["devices"] = json!([
            {"path": "/dev/zero", "as": "/dev/plc", "access": "r"},
            {"path": "/dev/zero", "as": "/dev/plc-write", "access": "w"},
        ]);
        module["extra_hosts"] = json!({"plc-7.plant.example": "192.0.2.7"});
        module["hostname"] = json!("reader");
        module["nofile_max"] = json!(77);
        module["stop"] = json!({"signal": "SIGINT", "grace_seconds": 5});
        gateway.deploy(1, vec![module.clone(), shell("later", &image, WAIT)], "").await;
        gateway.start_runtimed().await;
        gateway.printed("alerts", "end").await;
        let log = gateway.logs("alerts").await;
        for expected in [
            "interval = 5",
            "hook",
            "hook ran",
            "reader",
            "192.0.2.7 plc-7.plant.example",
            "3",
            "usual",
            "dev",
            "2048",
            "77",
            "network",
        ] {
            assert!(log.iter().any(|line| line.trim() == expected), "{expected} in {log:#?}");
        }
        assert!(log.iter().any(|line| line.starts_with("character special file cr--------")), "{log:#?}");
        let denied = |what: &str| log.iter().any(|line| line.contains(what) && line.contains("ermi"));
        assert!(denied("/dev/plc-write"), "no reading: {log:#?}");
        assert!(denied("/tmp/hook"), "no programs in /tmp: {log:#?}");
        assert!(
            log.iter().any(|line| line.contains("config.toml: Read-only file system")
                || line.contains("config.toml: Permission denied")),
            "{log:#?}"
        );

        // A new module has a name there, beside the deployment's own.
        gateway
            .deploy(2, vec![module.clone(), shell("later", &image, WAIT), shell("new", &image, WAIT)], "")
            .await;
        let module = gateway.module("alerts", "running", running).await;
        let (pid, mounted) = (module.pid.unwrap(), format!("/{}/", module.instance.unwrap()));
        gateway.module("new", "running", running).await;
        let hosts = std::fs::read_to_string(format!("/proc/{pid}/root/etc/hosts")).unwrap();
        assert!(hosts.contains(" new\n") && hosts.contains(" plc-7.plant.example\n"), "{hosts}");

        // Its own signal ends it, and what was mounted for it goes.
        gateway.deploy(3, vec![shell("later", &image, WAIT), shell("new", &image, WAIT)], "").await;
        for _ in 0..600 {
            if !std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&mounted) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&mounted));
        let kept = std::fs::read_to_string(gateway.layout().logs().join("alerts.log")).unwrap();
        let said = std::fs::read_to_string(gateway.folder.path().join("runtimed.log")).unwrap();
        assert!(kept.contains("asked"), "{kept}\n{said}");
    });
}

#[test]
fn a_device_that_is_away_or_forbidden_keeps_its_module_from_starting() {
    in_namespaces(
        "containers::a_device_that_is_away_or_forbidden_keeps_its_module_from_starting",
        async || {
            let mut gateway = Gateway::joined("devices").await;
            let image = gateway.image_with("clinic/alerts", &TOOLS).await;
            let module = |name: &str, path: &str| {
                let mut module =
                    shell(name, &image, &format!("head -c 2 /dev/plc | wc -c; echo end; {WAIT}"));
                module["devices"] = json!([{"path": path, "as": "/dev/plc"}]);
                module
            };
            let place = format!("/dev/edgewarden-test-{}", std::process::id());
            let modules =
                vec![module("away", &place), module("memory", "/dev/mem"), module("log", "/dev/kmsg")];
            gateway.deploy(1, modules, "").await;
            gateway.start_runtimed().await;
            let refused = |wanted: Reason| {
                move |module: &ModuleStatus| {
                    module.reason.as_ref().is_some_and(|reason| reason.reason == wanted)
                }
            };
            gateway.module("log", "refused", refused(Reason::DeviceForbidden)).await;
            gateway.module("away", "waiting for its device", refused(Reason::DeviceMissing)).await;
            let memory = gateway.module("memory", "refused", |module| module.reason.is_some()).await;
            assert_ne!(memory.state, ModuleState::Running);
            // It is plugged in: nobody has to say so.
            std::os::unix::fs::symlink("/dev/zero", &place).unwrap();
            let found = gateway.printed("away", "end").await;
            std::fs::remove_file(&place).unwrap();
            assert_eq!(found, "end");
        },
    );
}
