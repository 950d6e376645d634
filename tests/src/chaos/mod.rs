//! Faults of every kind against a working site, while what was acknowledged is counted against what arrived.
//!
//! * [`disk`]: file systems that lose power · [`clock`]: a wall clock that leaps
//! * [`load`], [`mqtt`]: who publishes and who listens
//! * [`scene`]: the site · [`faults`]: what is done to it

pub mod clock;
pub mod disk;
pub mod faults;
pub mod load;
pub mod mqtt;
pub mod random;
pub mod scene;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use faults::Fault;
use random::Random;
use scene::{Scene, Surroundings};

use crate::Failure;

/// Within this time everything works again after a fault.
const HEAL: Duration = Duration::from_secs(90);

#[derive(Debug, Clone)]
pub struct Options {
    /// Faults are chosen until then; each of `faults` strikes once at least.
    pub duration: Duration,
    pub seed: u64,
    pub faults: Vec<Fault>,
}

/// One fault that struck, and how it ended.
#[derive(Debug)]
pub struct Struck {
    pub fault: Fault,
    pub remark: String,
    pub healed_in: Duration,
}

#[derive(Debug, Default)]
pub struct Report {
    pub acknowledged: usize,
    /// Acknowledged, and never seen by the watcher or the fleet.
    pub lost: Vec<String>,
    /// Other failures.
    pub failures: Vec<String>,
    /// Processes, mounts, interfaces, rules and cgroups that were still there when all had ended.
    pub leftovers: Vec<String>,
    /// Strikes of each kind, and the longest time until all worked again.
    pub struck: BTreeMap<&'static str, (u32, Duration)>,
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.lost.is_empty() && self.failures.is_empty() && self.leftovers.is_empty()
    }
}

/// Runs in a sandbox. `tell` hears of each fault as it has ended.
pub fn run(
    folder: &Path,
    gateway: &str,
    options: &Options,
    mut tell: impl FnMut(&Result<Struck, Failure>),
) -> Result<Report, Failure> {
    let before = Surroundings::look(gateway)?;
    let mut scene = Scene::set(folder, gateway)?;
    scene.heal(HEAL)?;
    let mut random = Random::new(options.seed);
    let mut report = Report::default();
    let mut due: Vec<Fault> = Vec::new();
    let end = Instant::now() + options.duration;
    let mut first_round = true;
    loop {
        if due.is_empty() {
            if !first_round && Instant::now() >= end {
                break;
            }
            due = shuffled(&options.faults, &mut random);
            if due.is_empty() {
                break;
            }
        }
        let Some(fault) = due.pop() else { break };
        let start = Instant::now();
        let struck = fault.strike(&mut scene, &mut random).and_then(|remark| {
            let mended = Instant::now();
            scene.heal(HEAL)?;
            Ok(Struck { fault, remark, healed_in: mended.elapsed() })
        });
        let entry = report.struck.entry(fault.name()).or_default();
        entry.0 += 1;
        let struck = struck.map_err(|Failure(why)| Failure(format!("{}: {why}", fault.name())));
        match &struck {
            Ok(struck) => entry.1 = entry.1.max(struck.healed_in),
            Err(Failure(why)) => {
                entry.1 = entry.1.max(start.elapsed());
                report.failures.push(why.clone());
            }
        }
        tell(&struck);
        if struck.is_err() {
            // What comes after a site that does not heal says nothing about the next fault.
            break;
        }
        first_round = first_round && !due.is_empty();
        if !first_round && Instant::now() >= end {
            break;
        }
    }
    if report.failures.is_empty()
        && let Err(Failure(why)) = scene.drain()
    {
        report.lost.push(why);
    }
    report.acknowledged = scene.load.acknowledged.total();
    if report.failures.is_empty() {
        report.leftovers = scene.strike_set(&before)?;
    }
    Ok(report)
}

fn shuffled(faults: &[Fault], random: &mut Random) -> Vec<Fault> {
    let mut left = faults.to_vec();
    let mut order = Vec::new();
    while !left.is_empty() {
        let at = usize::try_from(random.below(left.len() as u64)).unwrap_or_default();
        order.push(left.swap_remove(at));
    }
    // The way back to an earlier state needs one: the first `restore` makes it, a second uses it.
    if let Some(at) = order.iter().position(|fault| *fault == Fault::Restore) {
        order.insert(at, Fault::Restore);
        let last = order.len() - 1;
        order.swap(at + 1, last);
    }
    order
}
