//! Every check, shown a gateway with exactly one fault: it alone must see it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by a panic")]
#![allow(clippy::semicolon_if_nothing_returned, reason = "a table of faults, one a line")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{chown, symlink};

use common::{DAY, Site, bad, event_log, set_mode, write};
use edgewarden_doctor::Outcome::{self, Fail, Warn};
use edgewarden_doctor::{CHECKS, ConfigState, Facts, areas, examine, table};
use edgewarden_names::{Epoch, Reason, Refusal, UnixTime};
use edgewarden_protocol::control::{DoubtedTime, TimeBy};
use edgewarden_protocol::enrol::{DeviceKeys, VerdictState};
use edgewarden_protocol::federation::Trouble;
use edgewarden_protocol::gateway_console::{ReceiverStatus, UpstreamStatus};
use edgewarden_protocol::runtime_console::{EstTrouble, Repair};
use edgewarden_protocol::uplink::ModuleState;

struct Case {
    check: &'static str,
    outcome: Outcome,
    /// The site's state beforehand, which is no fault of this case.
    given: Option<fn(&mut Site)>,
    /// The fault, in the files, programs and daemons.
    site: fn(&mut Site),
    /// The fault, where no folder can show it.
    facts: fn(&mut Facts),
}

fn site(check: &'static str, outcome: Outcome, site: fn(&mut Site)) -> Case {
    Case { check, outcome, given: None, site, facts: |_| {} }
}

fn facts(check: &'static str, outcome: Outcome, facts: fn(&mut Facts)) -> Case {
    Case { check, outcome, given: None, site: |_| {}, facts }
}

fn given(given: fn(&mut Site), mut case: Case) -> Case {
    case.given = Some(given);
    case
}

fn behind(ends: u8, lagging: bool, set_aside: u64) -> ReceiverStatus {
    ReceiverStatus {
        client: "module analytics".into(),
        connected: true,
        waiting_messages: 1,
        waiting_bytes: 300,
        lost: 0,
        lagging,
        ends,
        set_aside,
    }
}

fn config_cases() -> Vec<Case> {
    vec![
        site("config.present", Fail, |s| s.config.clear()),
        site("config.present", Fail, |s| fs::create_dir(s.etc("config.toml")).unwrap()),
        site("config.valid", Fail, |s| s.set("gateway", "colour", "red")),
        site("config.valid", Fail, |s| write(&s.etc("config.toml"), "[gateway\n")),
        site("config.ranges", Fail, |s| s.set("identity", "issuing_ca_lifetime_seconds", 3600)),
        site("config.ranges", Fail, |s| s.set("identity", "svid_lifetime_seconds", 5)),
        site("config.fleet", Warn, |s| {
            s.config.remove("fleet");
            s.answer(|a| a.runtime.fleet.url = None);
        }),
        site("config.fleet_root", Fail, |s| write(&s.etc("fleet-root.pem"), "no certificate")),
        site("config.fleet_root", Fail, |s| fs::remove_file(s.etc("fleet-root.pem")).unwrap()),
        facts("config.fleet_root", Fail, |f| {
            f.config.root.as_mut().unwrap().as_mut().unwrap().1.is_ca = false
        }),
        site("config.operator_keys", Fail, |s| write(&s.etc("operator-1.pem"), "no key")),
        site("config.operator_keys", Fail, |s| {
            s.set("fleet", "operator_keys", toml::Value::Array(Vec::new()))
        }),
        site("config.protected", Fail, |s| set_mode(&s.etc("operator-1.pem"), 0o666)),
        site("config.protected", Fail, |s| chown(s.etc("fleet-root.pem"), Some(1), None).unwrap()),
        site("config.protected", Fail, |s| set_mode(s.etc("x").parent().unwrap(), 0o777)),
        site("config.plain_http", Warn, |s| {
            let list = s.config["runtime"]["plain_http_registries"].as_array_mut().unwrap();
            list.push("192.0.2.1:5000".into());
        }),
    ]
}

fn permission_cases() -> Vec<Case> {
    vec![
        facts("permissions.identity_user", Fail, |f| f.users.identity = None),
        facts("permissions.gateway_user", Fail, |f| f.users.gateway = None),
        facts("permissions.separate_users", Fail, |f| {
            f.users.gateway = f.users.identity;
            // As it would be, had the folders and daemons been made so.
            let uid = f.users.identity.unwrap().uid;
            for path in [f.layout.gateway_state(), f.layout.gateway_run()] {
                f.nodes.get_mut(&path).unwrap().uid = uid;
            }
            f.daemons.gatewayd.peer.as_mut().unwrap().uid = uid;
        }),
        site("permissions.identity_state", Fail, |s| set_mode(&s.layout.identity_state(), 0o755)),
        site("permissions.identity_state", Fail, |s| {
            chown(s.layout.identity_state(), Some(0), None).unwrap()
        }),
        site("permissions.gateway_state", Fail, |s| set_mode(&s.layout.gateway_state(), 0o770)),
        site("permissions.runtime_state", Fail, |s| set_mode(&s.layout.runtime_state(), 0o711)),
        site("permissions.runtime_state", Fail, |s| {
            fs::remove_dir(s.layout.runtime_state()).unwrap();
            symlink("/", s.layout.runtime_state()).unwrap();
        }),
        site("permissions.logs", Fail, |s| chown(s.layout.logs(), Some(1), None).unwrap()),
        site("permissions.run_folders", Fail, |s| set_mode(&s.layout.identity_run().join("workload"), 0o777)),
        site("permissions.run_folders", Fail, |s| chown(s.layout.gateway_run(), Some(1), None).unwrap()),
        site("permissions.way", Fail, |s| set_mode(&s.layout.root().join("var/lib"), 0o700)),
        site("permissions.way", Fail, |s| set_mode(&s.layout.root().join("run"), 0o777)),
        site("permissions.way", Fail, |s| chown(s.layout.root().join("var"), Some(1), None).unwrap()),
        given(
            Site::with_software,
            site("permissions.secret_file", Fail, |s| set_mode(&s.path("passphrase"), 0o644)),
        ),
        given(
            Site::with_software,
            site("permissions.secret_file", Fail, |s| chown(s.path("passphrase"), Some(0), None).unwrap()),
        ),
    ]
}

fn machine_cases() -> Vec<Case> {
    vec![
        site("programs.oci_runtime", Fail, |s| fs::remove_file(s.path("bin/runc")).unwrap()),
        site("programs.oci_runtime", Fail, |s| s.program("runc", "exit 1")),
        site("programs.oci_runtime_version", Fail, |s| s.program("runc", "echo 'runc version 1.0.3'")),
        site("programs.nft", Fail, |s| fs::remove_file(s.path("bin/nft")).unwrap()),
        site("programs.ip", Fail, |s| fs::remove_file(s.path("bin/ip")).unwrap()),
        site("programs.protected", Fail, |s| set_mode(&s.path("bin/ip"), 0o777)),
        site("kernel.cgroup_pids", Fail, |s| write(&s.sys("fs/cgroup/cgroup.controllers"), "cpu memory\n")),
        site("kernel.cgroup_memory", Fail, |s| {
            // The hierarchies of cgroup v1.
            fs::remove_file(s.sys("fs/cgroup/cgroup.controllers")).unwrap();
            write(&s.sys("fs/cgroup/pids/cgroup.procs"), "");
        }),
        site("kernel.namespaces", Fail, |s| fs::remove_file(s.proc("self/ns/net")).unwrap()),
        site("kernel.namespaces", Fail, |s| write(&s.proc("sys/user/max_user_namespaces"), "0\n")),
        site("kernel.mounts_for_users", Fail, |s| {
            write(&s.proc("sys/kernel/osrelease"), "5.10.0-30-arm64\n")
        }),
        site("programs.volumes", Warn, |s| fs::remove_file(s.path("bin/mkfs.ext4")).unwrap()),
        site("kernel.namespaces", Fail, |s| write(&s.proc("sys/user/max_pid_namespaces"), "0\n")),
        site("kernel.seccomp", Fail, |s| {
            fs::remove_file(s.proc("sys/kernel/seccomp/actions_avail")).unwrap()
        }),
        site("kernel.seccomp", Fail, |s| {
            write(&s.proc("sys/kernel/seccomp/actions_avail"), "kill_thread trap\n")
        }),
        facts("kernel.landlock", Warn, |f| f.kernel.landlock = 0),
        facts("kernel.landlock", Warn, |f| f.kernel.landlock = 3),
        facts("kernel.peers", Fail, |f| f.kernel.peers = Err("there is no /proc".into())),
        site("kernel.nftables", Fail, |s| s.program("nft", "echo 'Operation not supported' >&2; exit 1")),
        site("kernel.ip_forward", Fail, |s| write(&s.proc("sys/net/ipv4/ip_forward"), "0\n")),
        site("kernel.conntrack", Fail, |s| {
            write(&s.proc("sys/net/netfilter/nf_conntrack_count"), "262144\n")
        }),
        site("kernel.conntrack", Warn, |s| {
            write(&s.proc("sys/net/netfilter/nf_conntrack_count"), "220000\n")
        }),
        site("kernel.files", Fail, |s| write(&s.proc("sys/fs/file-nr"), "999\t0\t1000\n")),
        site("kernel.memory", Warn, |s| write(&s.proc("meminfo"), "MemAvailable:   1000 kB\n")),
        site("kernel.entropy", Fail, |s| write(&s.proc("sys/kernel/random/entropy_avail"), "12\n")),
        site("kernel.core_dumps", Fail, |s| write(&s.proc("sys/fs/suid_dumpable"), "1\n")),
        facts("disk.space", Fail, |f| each_volume(f, |v| v.bytes_free = 63 << 20)),
        facts("disk.space", Warn, |f| each_volume(f, |v| v.bytes_free = 200 << 20)),
        facts("disk.space", Fail, |f| f.disk.volumes = Vec::new()),
        facts("disk.inodes", Fail, |f| each_volume(f, |v| v.inodes_free = 3)),
        facts("disk.persistent", Fail, |f| each_volume(f, |v| v.kind = 0x0102_1994)),
        facts("disk.durable", Warn, |f| each_volume(f, |v| v.kind = 0x6969)),
        facts("disk.writable", Fail, |f| each_volume(f, |v| v.read_only = true)),
        facts("disk.writable", Fail, |f| each_volume(f, |v| v.written = Err("EROFS".into()))),
        facts("disk.space", Fail, |f| f.disk.volumes[0] = Err("it does not answer".into())),
        site("disk.queue_room", Warn, |s| {
            let cap = 60_i64 << 30;
            s.set("mqtt", "queue_bytes_max", cap);
            s.answer(|a| a.gateway.queue.as_mut().unwrap().bytes_max = cap.cast_unsigned());
        }),
        site("disk.logs", Warn, |s| {
            let log = fs::File::create(s.layout.logs().join("alerts.log")).unwrap();
            log.set_len(300 << 20).unwrap();
        }),
        site("disk.reserve", Warn, |s| s.answer(|a| a.status.disk.as_mut().unwrap().bytes = 1)),
        site("disk.reserve", Fail, |s| s.answer(|a| a.status.disk.as_mut().unwrap().unwritten = 1)),
        site("disk.reserve", Fail, |s| s.answer(|a| a.status.disk.as_mut().unwrap().unsaved = true)),
        facts("clock.plausible", Fail, |f| {
            f.clock.wall = UnixTime(1000);
            f.clock.floor = Ok(None);
        }),
        facts("clock.believed", Fail, |f| doubt(f, 40 * DAY.cast_signed())),
        facts("clock.believed", Fail, |f| doubt(f, -40 * DAY.cast_signed())),
        facts("clock.believed", Warn, |f| {
            f.daemons.identity.as_mut().unwrap().time.by = TimeBy::Floor;
        }),
        site("clock.floor", Fail, |s| {
            let later = UnixTime::now().0 + DAY;
            let text = format!(r#"{{"version":1,"content":{{"floor":{later}}}}}"#);
            write(&s.layout.identity_state().join("clock.json"), &text);
        }),
        site("clock.floor", Fail, |s| write(&s.layout.identity_state().join("clock.json"), "{")),
        site("clock.kept", Warn, |s| write(&s.proc("77/comm"), "bash\n")),
        site("clock.hardware", Warn, |s| fs::remove_dir_all(s.sys("class/rtc/rtc0")).unwrap()),
        site("clock.source", Warn, |s| {
            write(&s.sys("devices/system/clocksource/clocksource0/current_clocksource"), "jiffies\n");
        }),
        site("systemd.units", Fail, |s| {
            fs::remove_file(s.layout.root().join("etc/systemd/system/edgewarden-runtimed.service")).unwrap();
        }),
        site("systemd.enabled", Fail, |s| {
            let wants = s.layout.root().join("etc/systemd/system/multi-user.target.wants");
            fs::remove_file(wants.join("edgewarden-identityd.service")).unwrap();
        }),
    ]
}

fn each_volume(facts: &mut Facts, change: impl Fn(&mut edgewarden_doctor::Volume)) {
    // Only of one folder, so that the queue's own has room.
    let folder = facts.layout.runtime_state();
    for volume in facts.disk.volumes.iter_mut().flatten().filter(|volume| volume.folder == folder) {
        change(volume);
    }
}

fn daemon_cases() -> Vec<Case> {
    vec![
        site("daemons.identityd", Fail, |s| fs::remove_file(s.layout.control_socket()).unwrap()),
        site("daemons.runtimed", Fail, |s| fs::remove_file(s.layout.runtime_socket()).unwrap()),
        site("daemons.gatewayd", Fail, |s| fs::remove_file(s.layout.gateway_socket()).unwrap()),
        facts("daemons.users", Fail, |f| f.daemons.gatewayd.peer.as_mut().unwrap().uid = 0),
        facts("daemons.version", Fail, |f| f.daemons.runtimed.program = Some("/opt/old/edgewarden".into())),
        site("daemons.version", Fail, |s| {
            fs::remove_file(s.process("exe")).unwrap();
            symlink("/usr/bin/edgewarden (deleted)", s.process("exe")).unwrap();
        }),
        site("daemons.configuration", Fail, |s| s.answer(|a| a.status.gateway = "gw-2".parse().unwrap())),
        site("daemons.configuration", Fail, |s| s.answer(|a| a.runtime.fleet.url = Some("https://x".into()))),
        site("daemons.configuration", Fail, |s| s.set("mqtt", "queue_bytes_max", 1 << 20)),
        site("daemons.confined", Fail, |s| write(&s.process("status"), "NoNewPrivs:\t0\nSeccomp:\t2\n")),
        site("daemons.confined", Fail, |s| write(&s.process("status"), "NoNewPrivs:\t1\nSeccomp:\t0\n")),
        site("daemons.core_dumps", Fail, |s| {
            write(
                &s.process("limits"),
                "Max core file size        unlimited            unlimited            bytes\n",
            );
        }),
        site("keystore.hardware", Warn, Site::with_software),
        site("keystore.present", Fail, |s| fs::remove_file(s.path("device")).unwrap()),
        site("keystore.present", Fail, |s| {
            fs::remove_file(s.path("device")).unwrap();
            write(&s.path("device"), "");
            chown(s.path("device"), Some(owner(&s.layout.identity_state())), None).unwrap();
        }),
        site("keystore.access", Fail, |s| chown(s.path("device"), Some(0), Some(0)).unwrap()),
        site("keystore.reachable", Fail, |s| s.answer(|a| a.health = None)),
        site("keystore.configured", Fail, |s| {
            s.answer(|a| a.status.keystore = "software (hardware: none)".into())
        }),
        site("keystore.lockout", Fail, |s| s.answer(|a| lockout(a).locked = true)),
        site("keystore.lockout", Warn, |s| s.answer(|a| lockout(a).failures = 20)),
        site("keystore.ek_certificate", Fail, |s| s.answer(|a| *ek(a) = Vec::new())),
        site("keystore.ek_certificate", Fail, |s| s.answer(|a| *ek(a) = vec![vec![1, 2, 3].into()])),
        site("keystore.sha256_bank", Fail, |s| {
            fs::rename(s.sys("class/tpm/tpm0/pcr-sha256"), s.sys("class/tpm/tpm0/pcr-sha1")).unwrap();
        }),
    ]
}

fn owner(path: &std::path::Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap())
}

fn lockout(answers: &mut common::Answers) -> &mut edgewarden_protocol::control::Lockout {
    answers.health.as_mut().unwrap().lockout.as_mut().unwrap()
}

fn ek(answers: &mut common::Answers) -> &mut Vec<edgewarden_protocol::Bytes> {
    match answers.keys.as_mut().unwrap() {
        DeviceKeys::Tpm { ek_certificates, .. } => ek_certificates,
        DeviceKeys::None { .. } => panic!("no TPM"),
    }
}

fn identity_cases() -> Vec<Case> {
    vec![
        site("attestation.event_log", Fail, |s| fs::remove_file(s.path("event_log")).unwrap()),
        site("attestation.event_log_form", Fail, |s| fs::write(s.path("event_log"), [7; 99]).unwrap()),
        site("attestation.event_log_sha256", Fail, |s| {
            fs::write(s.path("event_log"), event_log(false)).unwrap();
        }),
        site("attestation.joined", Fail, |s| {
            s.answer(|a| {
                a.status.verdict = None;
                a.status.gateway_ca_expires = None;
                a.status.issuing_ca_expires = None;
            });
        }),
        site("attestation.verdict", Fail, |s| s.answer(|a| verdict(a).state = VerdictState::Failed)),
        site("attestation.verdict", Warn, |s| s.answer(|a| verdict(a).state = VerdictState::Stale)),
        site("attestation.renewal", Warn, |s| {
            s.answer(|a| verdict(a).at = UnixTime(UnixTime::now().0 - 80 * DAY));
        }),
        facts("certificates.root", Fail, |f| root(f).not_after = UnixTime(days_from(f, -1))),
        facts("certificates.root", Warn, |f| root(f).not_after = UnixTime(days_from(f, 30))),
        facts("certificates.root", Fail, |f| root(f).not_before = UnixTime(days_from(f, 1))),
        given(shorter, site("certificates.gateway_ca", Warn, |s| ca_ends(s, 3600))),
        // What ended with it is no fault of its own.
        site("certificates.gateway_ca", Fail, |s| {
            s.set("identity", "leaf_lifetime_seconds", 60);
            s.answer(|a| {
                a.status.gateway_ca_expires = Some(UnixTime(UnixTime::now().0 - 100));
                a.status.issuing_ca_expires = None;
                verdict(a).at = UnixTime::now();
            });
        }),
        site("certificates.issuing_ca", Fail, |s| s.answer(|a| a.status.issuing_ca_expires = None)),
        site("certificates.issuing_ca", Fail, |s| {
            s.answer(|a| a.status.issuing_ca_expires = Some(UnixTime(1)))
        }),
        site("certificates.lattice", Fail, |s| {
            s.answer(|a| a.status.issuing_ca_expires = Some(UnixTime(UnixTime::now().0 + 40 * DAY)));
        }),
        site("certificates.lattice", Warn, |s| {
            s.set("identity", "leaf_lifetime_seconds", 40 * DAY.cast_signed());
            s.set("identity", "issuing_ca_lifetime_seconds", 41 * DAY.cast_signed());
        }),
        site("certificates.modules", Fail, |s| {
            s.answer(|a| a.status.identities[0].expires = Some(UnixTime(1)))
        }),
        site("policy.deployment", Warn, |s| {
            s.answer(|a| {
                a.status.deployment = None;
                a.status.epoch = None;
                a.deployment = None;
            });
        }),
        site("policy.packet_filter", Fail, |s| s.answer(|a| a.runtime.epoch = Some(Epoch(2)))),
        site("policy.packet_filter", Fail, |s| s.answer(|a| a.runtime.epoch = None)),
        site("policy.broker", Fail, |s| s.answer(|a| a.gateway.epoch = Some(Epoch(2)))),
        site("policy.rules", Fail, |s| s.program("nft", "echo 'table inet edgewarden-2'")),
        site("policy.undisturbed", Warn, |s| {
            s.answer(|a| {
                a.runtime.enforcement.repairs = 3;
                let what = "rules: `nft` (process 7) changed the rules of the packet filter".to_owned();
                a.runtime.enforcement.last = Some(Repair { at: UnixTime::now(), what });
            });
        }),
        site("policy.undisturbed", Fail, |s| {
            let lost = Refusal::new(Reason::EnforcementLost, "gateway", "the program `nft` is not installed");
            s.answer(|a| a.runtime.enforcement.lost = Some(lost));
        }),
        site("policy.trusted", Fail, |s| s.answer(|a| a.gateway.trusted = false)),
        site("modules.known", Fail, |s| s.answer(|a| a.runtime.modules.clear())),
        site("modules.accepted", Fail, |s| {
            s.answer(|a| {
                let module = &mut a.runtime.modules[0];
                module.state = ModuleState::Refused;
                module.reason = Some(Refusal::new(Reason::ImageUnsigned, "alerts", "there is no signature"));
            });
        }),
        site("modules.running", Fail, |s| s.answer(|a| a.runtime.modules[0].state = ModuleState::Waiting)),
        site("modules.running", Warn, |s| s.answer(|a| a.runtime.modules[0].state = ModuleState::Pulling)),
        site("modules.steady", Warn, |s| s.answer(|a| a.runtime.modules[0].restarts = 9)),
        site("modules.identified", Fail, |s| s.answer(|a| a.status.identities.clear())),
    ]
}

/// So many days from now.
fn days_from(facts: &Facts, days: i64) -> u64 {
    facts.now.0.saturating_add_signed(days * DAY.cast_signed())
}

fn root(facts: &mut Facts) -> &mut edgewarden_ca::chain::Facts {
    &mut facts.config.root.as_mut().unwrap().as_mut().unwrap().1
}

fn verdict(answers: &mut common::Answers) -> &mut edgewarden_protocol::enrol::Verdict {
    answers.status.verdict.as_mut().unwrap()
}

/// Short lives, all within each other, and a renewal that was just made.
fn shorter(site: &mut Site) {
    site.set("identity", "svid_lifetime_seconds", 60);
    site.set("identity", "leaf_lifetime_seconds", 60);
    site.answer(|a| verdict(a).at = UnixTime::now());
}

fn ca_ends(site: &mut Site, seconds: i64) {
    let end = UnixTime(UnixTime::now().0.saturating_add_signed(seconds));
    site.answer(|a| {
        a.status.gateway_ca_expires = Some(end);
        a.status.issuing_ca_expires = Some(end);
        verdict(a).at = UnixTime::now();
    });
}

fn outside_cases() -> Vec<Case> {
    vec![
        site("messages.queue_open", Fail, |s| s.answer(|a| a.gateway.queue = None)),
        site("messages.queue_fill", Fail, |s| {
            s.answer(|a| a.gateway.queue.as_mut().unwrap().bytes = 64 << 20)
        }),
        site("messages.queue_fill", Warn, |s| {
            s.answer(|a| a.gateway.queue.as_mut().unwrap().bytes = 50 << 20)
        }),
        site("messages.journal", Fail, |s| s.answer(|a| a.gateway.journal = None)),
        site("messages.journal", Warn, |s| {
            s.answer(|a| a.gateway.journal.as_mut().unwrap().bytes = 50 << 20)
        }),
        site("messages.upstream", Warn, |s| {
            let since = UnixTime::now();
            s.answer(|a| {
                a.gateway.upstream = UpstreamStatus::Unreachable { since, error: "no route".into() }
            });
        }),
        site("messages.clients", Warn, |s| s.answer(|a| a.gateway.waiting_messages = 20_000)),
        site("messages.clients", Warn, |s| s.answer(|a| a.gateway.lost = 1)),
        site("messages.clients", Fail, |s| s.answer(|a| a.gateway.receivers = vec![behind(0, true, 0)])),
        site("messages.clients", Fail, |s| s.answer(|a| a.gateway.receivers = vec![behind(2, false, 0)])),
        site("messages.clients", Fail, |s| s.answer(|a| a.gateway.receivers = vec![behind(0, false, 1)])),
        site("network.leaf_mqtt", Fail, |s| s.set("mqtt", "leaf_listen", "0.0.0.0:1883")),
        site("network.leaf_enrolment", Fail, |s| s.set("mqtt", "leaf_enrol_listen", "192.0.2.1:1884")),
        // A connection, and nobody who listens.
        site("network.module_mqtt", Fail, |s| s.set("mqtt", "module_port", 0x22b6)),
        site("network.module_network", Fail, |s| s.set("runtime", "module_network", "10.77.0.0/25")),
        site("network.module_network", Fail, |s| s.set("runtime", "module_network", "10.77.0.1/24")),
        site("network.overlap", Fail, |s| {
            write(&s.proc("net/route"), "Iface\nwg0\t00004D0A\t0\t0\t0\t0\t0\t0000FFFF\n");
        }),
        site("fleet.reachable", Fail, |s| {
            s.set("fleet", "url", "https://127.0.0.1:1");
            s.answer(|a| a.runtime.fleet.url = Some("https://127.0.0.1:1".into()));
        }),
        // Somebody who is not the fleet.
        site("fleet.certificate", Fail, |s| {
            let registry = s.config["runtime"]["plain_http_registries"][0].as_str().unwrap().to_owned();
            let url = format!("https://{registry}");
            s.set("fleet", "url", url.clone());
            s.answer(|a| a.runtime.fleet.url = Some(url));
        }),
        facts("fleet.certificate", Warn, |f| f.fleet.certificate = Some(Ok(UnixTime(f.now.0 + 3600)))),
        site("fleet.contact", Warn, |s| s.answer(|a| a.runtime.fleet.error = Some("no route".into()))),
        site("fleet.contact", Warn, |s| s.answer(|a| a.runtime.fleet.last_contact = Some(UnixTime(1)))),
        site("registry.reachable", Warn, |s| {
            s.answer(|a| {
                let in_force = a.deployment.as_mut().unwrap();
                let image = in_force.deployment.modules[0].image.to_string();
                let (_, rest) = image.split_once('/').unwrap();
                in_force.deployment.modules[0].image = format!("127.0.0.1:1/{rest}").try_into().unwrap();
            });
        }),
        site("registry.reachable", Warn, |s| {
            s.answer(|a| {
                let in_force = a.deployment.as_mut().unwrap();
                let image = in_force.deployment.modules[0].image.to_string();
                let (name, _) = image.split_once('@').unwrap();
                let other = format!("{name}@sha256:{}", "00".repeat(32));
                in_force.deployment.modules[0].image = other.try_into().unwrap();
            });
        }),
    ]
}

fn registry_login(site: &mut Site) {
    let file = site.etc("registries.json");
    write(&file, "{}");
    set_mode(&file, 0o600);
    site.set("runtime", "registry_credentials_file", file.display().to_string());
}

fn proxy_login(site: &mut Site) {
    let file = site.etc("proxy-login");
    write(&file, "gateway:s3cret");
    set_mode(&file, 0o600);
    let mut proxy = toml::Table::new();
    proxy.insert("https".into(), "http://127.0.0.1:1".into());
    proxy.insert("credentials_file".into(), file.display().to_string().into());
    site.set("runtime", "proxy", proxy);
}

fn in_trouble(site: &mut Site, transient: bool) {
    site.answer(|answers| {
        answers.runtime.est.as_mut().unwrap().trouble = Some(EstTrouble {
            at: UnixTime(1),
            refusal: Refusal::new(Reason::EstCertificate, "certificate", "it is for another key"),
            transient,
            failures: 3,
        });
    });
}

fn endpoint_trouble(site: &mut Site, reason: Reason) {
    site.answer(|answers| {
        let refusal = Refusal::new(reason, "other.example", "it does not answer");
        answers.federation[0].trouble = Some(Trouble { since: UnixTime(1), failures: 3, refusal });
    });
}

fn est_cases() -> Vec<Case> {
    vec![
        site("federation.bundles", Fail, |s| s.answer(|a| a.federation[0].held = None)),
        site("federation.endpoints", Warn, |s| endpoint_trouble(s, Reason::FederationUnavailable)),
        site("federation.endpoints", Warn, |s| endpoint_trouble(s, Reason::FederationRollback)),
        given(registry_login, site("registry.secrets", Fail, |s| set_mode(&s.etc("registries.json"), 0o640))),
        given(
            registry_login,
            site("registry.secrets", Fail, |s| fs::remove_file(s.etc("registries.json")).unwrap()),
        ),
        given(
            registry_login,
            site("registry.secrets", Fail, |s| chown(s.etc("registries.json"), Some(1), None).unwrap()),
        ),
        given(proxy_login, site("registry.secrets", Fail, |s| set_mode(&s.etc("proxy-login"), 0o644))),
        given(Site::with_est, site("est.secret", Fail, |s| set_mode(&s.etc("est-password"), 0o640))),
        given(
            Site::with_est,
            site("est.secret", Fail, |s| chown(s.etc("est-password"), Some(1), None).unwrap()),
        ),
        given(Site::with_est, site("est.secret", Fail, |s| fs::remove_file(s.etc("est-password")).unwrap())),
        given(Site::with_est, site("est.contact", Warn, |s| in_trouble(s, true))),
        given(Site::with_est, site("est.contact", Fail, |s| in_trouble(s, false))),
        given(
            Site::with_est,
            site("est.pending", Warn, |s| {
                s.answer(|a| a.status.est.as_mut().unwrap().pending_since = Some(UnixTime(1)));
            }),
        ),
        given(
            Site::with_est,
            site("attestation.joined", Fail, |s| {
                s.answer(|a| a.status.est.as_mut().unwrap().certified = false);
            }),
        ),
        given(Site::with_est, site("config.protected", Fail, |s| set_mode(&s.etc("operator-1.pem"), 0o666))),
        given(
            Site::with_est,
            site("config.operator_keys", Fail, |s| write(&s.etc("operator-1.pem"), "no key")),
        ),
    ]
}

fn cases() -> Vec<Case> {
    [
        config_cases(),
        permission_cases(),
        machine_cases(),
        daemon_cases(),
        identity_cases(),
        outside_cases(),
        est_cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[tokio::test]
async fn a_healthy_gateway_passes_every_check_that_applies() {
    let site = Site::new().await;
    let facts = site.facts().await;
    let skipped: Vec<_> =
        examine(&facts, None).into_iter().filter(|one| one.outcome != Outcome::Pass).collect();
    assert_eq!(
        skipped.iter().map(|one| one.id).collect::<Vec<_>>(),
        ["permissions.secret_file", "est.secret", "est.contact", "est.pending"],
        "{skipped:#?}"
    );
}

#[tokio::test]
async fn each_fault_is_seen_by_exactly_its_check() {
    let mut wrong = Vec::new();
    for (number, case) in cases().iter().enumerate() {
        let name = format!("case {number}, {}", case.check);
        let mut site = Site::new().await;
        let mut before = Vec::new();
        if let Some(given) = case.given {
            let mut whole = Site::new().await;
            given(&mut whole);
            before = bad(&whole.facts().await);
            given(&mut site);
        }
        (case.site)(&mut site);
        let mut facts = site.facts().await;
        (case.facts)(&mut facts);
        let mut after = bad(&facts);
        after.retain(|one| !before.contains(one));
        let examined: Vec<_> = examine(&facts, None).into_iter().filter(|one| one.remedy.is_some()).collect();
        let found = examined.iter().find(|one| one.id == case.check);
        let told = found
            .is_some_and(|one| !one.said.is_empty() && one.remedy.as_ref().is_some_and(|r| !r.is_empty()));
        if after != [(case.check, case.outcome)] || !told {
            wrong.push(format!("{name} is to be {:?}: {after:?}, {examined:#?}", case.outcome));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_check_has_a_case_and_every_case_a_check() {
    let checks: BTreeSet<_> = CHECKS.iter().map(|check| check.id).collect();
    let broken: BTreeSet<_> = cases().iter().map(|case| case.check).collect();
    assert_eq!(checks, broken);
}

#[test]
fn there_are_many_checks_each_with_its_own_code_and_a_remedy() {
    assert!(CHECKS.len() >= 40, "{} checks", CHECKS.len());
    let mut seen = BTreeSet::new();
    for check in CHECKS.iter() {
        assert!(seen.insert(check.id), "{} is there twice", check.id);
        let (area, name) = check.id.split_once('.').unwrap();
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        };
        assert!(plain(area) && plain(name), "{}", check.id);
        assert!(!check.title.is_empty() && !check.remedy.is_empty(), "{}", check.id);
        assert!(!check.title.ends_with('.') && !check.remedy.ends_with('.'), "{}", check.id);
    }
    let unique: BTreeSet<_> = areas().into_iter().collect();
    assert_eq!(unique.len(), areas().len(), "an area is in two places");
}

#[test]
fn the_documentation_lists_the_checks() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/doctor.md")).unwrap();
    assert!(text.contains(&table()), "write the output of `edgewarden doctor --list` into docs/doctor.md");
}

#[tokio::test]
async fn a_machine_with_nothing_on_it_is_examined_too() {
    let folder = tempfile::tempdir().unwrap();
    let sources = edgewarden_doctor::Sources {
        layout: edgewarden_protocol::layout::Layout::new(folder.path().join("none")),
        proc: folder.path().join("proc"),
        sys: folder.path().join("sys"),
        path: Vec::new(),
        patience: std::time::Duration::from_secs(20),
    };
    let facts = edgewarden_doctor::gather(&sources).await;
    assert!(matches!(facts.config.state, ConfigState::Missing(_)));
    let failed = bad(&facts);
    assert!(failed.contains(&("config.present", Fail)) && failed.contains(&("daemons.identityd", Fail)));
    assert_eq!(examine(&facts, Some("clock")).len(), 6);
}

/// The system clock shows another time than is believed.
fn doubt(facts: &mut Facts, seconds: i64) {
    let time = &mut facts.daemons.identity.as_mut().unwrap().time;
    let shows = UnixTime(time.now.0.saturating_add_signed(seconds));
    time.doubted = Some(DoubtedTime { shows, believed_from: None });
}

#[tokio::test]
async fn advice_on_the_clock_is_right_in_both_directions() {
    let mut site = Site::new().await;
    site.with_software();
    let find = |facts: &Facts, id: &str| {
        examine(facts, Some("clock")).into_iter().find(|found| found.id == id).unwrap()
    };
    for (days, says) in [(40, "it is 40 d ahead of it"), (-40, "it is 40 d behind it")] {
        let mut facts = site.facts().await;
        doubt(&mut facts, days * DAY.cast_signed());
        let found = find(&facts, "clock.believed");
        assert!(found.said.starts_with(says), "{found:?}");
        assert!(found.remedy.as_ref().unwrap().contains("edgewarden clock accept"), "{found:?}");
    }
    // A dead battery has advice of its own.
    let mut facts = site.facts().await;
    facts.clock.wall = UnixTime(1000);
    let found = find(&facts, "clock.plausible");
    assert!(
        found.said.contains("battery") && found.remedy.as_ref().unwrap().contains("hwclock"),
        "{found:?}"
    );
}

#[tokio::test]
async fn nothing_is_changed() {
    let mut site = Site::new().await;
    site.with_software();
    site.facts().await;
    let before = everything(&site.path(""));
    site.facts().await;
    assert_eq!(everything(&site.path("")), before);
}

/// Every file with its content, owner, mode and time.
fn everything(folder: &std::path::Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let (uid, mode, time) = (metadata.uid(), metadata.mode(), metadata.ctime_nsec());
        let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.push(format!("{} {uid} {mode:o} {time} {content:?}", path.display()));
        if metadata.is_dir() {
            found.extend(everything(&path));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_disk_that_does_not_answer_is_not_called_fine() {
    let mut facts = Site::new().await.facts().await;
    facts.disk.volumes.clear();
    for id in ["disk.inodes", "disk.persistent", "disk.durable", "disk.writable"] {
        let found = examine(&facts, None).into_iter().find(|one| one.id == id).unwrap();
        assert_eq!(found.outcome, Outcome::Skip, "{id}");
    }
}

/// Real file systems, in a mount namespace of the test's own: the program runs itself there.
#[test]
fn a_disk_that_takes_nothing_is_not_called_writable() {
    const INSIDE: &str = "EDGEWARDEN_TEST_INSIDE";
    const NAME: &str = "a_disk_that_takes_nothing_is_not_called_writable";
    if std::env::var_os(INSIDE).is_none() {
        let mut command = std::process::Command::new("unshare");
        command.arg("--mount").arg(std::env::current_exe().unwrap()).args(["--exact", NAME]).env(INSIDE, "1");
        assert!(command.status().unwrap().success());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("var/lib/edgewarden");
    fs::create_dir_all(&state).unwrap();
    let mount = |options: &str| {
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&state);
        assert!(command.status().unwrap().success(), "{options}");
    };
    let writable = || {
        let sources = edgewarden_doctor::Sources {
            layout: edgewarden_protocol::layout::Layout::new(folder.path()),
            proc: "/proc".into(),
            sys: "/sys".into(),
            path: Vec::new(),
            patience: std::time::Duration::from_secs(20),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let facts = runtime.block_on(edgewarden_doctor::gather(&sources));
        examine(&facts, Some("disk")).into_iter().find(|one| one.id == "disk.writable").unwrap()
    };
    mount("size=1m");
    let found = writable();
    assert_eq!(found.outcome, Outcome::Pass, "{found:?}");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "the probe left nothing");
    // Full: to the last page.
    let filled = fs::write(state.join("fill"), vec![1; 2 << 20]);
    assert!(filled.is_err());
    let found = writable();
    assert_eq!(found.outcome, Fail, "{found:?}");
    assert!(found.said.contains("does not come to the disk"), "{found:?}");
    mount("ro,size=1m");
    assert_eq!(writable().outcome, Fail, "read-only");
    for _ in 0..2 {
        std::process::Command::new("umount").arg(&state).status().unwrap();
    }
}
