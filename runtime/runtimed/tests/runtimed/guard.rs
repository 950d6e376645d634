//! Enforcement outside of the daemon's process is put back when somebody changes it, is told, and opens nothing
//! meanwhile.

use crate::common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Gateway, in_namespaces, shell, until};
use edgewarden_names::Reason;
use edgewarden_protocol::runtime_console::ModuleStatus;
use edgewarden_protocol::uplink::ModuleState;

/// The process that the tests start as `runtimed`.
/// The command that makes a change.
type Change<'a> = Box<dyn Fn() -> String + 'a>;
const WAIT: &str = "trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done";
const OPEN: &str = r#"@id("alarm") permit (principal == Module::"analytics", action == Action::"open_flow", resource == Port::"alerts/alarm");"#;
/// Knocks at the gateway without pause: each datagram that gets through is one too many.
const KNOCK: &str = "for n in 1 2 3; do (echo x > /dev/tcp/10.77.0.1/7777) & done; echo knocking; \
                     while :; do for n in 1 2 3 4 5 6 7 8; do echo x > /dev/udp/10.77.0.1/7777; done; sleep 0.01; done 2>&1 | cat > /dev/null";

fn running(module: &ModuleStatus) -> bool {
    module.state == ModuleState::Running
}

fn run(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Does something in a container as whoever has root outside can.
fn in_mounts_of(pid: i32, change: fn()) {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/mnt")).unwrap();
    let done = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        change();
    });
    done.join().unwrap();
}

fn rules() -> String {
    let output = Command::new("nft").args(["-s", "list", "table", "inet", "edgewarden"]).output().unwrap();
    // Counted packets come and go.
    let text = String::from_utf8(output.stdout).unwrap();
    let counted =
        |set: &str| text.split(&format!("set {set} {{")).nth(1).and_then(|rest| rest.split("\t}").next());
    let mut text = text.clone();
    for set in ["denied", "spoofed", "flooded"].into_iter().filter_map(counted) {
        text = text.replace(set, "");
    }
    text
}

/// Listeners on the gateway that must hear nothing.
struct Forbidden {
    connections: std::net::TcpListener,
    datagrams: std::net::UdpSocket,
}

impl Forbidden {
    fn listen() -> Self {
        let connections = std::net::TcpListener::bind("0.0.0.0:7777").unwrap();
        let datagrams = std::net::UdpSocket::bind("0.0.0.0:7777").unwrap();
        connections.set_nonblocking(true).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        Self { connections, datagrams }
    }

    fn forget(&self) {
        while self.datagrams.recv(&mut [0; 8]).is_ok() || self.connections.accept().is_ok() {}
    }

    fn heard_nothing(&self, what: &str) {
        let blocks = std::io::ErrorKind::WouldBlock;
        assert_eq!(self.datagrams.recv(&mut [0; 8]).map_err(|error| error.kind()), Err(blocks), "{what}");
        assert_eq!(self.connections.accept().map(drop).map_err(|error| error.kind()), Err(blocks), "{what}");
    }
}

async fn knocking(name: &str) -> (Gateway, Forbidden) {
    let mut gateway = Gateway::joined(name).await;
    let forbidden = Forbidden::listen();
    let image = gateway.image("clinic/alerts", true).await;
    let modules = vec![shell("alerts", &image, WAIT), shell("analytics", &image, KNOCK)];
    gateway.deploy(1, modules, OPEN).await;
    gateway.start_runtimed().await;
    gateway.module("alerts", "running", running).await;
    gateway.module("analytics", "running", running).await;
    gateway.printed("analytics", "knocking").await;
    (gateway, forbidden)
}

/// Waits until the audit log tells of a change, newer than `after`, whose subject and text hold these words.
async fn told(gateway: &Gateway, subject: &str, words: &str) {
    until(&format!("a report of {words} of {subject}"), async || {
        let fits = |entry: &edgewarden_protocol::control::AuditEntry| {
            entry.subject.contains(subject)
                && entry.detail.contains("enforcement.altered")
                && entry.detail.contains(words)
        };
        gateway.audit().await.into_iter().find(fits)
    })
    .await;
}

#[test]
fn rules_that_somebody_removes_come_back_and_meanwhile_nothing_gets_through() {
    in_namespaces(
        "guard::rules_that_somebody_removes_come_back_and_meanwhile_nothing_gets_through",
        async || {
            let (gateway, forbidden) = knocking("flushed").await;
            let whole = rules();
            assert!(whole.contains("epoch 1") && whole.contains("10.77.0.3"), "{whole}");
            let handle = || {
                let text = run("nft -a list chain inet edgewarden from_module");
                let line =
                    text.lines().rfind(|line| line.contains("goto refuse_spoofed")).unwrap().to_owned();
                line.rsplit_once("handle ").unwrap().1.trim().to_owned()
            };
            let element = "nft delete element inet edgewarden sources { \"ew1\" . 10.77.0.2 }";
            let changes: [(&str, Change<'_>); 6] = [
                ("flush ruleset", Box::new(|| "nft flush ruleset".into())),
                ("delete table", Box::new(|| "nft delete table inet edgewarden".into())),
                ("flush chain", Box::new(|| "nft flush chain inet edgewarden input".into())),
                (
                    "delete rule",
                    Box::new(|| format!("nft delete rule inet edgewarden from_module handle {}", handle())),
                ),
                ("delete element", Box::new(|| element.into())),
                ("let all through", Box::new(|| "nft insert rule inet edgewarden input accept".into())),
            ];
            for (what, change) in &changes {
                let before = gateway.status().await.enforcement.repairs;
                run(&change());
                until(&format!("{what}: the rules are whole again"), async || {
                    (rules() == whole).then_some(())
                })
                .await;
                until(&format!("{what}: status says so"), async || {
                    let now = gateway.status().await.enforcement;
                    let by_nft = now.last.as_ref().is_some_and(|last| last.what.contains("`nft` (process "));
                    (now.repairs > before && by_nft && now.lost.is_none()).then_some(())
                })
                .await;
                forbidden.heard_nothing(what);
            }
            told(&gateway, "rules", "changed the rules of the packet filter").await;

            // The walls of the modules themselves.
            let pid = gateway.module("analytics", "running", running).await.pid.unwrap();
            let inside = |command: &str| run(&format!("nsenter --net=/proc/{pid}/ns/net {command}"));
            let wall = inside("nft -s list chain inet edgewarden output");
            inside("nft flush ruleset");
            until("the wall is back", async || {
                let list = Command::new("nsenter")
                    .arg(format!("--net=/proc/{pid}/ns/net"))
                    .args(["nft", "-s", "list", "chain", "inet", "edgewarden", "output"])
                    .output()
                    .unwrap();
                (String::from_utf8_lossy(&list.stdout) == wall).then_some(())
            })
            .await;
            told(&gateway, "analytics", "in the module's network namespace").await;
            forbidden.heard_nothing("the wall was flushed");
        },
    );
}

#[test]
fn routes_and_interfaces_come_back() {
    in_namespaces("guard::routes_and_interfaces_come_back", async || {
        let mut gateway = Gateway::joined("routes").await;
        let image = gateway.image("clinic/alerts", true).await;
        let connect = "while :; do (echo > /dev/tcp/alerts/9443) 2>&1 | cat; sleep 0.1; done";
        gateway
            .deploy(1, vec![shell("alerts", &image, WAIT), shell("analytics", &image, connect)], OPEN)
            .await;
        gateway.start_runtimed().await;
        gateway.module("alerts", "running", running).await;
        let analytics = gateway.module("analytics", "running", running).await;
        // Nobody listens: whom the flow reaches answers with a reset.
        gateway.printed("analytics", "Connection refused").await;
        // What a machine's services set on a new interface is nobody's attack.
        tokio::time::sleep(Duration::from_secs(11)).await;
        let log = gateway.layout().logs().join("analytics.log");
        let inside = format!("nsenter --net=/proc/{}/ns/net ", analytics.pid.unwrap());
        let netns = gateway.layout().runtime_run().join("netns").join(analytics.instance.as_ref().unwrap());
        for (change, words) in [
            ("ip route del 10.77.0.2/32".to_owned(), "the route to 10.77.0.2 was removed"),
            ("ip link set ew1 down".to_owned(), "was set down"),
            ("ip link del ew2".to_owned(), "the interface ew2 was removed"),
            ("ip address del 10.77.0.1/32 dev lo".to_owned(), "the gateway's address 10.77.0.1 was removed"),
            ("sysctl -qw net.ipv4.ip_forward=0".to_owned(), "forwarding was switched off"),
            ("sysctl -qw net.ipv4.conf.ew1.rp_filter=0".to_owned(), "rp_filter` was changed"),
            (format!("{inside}ip route del default"), "the module's default route was removed"),
            (format!("{inside}ip link set eth0 down"), "or was set down"),
            (format!("umount {}", netns.display()), "network namespace was removed"),
        ] {
            run(&change);
            until(&format!("{change}: it is told"), async || {
                let audit = gateway.audit().await;
                let last = gateway.status().await.enforcement.last;
                (audit.iter().any(|entry| entry.detail.contains(words))
                    || last.is_some_and(|last| last.what.contains(words)))
                .then_some(())
            })
            .await;
            let size = std::fs::metadata(&log).unwrap().len();
            until(&format!("{change}: the flow works again"), async || {
                let text = std::fs::read_to_string(&log).unwrap();
                text.get(usize::try_from(size).unwrap()..)
                    .is_some_and(|new| new.matches("Connection refused").count() > 1)
                    .then_some(())
            })
            .await;
        }
        let same = gateway.module("analytics", "running", running).await;
        assert_eq!(same.pid, analytics.pid, "nobody was restarted for it");
        assert!(netns.exists());
    });
}

/// A look at one end must not take the other end's news for looked at: without an event that is found by the next look at
/// everything only, ten seconds later.
#[test]
fn changes_at_both_ends_of_a_network_at_once_are_both_heard() {
    in_namespaces("guard::changes_at_both_ends_of_a_network_at_once_are_both_heard", async || {
        let mut gateway = Gateway::joined("both-ends").await;
        let image = gateway.image("clinic/alerts", true).await;
        gateway.deploy(1, vec![shell("alerts", &image, WAIT), shell("analytics", &image, WAIT)], OPEN).await;
        gateway.start_runtimed().await;
        gateway.module("alerts", "running", running).await;
        let pid = gateway.module("analytics", "running", running).await.pid.unwrap();
        let inside = format!("nsenter --net=/proc/{pid}/ns/net ");
        let begun = std::time::Instant::now();
        for round in 0..5 {
            run("ip route del 10.77.0.2/32");
            run(&format!("{inside}ip route del default"));
            until(&format!("round {round}: both routes are back"), async || {
                let outer = !run("ip route show 10.77.0.2/32").is_empty();
                (outer && !run(&format!("{inside}ip route show default")).is_empty()).then_some(())
            })
            .await;
        }
        assert!(begun.elapsed() < Duration::from_secs(25), "found by the audit only: {:?}", begun.elapsed());
    });
}

#[test]
fn rules_and_walls_that_are_flushed_while_instances_start_and_end_come_back() {
    in_namespaces(
        "guard::rules_and_walls_that_are_flushed_while_instances_start_and_end_come_back",
        async || {
            let (gateway, forbidden) = knocking("storm").await;
            let wall = |pid: i32| {
                let list = ["nft", "-s", "list", "chain", "inet", "edgewarden", "output"];
                let namespace = format!("--net=/proc/{pid}/ns/net");
                let output = Command::new("nsenter").arg(namespace).args(list).output().unwrap();
                String::from_utf8(output.stdout).unwrap()
            };
            let pid = gateway.module("analytics", "running", running).await.pid.unwrap();
            let (whole, own) = (rules(), wall(pid));
            assert!(!own.is_empty());
            let namespaces = gateway.layout().runtime_run().join("netns");
            let storm = format!(
                "while [ ! -e {0}/calm ]; do nft flush ruleset; for n in {1}/*; do nsenter --net=$n nft flush ruleset; done; \
             sleep 0.03; done 2>/dev/null",
                gateway.layout().root().display(),
                namespaces.display()
            );
            let mut storming = Command::new("bash").args(["-c", &storm]).spawn().unwrap();
            let image = gateway.image("clinic/alerts", true).await;
            let alerts = || shell("alerts", &image, WAIT);
            let analytics = |image: &str| shell("analytics", image, KNOCK);
            let other = gateway.revision("clinic/alerts", "two", true).await;
            // One ends, starts again, and gets another image.
            gateway.deploy(2, vec![alerts()], "").await;
            until("analytics is gone", async || {
                let modules = gateway.status().await.modules;
                modules.iter().all(|module| module.name.as_str() != "analytics").then_some(())
            })
            .await;
            gateway.deploy(3, vec![alerts(), analytics(&image)], OPEN).await;
            gateway.module("analytics", "running", running).await;
            gateway.deploy(4, vec![alerts(), analytics(&other)], OPEN).await;
            gateway
                .module("analytics", "running anew", |module| {
                    running(module) && module.pid.is_some_and(|now| now != pid)
                })
                .await;
            std::fs::write(gateway.layout().root().join("calm"), "").unwrap();
            until("the storm is over", async || storming.try_wait().unwrap()).await;
            until("rules and walls are whole", async || {
                let pid = gateway.module("analytics", "running", running).await.pid.unwrap();
                let same_rules = rules().replace("epoch 4", "epoch 1") == whole;
                (same_rules && wall(pid) == own && gateway.status().await.enforcement.lost.is_none())
                    .then_some(())
            })
            .await;
            // Rules and walls at once were open for moments (SECURITY.md). They are closed again.
            forbidden.forget();
            tokio::time::sleep(Duration::from_millis(500)).await;
            forbidden.heard_nothing("after the storm");
        },
    );
}

#[test]
fn limits_mounts_and_sockets_come_back() {
    in_namespaces("guard::limits_mounts_and_sockets_come_back", async || {
        let mut gateway = Gateway::joined("limits").await;
        let image = gateway.image("clinic/alerts", true).await;
        let script = format!(
            "while :; do test -S /run/edgewarden/api.sock && echo found || echo none; sleep 0.1; done & {WAIT}"
        );
        gateway.deploy(1, vec![shell("alerts", &image, &script)], "").await;
        gateway.start_runtimed().await;
        let first = gateway.module("alerts", "running", running).await;
        let instance = first.instance.clone().unwrap();
        let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", first.pid.unwrap())).unwrap();
        let own = cgroup.lines().find_map(|line| line.split_once("/edgewarden/limits-")).unwrap().1;
        let place = |controller: &str, file: &str| {
            let v1 = format!("/sys/fs/cgroup/{controller}/edgewarden/limits-{own}/{file}");
            if Path::new(&v1).exists() {
                v1
            } else {
                format!("/sys/fs/cgroup/edgewarden/limits-{own}/{file}")
            }
        };
        let memory = [place("memory", "memory.limit_in_bytes"), place("memory", "memory.max")];
        let memory = memory.into_iter().find(|file| Path::new(file).exists()).unwrap();
        for (file, lifted) in [(place("pids", "pids.max"), "max"), (memory, "1073741824")] {
            let wanted = std::fs::read_to_string(&file).unwrap();
            // Where the kernel counts swap apart, that limit must rise first.
            let swap = file.replace("memory.limit", "memory.memsw.limit");
            if swap != file && Path::new(&swap).exists() {
                std::fs::write(&swap, lifted).unwrap();
            }
            std::fs::write(&file, lifted).unwrap();
            until(&format!("{file} is back"), async || {
                (std::fs::read_to_string(&file).unwrap() == wanted).then_some(())
            })
            .await;
        }
        told(&gateway, "alerts", "instead of").await;

        // The Workload API's socket, and the daemons' own.
        let api = gateway.layout().workload_socket(&instance);
        for socket in [api, gateway.layout().control_socket(), gateway.layout().runtime_socket()] {
            std::fs::remove_file(&socket).unwrap();
            until(&format!("{} is back", socket.display()), async || {
                std::os::unix::net::UnixStream::connect(&socket).ok()
            })
            .await;
        }
        told(&gateway, &instance, "removed or replaced").await;
        let log = gateway.layout().logs().join("alerts.log");
        let size = std::fs::metadata(&log).unwrap().len();
        until("the module finds its socket", async || {
            let text = std::fs::read_to_string(&log).unwrap();
            text.get(usize::try_from(size).unwrap()..).is_some_and(|new| new.contains("found")).then_some(())
        })
        .await;

        // What is mounted in a container is put back by a new one, at once.
        let mut before = gateway.module("alerts", "running", running).await;
        assert_eq!(before.pid, first.pid);
        let changes: [(&str, fn(), &str); 2] = [
            (
                "umount",
                || nix::mount::umount2("/run/edgewarden", nix::mount::MntFlags::MNT_DETACH).unwrap(),
                "/run/edgewarden was unmounted",
            ),
            (
                "remount",
                || {
                    let flags = nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REMOUNT;
                    nix::mount::mount(None::<&str>, "/etc/hosts", None::<&str>, flags, None::<&str>).unwrap();
                },
                "a mount of the module was changed: /etc/hosts",
            ),
        ];
        for (change, how, words) in changes {
            in_mounts_of(before.pid.unwrap(), how);
            let after = gateway
                .module("alerts", "started anew", |module| running(module) && module.pid != before.pid)
                .await;
            assert_eq!(after.restarts, before.restarts + 1);
            until(&format!("{change}: it is told"), async || {
                let fits = |entry: &edgewarden_protocol::control::AuditEntry| {
                    entry.detail.contains("module.altered") && entry.detail.contains(words)
                };
                gateway.audit().await.into_iter().find(fits)
            })
            .await;
            before = after;
        }
    });
}

#[test]
fn a_flush_without_end_opens_nothing_and_floods_no_log() {
    in_namespaces("guard::a_flush_without_end_opens_nothing_and_floods_no_log", async || {
        let (mut gateway, forbidden) = knocking("endless").await;
        let whole = rules();
        let flush = "for n in $(seq 500); do nft flush ruleset; done";
        let mut flushing = Command::new("bash").args(["-c", flush]).spawn().unwrap();
        until("the flushing is over", async || flushing.try_wait().unwrap()).await;
        until("the rules are whole again", async || (rules() == whole).then_some(())).await;
        forbidden.heard_nothing("500 times flushed");
        let audit = gateway.audit().await;
        let told = audit.iter().filter(|entry| entry.detail.contains("enforcement.altered")).count();
        assert!((1..100).contains(&told), "{told} entries");

        // Flushed while nobody is there to put anything back.
        for _ in 0..3 {
            gateway.kill_runtimed();
            run("nft flush ruleset");
            tokio::time::sleep(Duration::from_millis(300)).await;
            forbidden.heard_nothing("flushed while the daemon was dead");
            gateway.start_runtimed().await;
            until("the rules are whole again", async || (rules() == whole).then_some(())).await;
        }
        // Also without `identityd`: the rules of the last epoch are on disk.
        gateway.kill_runtimed();
        run("nft flush ruleset");
        gateway.stop_identityd();
        gateway.start_runtimed().await;
        assert_eq!(rules(), whole);
        forbidden.heard_nothing("identityd is away");
        for name in ["alerts", "analytics"] {
            assert!(gateway.runc(&["list"]).contains(name), "modules run on");
        }
    });
}

#[test]
fn a_limit_that_a_module_reached_has_a_name() {
    in_namespaces("guard::a_limit_that_a_module_reached_has_a_name", async || {
        let mut gateway = Gateway::joined("named").await;
        let image = gateway.image("clinic/alerts", true).await;
        let forks = format!("for n in {{1..60}}; do sleep 1000 & done; {WAIT}");
        let eat = "x=x; while :; do x=$x$x; done";
        let child = format!("({eat}); echo child ended; {WAIT}");
        let once = |name: &str, script: &str| {
            let mut module = shell(name, &image, script);
            module["restart"] = "never".into();
            module
        };
        let modules = vec![
            once("forks", &forks),
            once("memory", eat),
            once("child", &child),
            once("killed", "kill -KILL $$; sleep 1; exit 7"),
            once("failed", "exit 7"),
        ];
        gateway.deploy(1, modules, "").await;
        gateway.start_runtimed().await;
        let stopped = |module: &ModuleStatus| module.state == ModuleState::Stopped;
        for (name, reason, words) in [
            (
                "memory",
                Reason::ModuleOutOfMemory,
                "signal 9 ended it; out of memory: the kernel ended a process of it once, at its limit of 32 MiB",
            ),
            ("failed", Reason::ModuleExited, "it ended with status 7"),
        ] {
            let found = gateway.module(name, "ended", stopped).await.reason.unwrap();
            assert_eq!((found.reason, found.rule.as_str()), (reason, words));
        }
        // A process 1 does not hear its own signal: it goes on to its end.
        let killed = gateway.module("killed", "ended", stopped).await.reason.unwrap();
        assert_eq!((killed.reason, killed.rule.as_str()), (Reason::ModuleExited, "it ended with status 7"));
        let noted = |module: &ModuleStatus| running(module) && module.reason.is_some();
        let forks = gateway.module("forks", "at its limit", noted).await.reason.unwrap();
        assert_eq!(forks.reason, Reason::ModuleOutOfProcesses);
        assert!(forks.rule.contains("it has 20 processes and threads, which is its limit"), "{forks}");
        let child = gateway.module("child", "out of memory in a child", noted).await.reason.unwrap();
        assert_eq!(child.reason, Reason::ModuleOutOfMemory);
        assert!(child.rule.contains("other processes of it still run"), "{child}");
    });
}

#[test]
fn modules_with_one_user_share_none() {
    in_namespaces("guard::modules_with_one_user_share_none", async || {
        let mut gateway = Gateway::joined("users").await;
        let image = gateway.image("clinic/alerts", true).await;
        // The kernel gives a user 128 inotify instances; `tail -f` takes one and complains when there is none.
        let greedy = format!(
            "for n in {{1..140}}; do tail -f /etc/hosts > /dev/null & done; sleep 2; echo taken; {WAIT}"
        );
        let modest = format!(
            "until test -e /run/go; do sleep 0.1; done; tail -f /etc/hosts & sleep 2; echo looked; {WAIT}"
        );
        let mut first = shell("greedy", &image, &greedy);
        first["pids_max"] = 200.into();
        first["memory_bytes"] = (512_u64 << 20).into();
        gateway.deploy(1, vec![first, shell("modest", &image, &modest)], "").await;
        gateway.start_runtimed().await;
        let modest = gateway.module("modest", "running", running).await;
        gateway.printed("greedy", "taken").await;
        gateway.printed("greedy", "reverting to polling").await;
        std::fs::write(format!("/proc/{}/root/run/go", modest.pid.unwrap()), "").unwrap();
        gateway.printed("modest", "looked").await;
        let log = gateway.logs("modest").await;
        assert!(!log.iter().any(|line| line.contains("reverting to polling")), "{log:#?}");
        let owner = |module: &ModuleStatus| {
            let process = std::fs::metadata(format!("/proc/{}", module.pid.unwrap())).unwrap();
            std::os::unix::fs::MetadataExt::uid(&process)
        };
        let greedy = gateway.module("greedy", "running", running).await;
        assert_ne!(owner(&greedy), owner(&modest), "users");

        // A user is a module's for as long as it has its number.
        let before = owner(&modest);
        gateway.kill_runtimed();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(modest.pid.unwrap()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        gateway.start_runtimed().await;
        let again = |module: &ModuleStatus| running(module) && module.pid != modest.pid;
        let again = gateway.module("modest", "running again", again).await;
        assert_eq!(owner(&again), before);
    });
}

/// Processor time of a process and of the programs that it has started and waited for, in clock ticks (proc_pid_stat(5)).
fn ticks(pid: u32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<u64> =
        stat.rsplit_once(") ").unwrap().1.split(' ').map(|field| field.trim().parse().unwrap_or(0)).collect();
    (fields[11] + fields[12], fields[13] + fields[14])
}

#[test]
fn ten_modules_that_rest_start_no_programs() {
    in_namespaces("guard::ten_modules_that_rest_start_no_programs", async || {
        const SECONDS: u64 = 20;
        let mut gateway = Gateway::joined("resting").await;
        let image = gateway.image("clinic/alerts", true).await;
        let names: Vec<String> = (0..10).map(|number| format!("m{number}")).collect();
        let modules = names.iter().map(|name| shell(name, &image, "sleep 100000")).collect();
        gateway.deploy(1, modules, "").await;
        gateway.start_runtimed().await;
        for name in &names {
            gateway.module(name, "running", running).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let pid = gateway.runtimed_pid();
        let before = ticks(pid);
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        let after = ticks(pid);
        let own = after.0 - before.0;
        println!("runtimed with ten modules: {own} ticks of 10 ms in {SECONDS} s");
        assert_eq!(after.1, before.1, "it started programs");
        // A twentieth of a core, in a build without optimization and on a machine that does other things.
        assert!(own * 10 < SECONDS * 1000 / 20, "{own} ticks of 10 ms in {SECONDS} s");
    });
}
