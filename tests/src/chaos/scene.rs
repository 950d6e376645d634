//! One site on disks that can fail, its devices, and what is known about their messages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use super::clock::Clock;
use super::disk::Disk;
use super::load::{Counted, Device, Devices, FILTER, Load};
use super::mqtt::configuration;
use crate::process::{run, wait_for};
use crate::site::{Keys, LEAF_ENROL, Site, TRUST_DOMAIN};
use crate::story::{self, deploy, sign};
use crate::{Failure, ensure};

const GATEWAY_MEBIBYTES: usize = 256;
const FLEET_MEBIBYTES: usize = 96;
const METERS: usize = 3;
/// Messages that show, each way, that everything works again.
const MORE: usize = 30;
const DRAIN: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub struct Scene {
    pub site: Site,
    pub gateway_disk: Disk,
    pub fleet_disk: Disk,
    pub clock: Clock,
    pub load: Load,
    pub loud: Device,
    /// Numbers that the fleet's database has held.
    pub collected: Counted,
    collecting: Arc<AtomicBool>,
    collector: Option<JoinHandle<()>>,
}

const POLICY: &str = r#"
@id("count-connect")
permit (principal in LeafGroup::"counters", action == Action::"connect", resource);

@id("count-publish")
permit (principal in LeafGroup::"meters", action == Action::"publish", resource in TopicFilter::"count")
when { resource has owner && resource.owner == principal };

@id("count-upload")
permit (principal in LeafGroup::"meters", action == Action::"upload", resource == CloudEndpoint::"upstream");

@id("count-receive")
permit (
  principal in LeafGroup::"readers",
  action in [Action::"subscribe", Action::"receive"],
  resource == TopicFilter::"all-counts"
);
"#;

fn declarations(names: &[String]) -> String {
    let mut text = format!(
        "\n[[topics]]\nname = \"count\"\nfilter = \"leaf/{{leaf}}/count\"\n\n\
         [[topics]]\nname = \"all-counts\"\nfilter = \"{FILTER}\"\n\n\
         [[routes]]\nfilter = \"{FILTER}\"\nto = \"upstream\"\n"
    );
    for name in names {
        let group = if name.starts_with("reader") { "readers" } else { "meters" };
        text = format!("{text}\n[[leaves]]\nname = \"{name}\"\ngroups = [\"counters\", \"{group}\"]\n");
    }
    text
}

impl Scene {
    /// Builds the site in a new folder: enrolled, deployed, its devices enrolled and at work.
    pub fn set(folder: &Path, gateway: &str) -> Result<Self, Failure> {
        let mut site = Site::new(folder, gateway, Keys::SimulatedTpm)?;
        let disks = site.path("disks");
        let gateway_disk = Disk::new(&disks.join("gateway"), &site.root(), GATEWAY_MEBIBYTES)?;
        let fleet_disk = Disk::new(&disks.join("fleet"), &site.path("fleet"), FLEET_MEBIBYTES)?;
        let clock = Clock::new(&site.path("clock"))?;
        site.gateway_environment = clock.environment();
        story::run(&mut site, &["manufacture", "fleet", "enrol", "sign"])?;
        let mut names: Vec<String> = (1..=METERS).map(|number| format!("meter-{number}")).collect();
        names.push("loud-1".into());
        names.extend(["watcher", "slow", "absent", "fragile"].map(|name| format!("reader-{name}")));
        site.start_gateway()?;
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/glucose-monitor/policy.cedar");
        fs::create_dir_all(site.path("deployment"))?;
        fs::write(site.path("deployment/chaos.cedar"), fs::read_to_string(example)? + POLICY)?;
        let change = |text: String| {
            text.replace("policy_file = \"policy.cedar\"", "policy_file = \"chaos.cedar\"")
                + &declarations(&names)
        };
        deploy::send(&site, 1, "operator.key", change)?.ok()?;
        site.wait_for_modules(&sign::MODULES)?;
        let mut devices = Vec::new();
        for name in &names {
            devices.push(enrol(&site, name)?);
        }
        let mut of = |prefix: &str| -> Result<Device, Failure> {
            let at = devices.iter().position(|device: &Device| device.name.starts_with(prefix));
            at.map(|at| devices.remove(at)).ok_or_else(|| Failure(format!("no device {prefix}")))
        };
        let (noisy, watcher, slow, absent) =
            (of("loud")?, of("reader-watcher")?, of("reader-slow")?, of("reader-absent")?);
        let fragile = of("reader-fragile")?;
        let load = Load::start(&Devices { meters: devices, watcher, slow, absent, fragile });
        let (collected, collecting) = (Counted::default(), Arc::new(AtomicBool::new(true)));
        let database = site.path("fleet/fleet.db");
        let collector = {
            let (collected, collecting) = (collected.clone(), collecting.clone());
            thread::spawn(move || collect(&database, &collected, &collecting))
        };
        Ok(Self {
            site,
            gateway_disk,
            fleet_disk,
            clock,
            load,
            loud: noisy,
            collected,
            collecting,
            collector: Some(collector),
        })
    }

    pub fn start_gateway(&mut self) -> Result<(), Failure> {
        self.site.start_gateway()
    }

    pub fn start_fleet(&mut self) -> Result<(), Failure> {
        self.site.restart_fleet(&[])
    }

    /// Ends every process in a module's cgroup.
    pub fn kill_modules(&self) -> Result<(), Failure> {
        let mark = format!("/edgewarden/{}-", self.site.gateway);
        wait_for("the modules' processes to end", Duration::from_secs(10), || {
            let mut left = 0;
            for pid in pids()? {
                let Ok(cgroups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { continue };
                // One that has ended is nobody's until it is waited for.
                let ended = fs::read_to_string(format!("/proc/{pid}/stat"))
                    .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')));
                if cgroups.contains(&mark) && !ended {
                    left += 1;
                    let _ = nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid),
                        nix::sys::signal::Signal::SIGKILL,
                    );
                }
            }
            ensure(left == 0, || format!("{left} are left"))
        })
    }

    /// Takes away what a machine that was switched off does not have: interfaces, rules, namespaces, cgroups.
    pub fn forget_kernel_state(&self) -> Result<(), Failure> {
        run(Command::new("nft").args(["flush", "ruleset"]))?.ok()?;
        for mounted in super::disk::mounts_beneath(&self.site.root())? {
            run(Command::new("umount").arg("-l").arg(mounted))?.ok()?;
        }
        let links = run(Command::new("ip").args(["-o", "link", "show", "type", "veth"]))?.ok()?;
        for link in links.lines().filter_map(|line| line.split([':', '@']).nth(1)) {
            // Its namespace may have taken it along already.
            run(Command::new("ip").args(["link", "del", link.trim()]))?;
        }
        crate::sandbox::remove_cgroups(&self.site.gateway);
        Ok(())
    }

    /// Waits until everything works again: modules run, meters are acknowledged, and what they sent after the fault
    /// arrives with the watcher and in the fleet.
    pub fn heal(&mut self, within: Duration) -> Result<(), Failure> {
        let before = (self.load.acknowledged.total(), self.load.watched.total(), self.collected.total());
        let site = &mut self.site;
        let (load, collected) = (&self.load, &self.collected);
        wait_for("everything to work again", within, || {
            if let Some(up) = &mut site.up {
                up.check()?;
            }
            if let Some(fleet) = &mut site.fleet {
                fleet.check()?;
            }
            let now = (load.acknowledged.total(), load.watched.total(), collected.total());
            let more = [
                ("acknowledged to the meters", now.0 - before.0),
                ("received by the watcher", now.1 - before.1),
                ("received by the fleet", now.2 - before.2),
            ];
            for (what, count) in more {
                ensure(count >= MORE, || format!("only {count} messages were {what} since the fault"))?;
            }
            let status = site.status()?;
            for name in sign::MODULES {
                let state = crate::site::module(&status, name).map(|module| module["state"].clone());
                ensure(state.as_ref().is_some_and(|state| state == "running"), || {
                    format!("module {name} is {state:?}: {status}")
                })?;
                let certified = status["identity"]["identities"].as_array().is_some_and(|identities| {
                    identities.iter().any(|identity| {
                        identity["instance"].as_str().is_some_and(|instance| instance.starts_with(name))
                            && !identity["expires"].is_null()
                    })
                });
                ensure(certified, || format!("module {name} has no certificate: {status}"))?;
            }
            ensure(status["runtime"]["fleet"]["error"].is_null(), || {
                format!("the fleet is away: {}", status["runtime"]["fleet"]["error"])
            })
        })
        .map_err(|Failure(why)| Failure(format!("{why}\n--- gateway log\n{}", self.site.gateway_log(25))))
    }

    /// Stops the meters and waits until everything that was acknowledged has arrived.
    pub fn drain(&mut self) -> Result<(), Failure> {
        self.load.stop_publishing();
        let acknowledged = &self.load.acknowledged;
        wait_for("everything acknowledged to arrive", DRAIN, || {
            for (who, there) in [("the watcher", &self.load.watched), ("the fleet", &self.collected)] {
                let missing = acknowledged.missing_in(there);
                ensure(missing.is_empty(), || {
                    let shown: Vec<_> =
                        missing.iter().take(5).map(|(meter, n)| format!("{meter} {n}")).collect();
                    format!(
                        "{} of {} acknowledged messages have not reached {who}, such as {}",
                        missing.len(),
                        acknowledged.total(),
                        shown.join(", ")
                    )
                })?;
            }
            Ok(())
        })
    }

    /// Ends everything in an orderly way, and says what is left that should not be.
    pub fn strike_set(mut self, before: &Surroundings) -> Result<Vec<String>, Failure> {
        self.collecting.store(false, Ordering::Relaxed);
        if let Some(collector) = self.collector.take() {
            drop(collector.join());
        }
        self.load.end();
        self.site.down()?;
        if let Some(mut fleet) = self.site.fleet.take() {
            fleet.stop();
        }
        if let Some(mut registry) = self.site.registry.take() {
            registry.stop();
        }
        self.site.power_cut()?;
        let gateway = self.site.gateway.clone();
        drop(self.gateway_disk);
        drop(self.fleet_disk);
        Ok(before.compare(&Surroundings::look(&gateway)?))
    }
}

fn enrol(site: &Site, name: &str) -> Result<Device, Failure> {
    let folder = site.path("devices").join(name);
    fs::create_dir_all(site.path("devices"))?;
    let token = run(&mut site.edgewarden(&["leaf", "allow", name]))?.ok()?;
    let mut enrol = Command::new(site.program("sensor"));
    enrol.args(["enrol", "--gateway", LEAF_ENROL, "--leaf", name, "--token", token.trim()]);
    enrol.args(["--trust-domain", TRUST_DOMAIN, "--root"]).arg(site.path("fleet/root.pem"));
    enrol.arg("--dir").arg(&folder);
    wait_for("the gateway to enrol a device", Duration::from_secs(20), || run(&mut enrol)?.ok())?;
    let config = configuration(&folder, &site.gateway, name)?;
    Ok(Device { name: name.into(), config })
}

/// Reads the fleet's database over a connection of its own, again and again: what the server believes is not asked.
fn collect(database: &Path, collected: &Counted, collecting: &AtomicBool) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let mut last = 0_i64;
    while collecting.load(Ordering::Relaxed) {
        // The fleet may be away, its disk dark: the next look tells.
        if let Ok(seen) = runtime.block_on(look(database, last, collected)) {
            last = seen;
        }
        thread::sleep(Duration::from_millis(500));
    }
}

async fn look(database: &Path, after: i64, collected: &Counted) -> Result<i64, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    let rows = sqlx::query("SELECT id, topic, payload FROM message WHERE id > ? ORDER BY id")
        .bind(after)
        .fetch_all(&pool)
        .await;
    pool.close().await;
    let mut last = after;
    for row in rows? {
        last = row.try_get::<i64, _>("id")?.max(last);
        collected.take(row.try_get("topic")?, row.try_get::<&[u8], _>("payload")?);
    }
    Ok(last)
}

fn pids() -> Result<Vec<i32>, Failure> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Things that a gateway must not leave behind: processes, mounts, interfaces, nftables tables, cgroups.
#[derive(Debug, Default)]
pub struct Surroundings {
    found: Vec<String>,
}

impl Surroundings {
    pub fn look(gateway: &str) -> Result<Self, Failure> {
        let mut found = Vec::new();
        for pid in pids()? {
            // A process that ended meanwhile is none; a kernel thread has no command.
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = command.replace('\0', " ");
            if command.contains("edgewarden") || command.contains("runc") || command.contains("swtpm") {
                let name = command.split(' ').next().unwrap_or_default();
                if !name.ends_with("chaos") && !name.contains("/deps/chaos") {
                    found.push(format!("process {}", command.trim()));
                }
            }
        }
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        for point in table.lines().filter_map(|line| line.split(' ').nth(4)) {
            found.push(format!("mount {point}"));
        }
        let links = run(Command::new("ip").args(["-o", "link", "show"]))?.ok()?;
        for link in links.lines().filter_map(|line| line.split(':').nth(1)) {
            found.push(format!("interface {}", link.trim()));
        }
        let rules = run(Command::new("nft").args(["list", "tables"]))?.ok()?;
        found.extend(rules.lines().map(|line| format!("nftables {line}")));
        for top in cgroups(gateway) {
            found.push(format!("cgroup {}", top.display()));
        }
        Ok(Self { found })
    }

    /// The things that are there after and were not before.
    fn compare(&self, after: &Self) -> Vec<String> {
        after.found.iter().filter(|thing| !self.found.contains(thing)).cloned().collect()
    }
}

fn cgroups(gateway: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut hierarchies = vec![PathBuf::from("/sys/fs/cgroup")];
    hierarchies
        .extend(fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()));
    for hierarchy in hierarchies {
        for entry in fs::read_dir(hierarchy.join("edgewarden")).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!("{gateway}-")) {
                found.push(entry.path());
            }
        }
    }
    found
}
