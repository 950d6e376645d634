//! Services as people run them, in images made of Debian's packages: nothing in them knows of Edgewarden.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use edgewarden_protocol::runtime_console::ModuleStatus;
use edgewarden_protocol::uplink::ModuleState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::common::{Gateway, in_namespaces, shell};

/// What is in every image beside its service.
const BASE: [&str; 6] = ["base-files", "bash", "coreutils", "dash", "grep", "util-linux"];
/// Packages that help to install or are not loaded: perl, debconf, compilers of queries.
const WITHOUT: [&str; 12] = [
    "perl",
    "debconf",
    "dpkg",
    "adduser",
    "init-system",
    "lsb-base",
    "ucf",
    "libllvm",
    "ssl-cert",
    "postgresql-client-common",
    "postgresql-common",
    "libperl",
];

fn output(command: &mut Command) -> String {
    let output = command.stderr(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The packages with what they depend on, as far as it is installed.
fn closure(packages: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left: Vec<String> = packages.iter().map(|name| (*name).to_owned()).collect();
    while let Some(package) = left.pop() {
        if WITHOUT.iter().any(|word| package.starts_with(word)) || found.contains(&package) {
            continue;
        }
        let format = "-f=${db:Status-Status}|${Pre-Depends},${Depends}";
        let said = output(Command::new("dpkg-query").args(["-W", format, &package]));
        let Some((_, depends)) = said.split_once("installed|") else { continue };
        let names =
            depends.split([',', '|']).map(|one| one.trim().split([' ', ':', '(']).next().unwrap_or_default());
        left.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
        found.insert(package);
    }
    found
}

/// The path of a package's file as it is since /bin and /lib are links; `None` when it is not there.
fn merged(path: &str) -> Option<String> {
    let path = Path::new(path);
    path.symlink_metadata().ok()?;
    let place = path.parent()?.canonicalize().ok()?.join(path.file_name()?);
    Some(place.to_str()?.to_owned())
}

/// A tar archive of the packages' files with their owners, and of what is written beside them.
fn layer(packages: &[&str], more: &[(&str, &str, u32)]) -> Vec<u8> {
    let all: Vec<&str> = packages.iter().chain(&BASE).copied().collect();
    let mut files = BTreeSet::new();
    for package in closure(&all) {
        let listed = output(Command::new("dpkg").args(["-L", &package]));
        let wanted = |path: &&str| {
            path.starts_with('/')
                && *path != "/."
                && !path.contains("/share/doc/")
                && !path.contains("/share/man/")
        };
        files.extend(listed.lines().filter(wanted).filter_map(merged));
    }
    files.extend(
        ["/etc/passwd", "/etc/group", "/bin", "/lib", "/lib64", "/sbin", "/usr/bin/sh"].map(str::to_owned),
    );
    let folder = tempfile::tempdir().unwrap();
    let (list, archive) = (folder.path().join("list"), folder.path().join("layer.tar"));
    std::fs::write(&list, files.into_iter().collect::<Vec<_>>().join("\n")).unwrap();
    let tar = |args: &[&str], from: &Path| {
        let made = Command::new("tar")
            .arg("--numeric-owner")
            .args(args)
            .arg("-f")
            .arg(&archive)
            .arg("-T")
            .arg(from)
            .output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    tar(&["-c", "--no-recursion", "-C", "/"], &list);
    for (path, text, mode) in more {
        let place = folder.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, text).unwrap();
        std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(*mode)).unwrap();
        let one = folder.path().join("one");
        std::fs::write(&one, path.trim_start_matches('/')).unwrap();
        tar(&["-r", "--no-recursion", "-C", folder.path().to_str().unwrap()], &one);
    }
    std::fs::read(archive).unwrap()
}

fn running(module: &ModuleStatus) -> bool {
    module.state == ModuleState::Running
}

fn module(name: &str, image: &str, more: &Value) -> Value {
    let mut module = json!({"name": name, "image": image, "memory_bytes": 512 << 20, "pids_max": 100});
    for (key, value) in more.as_object().unwrap() {
        module[key] = value.clone();
    }
    module
}

/// As root, with a log behind a link to /dev/stdout, a low port and a volume; what it serves is read by another module.
#[test]
fn nginx() {
    in_namespaces("services::nginx", async || {
        let mut gateway = Gateway::joined("nginx").await;
        let entry = "#!/bin/sh\nset -e\necho served by nginx > /var/www/html/index.html\nexec nginx -g 'daemon off;'\n";
        let tar = layer(&["nginx-light", "nginx-common"], &[("/entry.sh", entry, 0o755)]);
        let site = "server { listen 80 default_server; root /var/www/html; access_log /dev/stdout; error_log /dev/stderr; }\n";
        let image = gateway
            .image_of(
                "plant/nginx",
                &tar,
                &json!({"Entrypoint": ["/entry.sh"], "WorkingDir": "/srv/new", "StopSignal": "SIGQUIT"}),
            )
            .await;
        let web = module(
            "web",
            &image,
            &json!({
                "read_only": false,
                "ports": [{"name": "http", "port": 80}],
                "volumes": [{"name": "html", "path": "/var/www/html", "bytes_max": 8 << 20}],
                "files": [{"path": "/etc/nginx/sites-enabled/default", "text": site}],
            }),
        );
        let tools = gateway.image("clinic/alerts", true).await;
        let ask = "until (exec 3<>/dev/tcp/web/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3) 2>/dev/null; do sleep 0.2; done; while :; do sleep 1; done";
        let policy = r#"@id("web") permit (principal == Module::"asker", action == Action::"open_flow", resource == Port::"web/http");"#;
        gateway.deploy(1, vec![web, shell("asker", &tools, ask)], policy).await;
        gateway.start_runtimed().await;
        gateway.printed("asker", "served by nginx").await;
        gateway.printed("web", "GET / HTTP/1.0").await;
        // Its workers are no root, inside neither.
        let pid = gateway.module("web", "running", running).await.pid.unwrap();
        let users: BTreeSet<u32> = children(pid).into_iter().map(owner).collect();
        let (root, www) = (owner(pid), 33);
        assert!(users.contains(&(root + www)), "{users:?} of {root}");
    });
}

fn owner(pid: i32) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}")).unwrap())
}

fn children(pid: i32) -> Vec<i32> {
    let said = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    said.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// It switches users, wants folders with owners, and its data outlives kill, update and a new daemon.
#[test]
fn postgresql() {
    in_namespaces("services::postgresql", async || {
        let mut gateway = Gateway::joined("postgres").await;
        let entry = "#!/bin/bash\nset -e\nexport PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data\n\
            install -d -o postgres -g postgres -m 0700 $PGDATA\ninstall -d -o postgres -g postgres -m 0775 /var/run/postgresql\n\
            as() { setpriv --reuid=postgres --regid=postgres --init-groups \"$@\"; }\n\
            [ -s $PGDATA/PG_VERSION ] || as initdb --locale=C --auth=trust > /dev/null\n\
            as postgres -c listen_addresses= & server=$!\ntrap 'kill -INT $server; wait $server; exit 0' TERM\n\
            until as psql -Atc 'select 1' postgres > /dev/null 2>&1; do sleep 0.2; done\n\
            as psql -qc 'create table if not exists batches (n int)' postgres\n\
            as psql -qc \"insert into batches values ($BATCH)\" postgres\n\
            echo batches $(as psql -Atc 'select n from batches order by n' postgres)\nwait $server\n";
        let tar = layer(&["postgresql-15", "postgresql-client-15"], &[("/entry.sh", entry, 0o755)]);
        let config = json!({"Entrypoint": ["/entry.sh"], "Volumes": {"/var/lib/postgresql/data": {}}, "Env": ["LC_ALL=C"]});
        let image = gateway.image_of("plant/postgres", &tar, &config).await;
        let database = |batch: u32| {
            module(
                "database",
                &image,
                &json!({
                    "env": {"BATCH": batch.to_string()},
                    "volumes": [{"name": "data", "path": "/var/lib/postgresql/data", "bytes_max": 256 << 20}],
                    "temporary": [{"path": "/dev/shm", "bytes_max": 64 << 20}],
                }),
            )
        };
        gateway.deploy(1, vec![database(1)], "").await;
        gateway.start_runtimed().await;
        gateway.printed("database", "batches 1").await;
        let pid = gateway.module("database", "running", running).await.pid.unwrap();
        // As when power is lost: nothing is asked to end.
        gateway.kill_runtimed();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        gateway.deploy(2, vec![database(2)], "").await;
        gateway.start_runtimed().await;
        gateway.printed("database", "batches 1 2").await;
    });
}

/// Its own user, an inline configuration, and a client in another module.
#[test]
fn mosquitto() {
    in_namespaces("services::mosquitto", async || {
        let mut gateway = Gateway::joined("mosquitto").await;
        let tar = layer(&["mosquitto", "mosquitto-clients"], &[]);
        let config = json!({"Cmd": ["/usr/sbin/mosquitto", "-c", "/etc/mosquitto/plant.conf"], "User": "mosquitto", "Volumes": {"/var/lib/mosquitto": {}}});
        let image = gateway.image_of("plant/mosquitto", &tar, &config).await;
        let broker = module(
            "broker",
            &image,
            &json!({
                "ports": [{"name": "mqtt", "port": 1883}],
                "volumes": [{"name": "kept", "path": "/var/lib/mosquitto", "bytes_max": 8 << 20}],
                "files": [{"path": "/etc/mosquitto/plant.conf",
                           "text": "listener 1883\nallow_anonymous true\npersistence true\npersistence_location /var/lib/mosquitto/\nlog_dest stdout\n"}],
            }),
        );
        let client = "until mosquitto_pub -h broker -t line/3 -r -m turning; do sleep 0.2; done; mosquitto_sub -h broker -t line/3 -C 1; while :; do sleep 1; done";
        let client =
            module("client", &image, &json!({"args": ["/bin/bash", "-c", client], "user": "nobody"}));
        let policy = r#"@id("mqtt") permit (principal == Module::"client", action == Action::"open_flow", resource == Port::"broker/mqtt");"#;
        gateway.deploy(1, vec![broker, client], policy).await;
        gateway.start_runtimed().await;
        gateway.printed("client", "turning").await;
        assert!(
            !gateway.logs("broker").await.iter().any(|line| line.contains("Error")),
            "{:?}",
            gateway.logs("broker").await
        );
    });
}

/// A process that is ended with its test.
struct Plc(std::process::Child);

impl Drop for Plc {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A configuration file, a serial line, its own user and no other's.
#[test]
fn python_with_a_serial_device() {
    in_namespaces("services::python_with_a_serial_device", async || {
        let mut gateway = Gateway::joined("python").await;
        let program = "import configparser, os, termios, tty\n\
            c = configparser.ConfigParser(); c.read('/etc/reader.ini')\n\
            fd = os.open(c['line']['device'], os.O_RDWR | os.O_NOCTTY); tty.setraw(fd)\n\
            os.write(fd, b'ready\\n')\n\
            print('read', os.read(fd, 100).decode().strip(), 'as', os.getuid(), os.environ['HOME'], os.getcwd(), flush=True)\n\
            import signal; signal.pause()\n";
        let tar =
            layer(&["python3.11-minimal", "libpython3.11-stdlib"], &[("/app/reader.py", program, 0o644)]);
        let config = json!({"Entrypoint": ["/usr/bin/python3.11", "reader.py"], "WorkingDir": "/app", "User": "games"});
        let image = gateway.image_of("plant/reader", &tar, &config).await;
        // The other end of the line: it waits for a word, and answers.
        let plc = "import os, time\nm, s = os.openpty()\nprint(os.ttyname(s), flush=True)\n\
                   print(os.read(m, 100).decode().strip(), flush=True)\nos.write(m, b'21.5 C\\n')\ntime.sleep(600)";
        let plc = Command::new("/usr/bin/python3").args(["-c", plc]).stdout(Stdio::piped()).spawn().unwrap();
        let mut plc = Plc(plc);
        let mut said = BufReader::new(plc.0.stdout.take().unwrap()).lines();
        let line = said.next().unwrap().unwrap();
        let reader = module(
            "reader",
            &image,
            &json!({
                "files": [{"path": "/etc/reader.ini", "text": "[line]\ndevice = /dev/ttyUSB0\n"}],
                "devices": [{"path": line, "as": "/dev/ttyUSB0"}],
            }),
        );
        gateway.deploy(1, vec![reader], "").await;
        gateway.start_runtimed().await;
        gateway.module("reader", "running", running).await;
        let word = tokio::task::spawn_blocking(move || said.next().unwrap().unwrap());
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), word).await.unwrap().unwrap(), "ready");
        gateway.printed("reader", "read 21.5 C as 5 /usr/games /app").await;
    });
}
