//! Modules on a whole gateway: real `identityd`, registry, runc, namespaces and rules.

use crate::common;

use std::os::unix::fs::PermissionsExt as _;

use common::{Gateway, call, entries, in_namespaces, shell, until};
use edgewarden_names::Reason;
use edgewarden_protocol::runtime_console as control;
use edgewarden_protocol::runtime_console::ModuleStatus;
use edgewarden_protocol::uplink::ModuleState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The process that the tests start as `runtimed`.
const WAIT: &str = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done";
const OPEN: &str = r#"@id("alarm") permit (principal == Module::"analytics", action == Action::"open_flow", resource == Port::"alerts/alarm");"#;

fn running(module: &ModuleStatus) -> bool {
    module.state == ModuleState::Running
}

#[test]
fn a_module_runs_confined() {
    in_namespaces("modules::a_module_runs_confined", async || {
        let mut gateway = Gateway::joined("confined").await;
        let image = gateway.image("clinic/alerts", true).await;
        let script = format!(
            "id; cat /proc/self/status /etc/hosts /proc/net/route; echo env $EDGEWARDEN_MODULE $EDGEWARDEN_GATEWAY $SPIFFE_ENDPOINT_SOCKET; \
             for place in /x /usr/x /etc/hosts /run/edgewarden/x /proc/sys/kernel/hostname; do touch $place && echo wrote $place; done; \
             echo mine > /proc/sys/kernel/hostname && echo wrote hostname; \
             touch /tmp/x && echo tmp is writable; test -S /run/edgewarden/api.sock && echo socket is there; echo pids $$; {WAIT}"
        );
        gateway.deploy(1, vec![shell("alerts", &image, &script)], "").await;
        gateway.start_runtimed().await;
        let module = gateway.module("alerts", "running", running).await;
        assert_eq!(module.generation.unwrap().0, 1, "an image that was fetched is judged once");
        gateway.printed("alerts", "pids 1").await;
        let log = gateway.logs("alerts").await;
        for expected in [
            "10.77.0.1 gateway",
            "10.77.0.2 alerts",
            "tmp is writable",
            "socket is there",
            "env alerts confined unix:///run/edgewarden/api.sock",
        ] {
            assert!(log.iter().any(|line| line == expected), "{expected} in {log:#?}");
        }
        let user = log.iter().find_map(|line| line.strip_prefix("uid=")?.split_once(" gid=")).unwrap();
        let expected = ("65532(nonroot)", "65532(nonroot) groups=65532(nonroot)");
        assert_eq!(user, expected, "the image's user");
        let outside = std::fs::metadata(format!("/proc/{}", module.pid.unwrap())).unwrap();
        let outside = std::os::unix::fs::MetadataExt::uid(&outside);
        assert!(
            outside > 0x7000_0000 && outside & 0xffff == 65_532,
            "a user of its own outside: {outside:#x}"
        );
        for expected in
            ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
        {
            assert!(log.iter().any(|line| line == expected), "{expected} in {log:#?}");
        }
        let wrote: Vec<_> = log.iter().filter(|line| line.starts_with("wrote")).collect();
        assert!(wrote.is_empty(), "{wrote:?}");
        assert!(
            log.iter().any(|line| line.starts_with("eth0\t00000000\t0101FEA9")),
            "the default route: {log:#?}"
        );

        let instance = module.instance.unwrap();
        let pid = module.pid.unwrap();
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let own = cgroup
            .lines()
            .find_map(|line| line.split_once(":/edgewarden/confined-"))
            .expect("a cgroup of its own")
            .1;
        assert!(own.ends_with(&format!("/{instance}")), "{cgroup}");
        let limit = |file: [&str; 2]| {
            let v1 = format!("/sys/fs/cgroup/{}/edgewarden/confined-{own}/{}", file[0], file[1]);
            std::fs::read_to_string(v1).ok().map(|text| text.trim().to_owned())
        };
        if std::path::Path::new("/sys/fs/cgroup/pids").exists() {
            assert_eq!(limit(["memory", "memory.limit_in_bytes"]).unwrap(), (32 * 1024 * 1024).to_string());
            assert_eq!(limit(["pids", "pids.max"]).unwrap(), "20");
        }
        for kind in ["user", "pid", "mnt", "ipc", "uts", "net", "cgroup"] {
            let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_ne!(namespace("self"), namespace(&pid.to_string()), "{kind}");
        }
    });
}

#[test]
fn modules_for_azures_sdks_find_their_socket_and_others_have_none() {
    in_namespaces("modules::modules_for_azures_sdks_find_their_socket_and_others_have_none", async || {
        let mut gateway = Gateway::joined("iotedge").await;
        let image = gateway.image("clinic/alerts", true).await;
        let script = format!(
            "echo azure $IOTEDGE_WORKLOADURI $IOTEDGE_MODULEID $IOTEDGE_DEVICEID $IOTEDGE_IOTHUBHOSTNAME $IOTEDGE_GATEWAYHOSTNAME; \
             echo generation $IOTEDGE_MODULEGENERATIONID; test -S /run/edgewarden/workload.sock && echo socket is there; \
             touch /run/edgewarden/workload.sock && echo wrote; echo end; {WAIT}"
        );
        let mut alerts = shell("alerts", &image, &script);
        alerts["iotedge"] = true.into();
        gateway.deploy(1, vec![alerts, shell("plain", &image, &script)], "").await;
        gateway.start_runtimed().await;
        gateway.printed("alerts", "end").await;
        gateway.printed("plain", "end").await;
        let log = gateway.logs("alerts").await;
        let instance = gateway.module("alerts", "running", running).await.instance.unwrap();
        let generation = format!("generation {}", instance.strip_prefix("alerts-").unwrap());
        for expected in [
            "azure unix:///run/edgewarden/workload.sock alerts iotedge plant.example gateway",
            &generation,
            "socket is there",
        ] {
            assert!(log.iter().any(|line| line == expected), "{expected} in {log:#?}");
        }
        assert!(!log.iter().any(|line| line == "wrote"), "{log:#?}");
        let plain = gateway.logs("plain").await;
        assert!(!plain.iter().any(|line| line == "socket is there" || line.contains("unix:")), "{plain:#?}");
    });
}

#[test]
fn modules_outlive_the_daemon_and_what_dies_is_started_again() {
    in_namespaces("modules::modules_outlive_the_daemon_and_what_dies_is_started_again", async || {
        let mut gateway = Gateway::joined("outlive").await;
        let image = gateway.image("clinic/alerts", true).await;
        let script = "n=0; while :; do echo tick $n $$; n=$((n+1)); sleep 0.05; done";
        let once = serde_json::json!({"name": "once", "image": image, "args": ["-c", "echo once; exit 3"], "restart": "never"});
        gateway.deploy(1, vec![shell("alerts", &image, script), once], "").await;
        gateway.start_runtimed().await;
        let first = gateway.module("alerts", "running", running).await;
        let once = gateway.module("once", "stopped", |module| module.state == ModuleState::Stopped).await;
        let reason = once.reason.unwrap();
        assert_eq!(reason.reason, Reason::ModuleExited);
        assert!(
            reason.rule.contains("status 3"),
            "the exit status is known: {reason}, {:?}",
            gateway.logs("once").await
        );

        gateway.kill_runtimed();
        let log = gateway.layout().logs().join("alerts.log");
        let before = std::fs::metadata(&log).unwrap().len();
        until("the module prints while the daemon is dead", async || {
            (std::fs::metadata(&log).unwrap().len() > before + 100).then_some(())
        })
        .await;
        gateway.start_runtimed().await;
        let again = gateway.module("alerts", "running", running).await;
        assert_eq!((again.pid, again.generation), (first.pid, first.generation), "it was not started again");
        let still = gateway.module("once", "stopped", |module| module.state == ModuleState::Stopped).await;
        assert_eq!(still.reason, Some(reason), "what is never to be started again is not");

        // Without a registry, from disk alone.
        gateway.stop_registry();
        kill(Pid::from_raw(first.pid.unwrap()), Signal::SIGKILL).unwrap();
        let second = gateway.module("alerts", "running again", |m| running(m) && m.pid != first.pid).await;
        assert_eq!(second.restarts, 1);
        assert!(second.generation > first.generation);
        assert_eq!(second.address, first.address, "the address stays");

        // An instance that ended while nobody looked.
        gateway.kill_runtimed();
        kill(Pid::from_raw(second.pid.unwrap()), Signal::SIGKILL).unwrap();
        gateway.start_runtimed().await;
        let third = gateway.module("alerts", "running again", |m| running(m) && m.pid != second.pid).await;
        let listed = gateway.runc(&["list", "--quiet"]);
        assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), [third.instance.unwrap()], "no leftovers");

        gateway.deploy(2, Vec::new(), "").await;
        until("the modules are gone", async || gateway.status().await.modules.is_empty().then_some(())).await;
        let run = gateway.layout().runtime_run();
        until("nothing is left", async || {
            let left = [run.join("netns"), run.join("bundles"), run.join("instances")]
                .map(|folder| entries(&folder));
            (left == [0, 0, 0] && gateway.runc(&["list", "--quiet"]).trim().is_empty()).then_some(())
        })
        .await;
    });
}

#[test]
fn what_policy_does_not_name_is_refused_in_the_kernel_and_told() {
    in_namespaces("modules::what_policy_does_not_name_is_refused_in_the_kernel_and_told", async || {
        let mut gateway = Gateway::joined("flows").await;
        let image = gateway.image("clinic/alerts", true).await;
        // Nobody listens: what is let through is answered with a reset, what is not with silence.
        let connect = |port: u16| {
            format!(
                "while :; do (echo > /dev/tcp/alerts/{port}) 2>&1 | cat; echo tried {port}; sleep 0.2; done"
            )
        };
        gateway
            .deploy(1, vec![shell("alerts", &image, WAIT), shell("analytics", &image, &connect(9443))], OPEN)
            .await;
        gateway.start_runtimed().await;
        gateway.module("analytics", "running", running).await;
        gateway.printed("analytics", "Connection refused").await;
        assert_eq!(
            gateway.status().await.epoch,
            match gateway.ask(edgewarden_protocol::control::Request::Status).await.unwrap() {
                edgewarden_protocol::control::Reply::Status(status) => status.epoch,
                other => panic!("{other:?}"),
            }
        );
        let before = gateway.module("analytics", "running", running).await;

        // The same modules, another policy: nobody is restarted, the flow ends.
        gateway
            .deploy(2, vec![shell("alerts", &image, WAIT), shell("analytics", &image, &connect(9443))], "")
            .await;
        let told = until("the refusal is in the audit log", async || {
            let refused = |entry: &edgewarden_protocol::control::AuditEntry| {
                format!("{entry:?}").contains("analytics → alerts:9443")
            };
            gateway.audit().await.into_iter().find(refused)
        })
        .await;
        assert!(format!("{told:?}").contains("policy.denied"), "{told:?}");
        let after = gateway.module("analytics", "running", running).await;
        assert_eq!(before.pid, after.pid);
    });
}

#[test]
fn an_image_that_nobody_signed_does_not_start_and_the_reason_is_shown() {
    in_namespaces(
        "modules::an_image_that_nobody_signed_does_not_start_and_the_reason_is_shown",
        async || {
            let mut gateway = Gateway::joined("unsigned").await;
            let unsigned = gateway.image("clinic/unsigned", false).await;
            let good = gateway.image("clinic/good", true).await;
            let missing = format!("127.0.0.1:5000/clinic/none@sha256:{}", "ab".repeat(32));
            let modules = vec![
                shell("bad", &unsigned, WAIT),
                shell("good", &good, WAIT),
                shell("missing", &missing, WAIT),
            ];
            gateway.deploy(1, modules, "").await;
            gateway.start_runtimed().await;
            let bad = gateway.module("bad", "refused", |module| module.state == ModuleState::Refused).await;
            assert_eq!(bad.reason.unwrap().reason, Reason::ImageUnsigned);
            let missing =
                gateway.module("missing", "waiting", |module| module.state == ModuleState::Waiting).await;
            assert_eq!(missing.reason.unwrap().reason, Reason::ImageUnavailable);
            let module = gateway.module("good", "running", running).await;
            let listed = gateway.runc(&["list", "--quiet"]);
            assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), [module.instance.unwrap()]);

            // `edgewarden down`: everything ends, in its own time, and nothing stays.
            let shutdown = control::Request::Shutdown { stop_modules: true };
            assert_eq!(call(&gateway.layout(), &shutdown).await.unwrap(), control::Reply::Done);
            assert!(gateway.runc(&["list", "--quiet"]).trim().is_empty());
            assert!(gateway.status().await.modules.is_empty(), "the daemon stays and starts nothing more");
            let log = std::fs::read_to_string(gateway.layout().logs().join("good.log")).unwrap();
            assert!(log.contains("bye"), "SIGTERM came first: {log}");
            let shown = |program: &str, args: &[&str]| {
                let output = std::process::Command::new(program).args(args).output().unwrap();
                String::from_utf8_lossy(&output.stdout).into_owned()
            };
            assert!(!shown("nft", &["list", "tables"]).contains("edgewarden"));
            assert!(!shown("ip", &["-o", "link"]).contains(" ew"));
            assert!(!shown("cat", &["/proc/self/mounts"]).contains(gateway.folder.path().to_str().unwrap()));
        },
    );
}

#[test]
fn a_module_comes_from_a_registry_with_a_login_and_the_password_of_the_moment() {
    // bcrypt of `s3cret-pass` and of `rotated-pass`, of the lowest cost.
    const FIRST: &str = "gateway:$2b$05$abcdefghijklmnopqrstuuV7fpPozvyqJfnY19y0802WTlXUm6Rjy\n";
    const ROTATED: &str = "gateway:$2b$05$abcdefghijklmnopqrstuuA283yP3n.YLvYz0EgewzV105KsTYdy2\n";
    in_namespaces(
        "modules::a_module_comes_from_a_registry_with_a_login_and_the_password_of_the_moment",
        async || {
            let mut gateway = Gateway::joined("login").await;
            let (htpasswd, logins) =
                (gateway.folder.path().join("htpasswd"), gateway.folder.path().join("registries.json"));
            let password = |file: &str, password: &str| {
                std::fs::write(&htpasswd, file).unwrap();
                let entry = serde_json::json!({"username": "gateway", "password": password});
                std::fs::write(&logins, serde_json::json!({"auths": {"127.0.0.1:5000": entry}}).to_string())
                    .unwrap();
                std::fs::set_permissions(&logins, std::fs::Permissions::from_mode(0o600)).unwrap();
            };
            password(FIRST, "s3cret-pass");
            gateway.stop_registry();
            let sections = format!("auth: {{htpasswd: {{realm: plant, path: {}}}}}\n", htpasswd.display());
            gateway.start_registry_with("127.0.0.1:5000", &sections).await;
            gateway.configure(|config| {
                config.runtime.plain_http_registries.push("localhost:5000".into());
                config.runtime.registry_credentials_file = Some(logins.clone());
            });
            let image = gateway.image("clinic/alerts", true).await;
            let later = gateway.revision("clinic/alerts", "two", true).await;
            let elsewhere = image.replace("127.0.0.1:5000", "localhost:5000");
            gateway
                .deploy(1, vec![shell("alerts", &image, WAIT), shell("other", &elsewhere, WAIT)], "")
                .await;
            gateway.start_runtimed().await;
            gateway.module("alerts", "running", running).await;
            let refused =
                gateway.module("other", "refused", |module| module.state == ModuleState::Refused).await;
            let refusal = refused.reason.unwrap();
            assert_eq!(refusal.reason, Reason::ImageLogin);
            assert!(refusal.to_string().contains("localhost:5000"), "{refusal}");
            assert!(refusal.rule.contains("registries.json"), "{refusal}");

            password(ROTATED, "rotated-pass");
            gateway.deploy(2, vec![shell("alerts", &later, WAIT)], "").await;
            gateway
                .module("alerts", "of the later image", |module| {
                    running(module) && module.update.is_none() && module.image == later
                })
                .await;
            let log = std::fs::read_to_string(gateway.folder.path().join("runtimed.log")).unwrap();
            for secret in ["s3cret-pass", "rotated-pass", "Z2F0ZXdheTpz", "Z2F0ZXdheTpy"] {
                assert!(!log.contains(secret), "{log}");
            }
        },
    );
}

/// From inside: every way to something that is not another module's named port.
#[test]
fn a_module_reaches_nothing_of_the_host() {
    in_namespaces("modules::a_module_reaches_nothing_of_the_host", async || {
        let mut gateway = Gateway::joined("closed").await;
        // The host is on a network with a way out, and listens everywhere.
        let ip = |args: &str| {
            let status = std::process::Command::new("ip").args(args.split(' ')).status().unwrap();
            assert!(status.success(), "ip {args}");
        };
        ip("link add out type veth peer name far");
        ip("link set far up");
        ip("address add 198.51.100.1/24 dev out");
        ip("link set out up");
        ip("route add default via 198.51.100.254 dev out");
        let listener = std::net::TcpListener::bind("0.0.0.0:7777").unwrap();
        listener.set_nonblocking(true).unwrap();
        let datagrams = std::net::UdpSocket::bind("0.0.0.0:7777").unwrap();
        datagrams.set_nonblocking(true).unwrap();

        let image = gateway.image("clinic/alerts", true).await;
        let targets = [
            // The gateway's own address, another of the host, a neighbour, the metadata services of clouds, the internet.
            "tcp/10.77.0.1/7777",
            "tcp/198.51.100.1/7777",
            "tcp/198.51.100.7/443",
            "tcp/169.254.169.254/80",
            "tcp/192.0.2.1/443",
            "udp/10.77.0.1/7777",
            "udp/198.51.100.1/7777",
            "udp/192.0.2.53/53",
            // The other module, on a port that only the first may open.
            "tcp/10.77.0.2/9443",
        ];
        let mut script = String::new();
        for target in targets {
            script += "(echo x > /dev/TARGET && [[ TARGET = tcp* ]] && echo reached TARGET) & "
                .replace("TARGET", target)
                .as_str();
        }
        // What is its own answers or refuses by itself.
        let asked = format!(
            "(echo > /dev/tcp/127.0.0.1/7777) 2>&1 | cat; (echo > /dev/tcp/169.254.1.1/7777; echo) 2>&1 | cat & \
             (echo > /dev/tcp/::1/7777) 2>&1 | cat; cat /proc/net/if_inet6; \
             for place in /run/edgewarden/api.sock /run/edgewarden/new /run/new; do mkdir $place && echo made $place; done; \
             : > /run/edgewarden/api.sock && echo wrote; echo asked; {WAIT}"
        );
        script += &asked;
        let policy = OPEN.replace("analytics", "other");
        gateway
            .deploy(
                1,
                vec![
                    shell("alerts", &image, WAIT),
                    shell("analytics", &image, &script),
                    shell("other", &image, WAIT),
                ],
                &policy,
            )
            .await;
        gateway.start_runtimed().await;
        gateway.module("analytics", "running", running).await;
        gateway.printed("analytics", "asked").await;
        for told in [
            "analytics → gateway:7777",
            "analytics → 198.51.100.1:7777",
            "analytics → 198.51.100.7:443",
            "analytics → 169.254.169.254:80",
            "analytics → 192.0.2.1:443",
            "analytics → 192.0.2.53:53",
            "analytics → alerts:9443",
        ] {
            until("a refusal in the audit log", async || {
                gateway
                    .audit()
                    .await
                    .into_iter()
                    .find(|entry| entry.subject == told && entry.detail.contains("policy.denied"))
            })
            .await;
        }
        let log = gateway.logs("analytics").await;
        for word in ["reached", "made", "wrote"] {
            assert!(!log.iter().any(|line| line.starts_with(word)), "{log:#?}");
        }
        assert!(log.iter().any(|line| line.contains("127.0.0.1/7777: Connection refused")), "{log:#?}");
        assert!(!log.iter().any(|line| line.contains(" eth0")), "IPv6 is off: {log:#?}");
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(datagrams.recv(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_module_that_wants_everything_hurts_itself_alone() {
    in_namespaces("modules::a_module_that_wants_everything_hurts_itself_alone", async || {
        let mut gateway = Gateway::joined("greedy").await;
        let image = gateway.image("clinic/alerts", true).await;
        let forks = format!("for n in {{1..60}}; do sleep 1000 & done; {WAIT}");
        let memory = "x=x; while :; do x=$x$x; done";
        let flood = "x=x; for n in {1..20}; do x=$x$x; done; echo ready; until test -e /run/go; do sleep 0.05; done; for n in {1..100}; do echo $x; done; touch /tmp/over; while :; do sleep 1; done";
        let once = |name: &str, script: &str| {
            let mut module = shell(name, &image, script);
            module["restart"] = "never".into();
            module
        };
        let modules = vec![
            once("forks", &forks),
            once("memory", memory),
            once("flood", flood),
            shell("good", &image, WAIT),
        ];
        gateway.deploy(1, modules, "").await;
        gateway.start_runtimed().await;
        gateway.printed("forks", "Resource temporarily unavailable").await;
        let ended = gateway.module("memory", "ended", |module| module.state == ModuleState::Stopped).await;
        assert!(ended.reason.unwrap().rule.contains("signal 9"), "the kernel ended it");

        // Its log stays small, whether the daemon is there or not.
        gateway.printed("flood", "ready").await;
        let flooding = gateway.module("flood", "running", running).await;
        gateway.kill_runtimed();
        std::fs::write(format!("/proc/{}/root/run/go", flooding.pid.unwrap()), "").unwrap();
        until("the flood is over", async || {
            std::path::Path::new(&format!("/proc/{}/root/tmp/over", flooding.pid.unwrap()))
                .exists()
                .then_some(())
        })
        .await;
        for file in ["flood.log", "flood.log.1"] {
            let length = std::fs::metadata(gateway.layout().logs().join(file)).unwrap().len();
            assert!(length <= 4 << 20, "{file} has {length} of the hundred megabytes that it wrote");
        }
        gateway.start_runtimed().await;
        gateway.module("good", "running", running).await;
    });
}

/// Whatever its start needs is stored: nothing has to be written for it.
#[test]
fn an_ended_module_starts_again_though_the_disk_is_full() {
    in_namespaces("modules::an_ended_module_starts_again_though_the_disk_is_full", async || {
        let mut gateway = Gateway::joined("full").await;
        let (state, logs) = (gateway.layout().runtime_state(), gateway.layout().logs());
        for folder in [&state, &logs] {
            std::fs::create_dir_all(folder).unwrap();
            let mounted = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=48m,mode=0700", "none"])
                .arg(folder)
                .status()
                .unwrap();
            assert!(mounted.success());
        }
        let image = gateway.image("clinic/alerts", true).await;
        gateway.deploy(1, vec![shell("alerts", &image, &format!("echo started; {WAIT}"))], "").await;
        gateway.start_runtimed().await;
        gateway.printed("alerts", "started").await;
        let mut pid = gateway.module("alerts", "running", running).await.pid;
        for folder in [&state, &logs] {
            let filled = std::process::Command::new("dd")
                .args(["if=/dev/zero", "bs=64k", "status=none"])
                .arg(format!("of={}", folder.join("filler").display()))
                .stderr(std::process::Stdio::null())
                .status()
                .unwrap();
            assert!(!filled.success(), "the disk is full");
            assert!(std::fs::write(folder.join("more"), [0; 8192]).is_err());
        }
        for with_daemon in [true, false] {
            if !with_daemon {
                gateway.kill_runtimed();
            }
            kill(Pid::from_raw(pid.unwrap()), Signal::SIGKILL).unwrap();
            if !with_daemon {
                gateway.start_runtimed().await;
            }
            let again = |module: &ModuleStatus| running(module) && module.pid.is_some() && module.pid != pid;
            pid = gateway.module("alerts", "running again", again).await.pid;
        }
        // A new image needs room, says so, and is tried again by itself.
        let large = gateway.revision("clinic/alerts", "two", true).await;
        gateway.deploy(2, vec![shell("alerts", &large, WAIT)], "").await;
        let waits =
            |module: &ModuleStatus| module.update.as_ref().is_some_and(|update| update.reason.is_some());
        let waiting = gateway.module("alerts", "told that there is no room", waits).await;
        assert_eq!((waiting.pid, waiting.state), (pid, ModuleState::Running));
        let update = waiting.update.unwrap();
        assert_eq!(update.state, ModuleState::Waiting);
        assert!(update.reason.unwrap().rule.contains("No space left"), "in words");
        std::fs::remove_file(state.join("filler")).unwrap();
        gateway.module("alerts", "updated", |module| running(module) && module.image == large).await;
    });
}

/// A module's output stays, whatever it does with its own output, and whoever of us ends meanwhile.
#[test]
fn a_module_cannot_rewind_what_it_printed() {
    in_namespaces("modules::a_module_cannot_rewind_what_it_printed", async || {
        let mut gateway = Gateway::joined("logs").await;
        let image = gateway.image("clinic/alerts", true).await;
        let script = format!(
            "echo first; echo second > /dev/stdout; : > /dev/stdout; echo third >> /proc/self/fd/1; \
             printf '\\033[2J\\033]0;root\\a'; echo; echo fourth >&2; \
             until test -e /run/go; do sleep 0.05; done; echo fifth > /dev/stderr; {WAIT}"
        );
        gateway.deploy(1, vec![shell("alerts", &image, &script)], "").await;
        gateway.start_runtimed().await;
        gateway.printed("alerts", "fourth").await;
        let module = gateway.module("alerts", "running", running).await;
        let expected = ["first", "second", "third", "\u{1b}[2J\u{1b}]0;root\u{7}", "fourth"];
        assert_eq!(gateway.logs("alerts").await, expected);

        gateway.kill_runtimed();
        std::fs::write(format!("/proc/{}/root/run/go", module.pid.unwrap()), "").unwrap();
        let log = gateway.layout().logs().join("alerts.log");
        until("the line of the time without a daemon", async || {
            std::fs::read_to_string(&log).unwrap().contains("fifth").then_some(())
        })
        .await;
        gateway.start_runtimed().await;
        let again = gateway.module("alerts", "running", running).await;
        assert_eq!((again.pid, again.restarts), (module.pid, 0));
        gateway.deploy(2, Vec::new(), "").await;
        until("its last words, and the end of what read them", async || {
            let over = std::fs::read_to_string(&log).unwrap().ends_with("bye\n");
            let pumps = std::process::Command::new("pgrep").arg("-f").arg(gateway.layout().logs()).output();
            (over && pumps.unwrap().stdout.is_empty()).then_some(())
        })
        .await;
    });
}
