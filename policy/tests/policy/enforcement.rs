//! The kernel enforces the rule set: two modules' network namespaces behind a router, as on a gateway. Needs root.

use crate::common;

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use common::{CLINIC_POLICY, clinic, compiled};
use edgewarden_names::ModuleName;
use edgewarden_policy::nftables::{GatewaySide, Interface, Placement, closed, closed_wall, ruleset, walls};

const GATEWAY: GatewaySide =
    GatewaySide { address: Ipv4Addr::new(10, 77, 0, 1), mqtt_port: 8885, flows_max: Some(8) };

fn placement(module: &str, number: u8) -> Placement {
    Placement {
        module: ModuleName::parse(module).unwrap(),
        interface: Interface::parse(&format!("ew{number}")).unwrap(),
        address: Ipv4Addr::new(10, 77, 0, number + 1),
    }
}

fn placements() -> [Placement; 2] {
    [placement("analytics", 1), placement("alerts", 2)]
}

fn run(command: &mut Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The router's namespace and two modules' namespaces, gone when dropped.
struct Net {
    name: String,
    servers: Vec<Child>,
}

impl Net {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ewpol{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut net = Self { name, servers: Vec::new() };
        net.build();
        net
    }

    fn build(&mut self) {
        let router = self.namespace("r");
        sh(&["ip", "netns", "add", &router]);
        self.router(&["ip", "link", "set", "lo", "up"]);
        self.router(&["ip", "address", "add", "10.77.0.1/32", "dev", "lo"]);
        self.router(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        for number in ["1", "2"] {
            let (module, host) = (self.namespace(number), format!("ew{number}"));
            let address = format!("10.77.0.{}", number.parse::<u8>().unwrap() + 1);
            sh(&["ip", "netns", "add", &module]);
            self.router(&[
                "ip", "link", "add", &host, "type", "veth", "peer", "name", "eth0", "netns", &module,
            ]);
            self.router(&["ip", "link", "set", &host, "up"]);
            // The rule set alone must keep false sources out.
            self.router(&["sysctl", "-qw", &format!("net.ipv4.conf.{host}.rp_filter=0")]);
            self.router(&["ip", "route", "add", &format!("{address}/32"), "dev", &host]);
            self.module(number, &["ip", "link", "set", "lo", "up"]);
            self.module(number, &["ip", "link", "set", "eth0", "up"]);
            self.module(number, &["ip", "address", "add", &format!("{address}/32"), "dev", "eth0"]);
            self.module(number, &["ip", "route", "add", "169.254.1.1", "dev", "eth0", "scope", "link"]);
            let hardware = self.router(&["cat", &format!("/sys/class/net/{host}/address")]);
            let neighbour = ["169.254.1.1", "lladdr", hardware.trim(), "dev", "eth0", "nud", "permanent"];
            self.module(number, &[&["ip", "neigh", "add"], neighbour.as_slice()].concat());
            self.module(number, &["ip", "route", "add", "default", "via", "169.254.1.1", "dev", "eth0"]);
        }
        self.router(&["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0"]);
    }

    fn namespace(&self, part: &str) -> String {
        format!("{}{part}", self.name)
    }

    fn router(&self, command: &[&str]) -> String {
        sh(&[&["ip", "netns", "exec", &self.namespace("r")], command].concat())
    }

    fn module(&self, number: &str, command: &[&str]) -> String {
        sh(&[&["ip", "netns", "exec", &self.namespace(number)], command].concat())
    }

    fn load(&self, script: &str) {
        self.load_in("r", script);
    }

    fn load_in(&self, part: &str, script: &str) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(part), "nft", "-f", "-"]);
        let output = run(&mut command, script);
        assert!(output.status.success(), "{}\n{script}", String::from_utf8_lossy(&output.stderr));
    }

    /// A server that answers each connection with `hello`, in the namespace of a module (or `r`, the router).
    fn serve(&mut self, part: &str, port: u16) {
        let program = format!(
            "import socket\ns=socket.create_server(('0.0.0.0',{port}))\nprint('ready',flush=True)\n\
             while True:\n  c,_=s.accept()\n  try: c.sendall(b'hello'); c.recv(1); c.close()\n  \
             except OSError: pass\n"
        );
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.namespace(part), "python3", "-c", &program])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        self.servers.push(child);
    }

    /// Outcome of a connection: `hello`, or the name of the error.
    fn connect(&self, part: &str, from: &str, to: &str, port: u16) -> String {
        self.connect_by(part, (from, 0), to, port)
    }

    /// The same from a port of the caller's choice.
    fn connect_by(&self, part: &str, (from, by): (&str, u16), to: &str, port: u16) -> String {
        let program = format!(
            "import socket\ntry:\n  c=socket.create_connection(('{to}',{port}),timeout=1,source_address=('{from}',{by}))\n  \
             print(c.recv(5).decode())\nexcept OSError as e: print(type(e).__name__)\n"
        );
        let output = sh(&["ip", "netns", "exec", &self.namespace(part), "python3", "-c", &program]);
        output.trim().to_owned()
    }

    fn set(&self, name: &str) -> String {
        self.router(&["nft", "list", "set", "inet", "edgewarden", name])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        for part in ["1", "2", "r"] {
            let _ = Command::new("ip").args(["netns", "delete", &self.namespace(part)]).status();
        }
    }
}

fn sh(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn nft_accepts_every_rule_set() {
    let allowing = compiled(&clinic(CLINIC_POLICY)).unwrap();
    let everything = compiled(&clinic("permit (principal, action, resource);")).unwrap();
    let nothing = compiled(&clinic("")).unwrap();
    for script in [
        closed(),
        ruleset(&nothing, &placements(), &GATEWAY),
        ruleset(&allowing, &[], &GATEWAY),
        ruleset(&allowing, &placements(), &GATEWAY),
        ruleset(&everything, &placements(), &GATEWAY),
        ruleset(&everything, &placements(), &GatewaySide { flows_max: None, ..GATEWAY }),
        closed_wall(GATEWAY.address),
    ]
    .into_iter()
    .chain(walls(&allowing, &placements(), &GATEWAY).into_values())
    .chain(walls(&everything, &placements(), &GATEWAY).into_values())
    {
        let output = run(Command::new("unshare").args(["--net", "nft", "-c", "-f", "-"]), &script);
        assert!(output.status.success(), "{}\n{script}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn only_what_the_policy_names_gets_through() {
    let mut net = Net::new();
    net.serve("2", 9443);
    net.serve("2", 9100);
    net.serve("1", 9443);
    net.serve("r", 8885);
    net.serve("r", 22);
    let policy = CLINIC_POLICY.replace(
        "permit (principal, action == Action::\"connect\"",
        "permit (principal == Module::\"analytics\", action == Action::\"connect\"",
    );
    let epoch = compiled(&clinic(&policy)).unwrap();
    net.load(&closed());
    assert_eq!(net.connect("1", "10.77.0.2", "10.77.0.3", 9443), "TimeoutError", "before the first epoch");
    net.load(&ruleset(&epoch, &placements(), &GATEWAY));

    for (what, part, from, to, port, expected) in [
        ("the permitted flow", "1", "10.77.0.2", "10.77.0.3", 9443, "hello"),
        ("another port", "1", "10.77.0.2", "10.77.0.3", 9100, "TimeoutError"),
        ("the other direction", "2", "10.77.0.3", "10.77.0.2", 9443, "TimeoutError"),
        ("the broker", "1", "10.77.0.2", "10.77.0.1", 8885, "hello"),
        ("the broker, not permitted", "2", "10.77.0.3", "10.77.0.1", 8885, "TimeoutError"),
        ("another port of the gateway", "1", "10.77.0.2", "10.77.0.1", 22, "TimeoutError"),
        ("from the gateway into a module", "r", "10.77.0.1", "10.77.0.3", 9443, "TimeoutError"),
    ] {
        let outcome = net.connect(part, from, to, port);
        // A packet that the output hook drops fails at once on some kernels, with EPERM.
        let outcome = if outcome == "PermissionError" { "TimeoutError".into() } else { outcome };
        assert_eq!(outcome, expected, "{what}");
    }
    let denied = net.set("denied");
    for entry in [
        "\"ew1\" . 10.77.0.2 . 10.77.0.3 . 9100 ",
        "\"ew2\" . 10.77.0.3 . 10.77.0.2 . 9443 ",
        "\"ew2\" . 10.77.0.3 . 10.77.0.1 . 8885 ",
        "\"ew1\" . 10.77.0.2 . 10.77.0.1 . 22 ",
    ] {
        assert!(denied.contains(entry), "{entry} is not in {denied}");
    }
    assert!(!denied.contains("10.77.0.3 . 9443 "), "{denied}");
    assert!(!net.set("spoofed").contains("ew1"));
}

#[test]
fn a_false_source_address_is_dropped() {
    let mut net = Net::new();
    net.serve("2", 9443);
    net.serve("r", 8885);
    let everything = compiled(&clinic("permit (principal, action, resource);")).unwrap();
    net.load(&ruleset(&everything, &placements(), &GATEWAY));
    // `alerts` pretends to be `analytics`, and the other way round.
    net.module("2", &["ip", "address", "add", "10.77.0.2/32", "dev", "lo"]);
    net.module("1", &["ip", "address", "add", "10.77.0.9/32", "dev", "lo"]);
    assert_eq!(net.connect("2", "10.77.0.2", "10.77.0.1", 8885), "TimeoutError");
    assert_eq!(net.connect("1", "10.77.0.9", "10.77.0.3", 9443), "TimeoutError");
    net.module("2", &["ip", "address", "delete", "10.77.0.2/32", "dev", "lo"]);
    assert_eq!(net.connect("1", "10.77.0.2", "10.77.0.3", 9443), "hello");
    let spoofed = net.set("spoofed");
    assert!(spoofed.contains("\"ew1\"") && spoofed.contains("\"ew2\""), "{spoofed}");
    assert!(!net.set("denied").contains("10.77.0.9"));
}

#[test]
fn a_revoked_flow_ends_with_its_epoch() {
    let mut net = Net::new();
    net.serve("2", 9443);
    let allowing = compiled(&clinic(CLINIC_POLICY)).unwrap();
    net.load(&ruleset(&allowing, &placements(), &GATEWAY));
    // Speaks once under the first epoch, then waits for a line on its input and speaks again.
    let program = "import socket,sys\nc=socket.create_connection(('10.77.0.3',9443),timeout=2)\n\
                   print(c.recv(5).decode(),flush=True)\nsys.stdin.readline()\nc.sendall(b'x')\n\
                   try: print('closed' if c.recv(5)==b'' else 'data')\nexcept OSError as e: print(type(e).__name__)\n";
    for (script, expected) in [
        (ruleset(&allowing, &placements(), &GATEWAY), "closed"),
        (ruleset(&compiled(&clinic("")).unwrap(), &placements(), &GATEWAY), "TimeoutError"),
    ] {
        let mut client = Command::new("ip")
            .args(["netns", "exec", &net.namespace("1"), "python3", "-c", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut hello = [0; 6];
        std::io::Read::read_exact(client.stdout.as_mut().unwrap(), &mut hello).unwrap();
        assert_eq!(&hello, b"hello\n");
        // The same policy again leaves an open connection alone; one without the rule ends it.
        net.load(&script);
        client.stdin.take().unwrap().write_all(b"\n").unwrap();
        let output = client.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected);
    }
}

#[test]
fn other_traffic_is_left_alone() {
    let mut net = Net::new();
    net.load(&closed());
    net.serve("r", 7000);
    assert_eq!(net.connect("r", "127.0.0.1", "127.0.0.1", 7000), "hello");
}

/// Whoever removes the gateway's rule sets, as a reload of `nftables.service` does, opens nothing.
#[test]
fn the_walls_alone_let_through_what_the_policy_names_and_nothing_else() {
    let mut net = Net::new();
    net.serve("2", 9100);
    net.serve("1", 9443);
    net.serve("1", 7000);
    net.serve("r", 8885);
    net.serve("r", 22);
    let policy = CLINIC_POLICY.replace(
        "permit (principal, action == Action::\"connect\"",
        "permit (principal == Module::\"analytics\", action == Action::\"connect\"",
    );
    let epoch = compiled(&clinic(&policy)).unwrap();
    let walls = walls(&epoch, &placements(), &GATEWAY);
    for (number, module) in [("1", "analytics"), ("2", "alerts")] {
        net.load_in(number, &walls[&ModuleName::parse(module).unwrap()]);
    }
    // Whose packets look like answers opens nothing.
    assert_eq!(net.connect_by("2", ("10.77.0.3", 9443), "10.77.0.2", 7000), "TimeoutError");
    net.serve("2", 9443);
    for (what, part, from, to, port, expected) in [
        ("the permitted flow", "1", ("10.77.0.2", 0), "10.77.0.3", 9443, "hello"),
        ("another port", "1", ("10.77.0.2", 0), "10.77.0.3", 9100, "TimeoutError"),
        ("the other direction", "2", ("10.77.0.3", 0), "10.77.0.2", 9443, "TimeoutError"),
        ("the broker", "1", ("10.77.0.2", 0), "10.77.0.1", 8885, "hello"),
        ("the broker, not permitted", "2", ("10.77.0.3", 0), "10.77.0.1", 8885, "TimeoutError"),
        ("another port of the gateway", "1", ("10.77.0.2", 0), "10.77.0.1", 22, "TimeoutError"),
        ("from the gateway into a module", "r", ("10.77.0.1", 0), "10.77.0.3", 9443, "TimeoutError"),
        ("from a permitted port of the gateway", "r", ("10.77.0.1", 8886), "10.77.0.2", 7000, "TimeoutError"),
    ] {
        let outcome = net.connect_by(part, from, to, port);
        let outcome = if outcome == "PermissionError" { "TimeoutError".into() } else { outcome };
        assert_eq!(outcome, expected, "{what}");
    }
    let refused = net.module("2", &["nft", "list", "set", "inet", "edgewarden", "denied"]);
    assert!(refused.contains("10.77.0.2 . 9443 ") && refused.contains("10.77.0.1 . 8885 "), "{refused}");
    net.load_in("1", &closed_wall(Ipv4Addr::new(10, 77, 0, 2)));
    assert_ne!(net.connect("1", "10.77.0.2", "10.77.0.3", 9443), "hello");
}

#[test]
fn a_module_opens_so_many_flows_and_no_more() {
    let mut net = Net::new();
    net.serve("2", 9443);
    net.serve("r", 8885);
    let everything = compiled(&clinic("permit (principal, action, resource);")).unwrap();
    net.load(&ruleset(&everything, &placements(), &GATEWAY));
    let program = "import socket\nheld=[]\nfor n in range(20):\n  c=socket.socket(); c.settimeout(1)\n  \
                   try:\n    c.connect(('10.77.0.1',8885)); held.append(c)\n  except OSError: break\nprint(len(held))\n";
    let opened = sh(&["ip", "netns", "exec", &net.namespace("1"), "python3", "-c", program]);
    assert_eq!(opened.trim(), "8", "as many as its share");
    assert!(net.set("flooded").contains("\"ew1\""), "and the kernel says whose it was");
    assert_eq!(net.connect("2", "10.77.0.3", "10.77.0.1", 8885), "hello", "others are not in its way");
}
