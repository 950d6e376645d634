//! The limits of a running instance in its cgroup: whether they are still what they were set to, and how often the kernel
//! held the module to them. Both layouts: a hierarchy for each controller (v1) and the unified one (v2).

use std::path::{Path, PathBuf};

use edgewarden_names::{Reason, Refusal};
use edgewarden_platform::process::Process;
use edgewarden_platform::user_namespace::{self, ObjectLimit};
use edgewarden_protocol::deployment::Module;

use crate::error::RunError;

/// Microseconds that a processor's limit is kept over.
pub const CPU_PERIOD: u64 = 100_000;
const MOUNT: &str = "/sys/fs/cgroup";
/// The kernel rounds limits down to pages, whose size differs.
const ROUNDING_BYTES_MAX: u64 = 64 * 1024;

/// The files of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    memory: PathBuf,
    pids: PathBuf,
    cpu: PathBuf,
    unified: bool,
    memory_bytes: u64,
    pids_max: u64,
    /// Microseconds in each period.
    cpu_quota: Option<u64>,
    module: String,
}

/// Counts of the kernel holding a module to a limit, since its instance began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitHits {
    /// Processes that were ended because memory was short in the module.
    pub out_of_memory: u64,
    /// Processes and threads that were not made.
    pub out_of_processes: u64,
}

/// What the kernel gives a user at least, on most machines. Watches are memory, which a module's own limit bounds.
const OBJECTS: [ObjectLimit; 2] = [
    ObjectLimit { file: c"/proc/sys/user/max_inotify_instances", value: b"128" },
    ObjectLimit { file: c"/proc/sys/user/max_inotify_watches", value: b"65536" },
];
/// The same for root, for whom the objects of all users of all modules count too: more than fit into the memory that modules
/// have, where each object is counted.
const OF_ROOT: [(&str, u64); 2] = [
    ("/proc/sys/fs/inotify/max_user_instances", 1 << 24),
    ("/proc/sys/fs/inotify/max_user_watches", 1 << 27),
];

/// Raises the machine's limits so far that no module's objects are missing to another, or to root. Where that is not
/// allowed, modules may use up each other's. Blocks.
pub fn make_room_for_objects() {
    for (file, wanted) in OF_ROOT {
        let found = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok());
        if found.is_some_and(|found| found < wanted)
            && let Err(error) = std::fs::write(file, wanted.to_string())
        {
            tracing::warn!(file, %error, "modules may use up each other's inotify objects: the limit cannot be raised");
        }
    }
}

/// Keeps a module to its own share of the kernel's objects that no cgroup counts. Blocks.
pub fn limit_objects(process: &Process) -> Result<(), RunError> {
    user_namespace::limit_objects(process, &OBJECTS)
        .map_err(RunError::io("limit the module's inotify objects"))
}

/// Microseconds of a processor's limit in each [`CPU_PERIOD`].
pub fn cpu_quota(millis: u32) -> u64 {
    u64::from(millis).saturating_mul(CPU_PERIOD) / 1000
}

impl Limits {
    /// `cgroup` as the OCI runtime was told.
    pub fn new(cgroup: &str, module: &Module) -> Self {
        Self::below(Path::new(MOUNT), cgroup, module)
    }

    fn below(mount: &Path, cgroup: &str, module: &Module) -> Self {
        let own = cgroup.trim_start_matches('/');
        let unified = mount.join("cgroup.controllers").exists();
        let place =
            |controller: &str| if unified { mount.join(own) } else { mount.join(controller).join(own) };
        Self {
            memory: place("memory"),
            pids: place("pids"),
            cpu: place("cpu"),
            unified,
            memory_bytes: module.memory_bytes,
            pids_max: module.pids_max.into(),
            cpu_quota: module.cpu.millis_max.map(cpu_quota),
            module: module.name.to_string(),
        }
    }

    /// The folders in which something happens when a limit changes or is reached.
    pub fn folders(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.memory.clone(), self.pids.clone()];
        if self.cpu_quota.is_some() {
            folders.push(self.cpu.clone());
        }
        folders.dedup();
        folders
    }

    /// Each limit: its file's name and path, the number that it holds, and how much less the kernel may have made of it.
    fn wanted(&self) -> Vec<(&'static str, PathBuf, u64, u64)> {
        let memory = |name: &'static str, bytes| (name, self.memory.join(name), bytes, ROUNDING_BYTES_MAX);
        let pids = ("pids.max", self.pids.join("pids.max"), self.pids_max, 0);
        let quota = if self.unified { "cpu.max" } else { "cpu.cfs_quota_us" };
        let cpu = self.cpu_quota.map(|wanted| (quota, self.cpu.join(quota), wanted, 0));
        let mut wanted = if self.unified {
            vec![pids, memory("memory.max", self.memory_bytes), memory("memory.swap.max", 0)]
        } else {
            // The second of memory must not be below the first.
            let both = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
            let [first, second] = both.map(|file| memory(file, self.memory_bytes));
            vec![pids, first, second]
        };
        wanted.extend(cpu);
        wanted
    }

    /// Puts limits back that are not what they were set to, and says which. Files that the kernel does not have are
    /// no limits of ours.
    pub fn mend(&self) -> Result<Vec<String>, RunError> {
        let mut mended = Vec::new();
        for (name, file, wanted, rounding) in self.wanted() {
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            // `cpu.max` has its period behind it, which stays.
            let text = text.split_whitespace().next().unwrap_or_default();
            // `max` is no number.
            let fits = text
                .parse::<u64>()
                .is_ok_and(|number| number <= wanted && wanted.saturating_sub(number) <= rounding);
            if !fits {
                mended.push(format!("`{name}` was set to {text} instead of {wanted}"));
                std::fs::write(&file, wanted.to_string())
                    .map_err(RunError::io(format!("put `{}` back", file.display())))?;
            }
        }
        Ok(mended)
    }

    /// The kernel's counts of the moment.
    pub fn hits(&self) -> LimitHits {
        let events = if self.unified { "memory.events" } else { "memory.oom_control" };
        LimitHits {
            out_of_memory: count(&self.memory.join(events), "oom_kill"),
            out_of_processes: count(&self.pids.join("pids.events"), "max"),
        }
    }

    /// The refusal that a running module's counts since `before` amount to; `None` when they did not rise.
    pub fn said(&self, before: LimitHits) -> Option<Refusal> {
        let now = self.hits();
        if now.out_of_memory > before.out_of_memory {
            let rule = format!("{}; other processes of it still run", self.memory_ended(now.out_of_memory));
            return Some(Refusal::new(Reason::ModuleOutOfMemory, &self.module, rule));
        }
        (now.out_of_processes > before.out_of_processes).then(|| {
            let rule = format!(
                "it has {} processes and threads, which is its limit; {} more were refused",
                self.pids_max, now.out_of_processes
            );
            Refusal::new(Reason::ModuleOutOfProcesses, &self.module, rule)
        })
    }

    /// Words for processes that the kernel ended for want of memory.
    pub fn memory_ended(&self, times: u64) -> String {
        let mebibytes = self.memory_bytes >> 20;
        let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
        format!("out of memory: the kernel ended a process of it {times}, at its limit of {mebibytes} MiB")
    }
}

/// The number behind a key in a file of `key number` lines; 0 when there is none.
fn count(file: &Path, key: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let number = |line: &str| {
        let (found, number) = line.split_once(' ')?;
        (found == key).then(|| number.trim().parse().ok())?
    };
    text.lines().find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module() -> Module {
        let image = format!("r/a@sha256:{}", "ab".repeat(32));
        let text = serde_json::json!({"name": "alerts", "image": image, "memory_bytes": 33_554_432, "pids_max": 20,
                                      "cpu": {"millis_max": 500}});
        serde_json::from_value(text).unwrap()
    }

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let path = folder.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn a_limit_that_was_lifted_is_put_back_in_both_layouts() {
        let one = [
            ("memory/e/a/memory.limit_in_bytes", "33554432\n"),
            ("pids/e/a/pids.max", "20\n"),
            ("cpu/e/a/cpu.cfs_quota_us", "50000\n"),
        ];
        let two = [
            ("cgroup.controllers", ""),
            ("e/a/memory.max", "33550336\n"),
            ("e/a/memory.swap.max", "0\n"),
            ("e/a/pids.max", "20\n"),
            ("e/a/cpu.max", "50000 100000\n"),
        ];
        for (files, memory, pids, cpu) in [
            (&one[..], "memory/e/a/memory.limit_in_bytes", "pids/e/a/pids.max", "cpu/e/a/cpu.cfs_quota_us"),
            (&two[..], "e/a/memory.max", "e/a/pids.max", "e/a/cpu.max"),
        ] {
            let mount = tempfile::tempdir().unwrap();
            write(mount.path(), files);
            let limits = Limits::below(mount.path(), "/e/a", &module());
            assert!(limits.mend().unwrap().is_empty(), "rounded down by the kernel");
            for (file, lifted, wanted) in [
                (memory, "max\n", "33554432"),
                (memory, "9223372036854771712\n", "33554432"),
                (memory, "4096", "33554432"),
                (pids, "max\n", "20"),
                (pids, "19\n", "20"),
                (cpu, "-1\n", "50000"),
                (cpu, "max 100000\n", "50000"),
            ] {
                write(mount.path(), &[(file, lifted)]);
                assert_eq!(limits.mend().unwrap().len(), 1, "{file} {lifted}");
                assert_eq!(std::fs::read_to_string(mount.path().join(file)).unwrap(), wanted);
            }
        }
    }

    #[test]
    fn what_the_kernel_refused_has_a_name() {
        let mount = tempfile::tempdir().unwrap();
        write(
            mount.path(),
            &[
                ("memory/e/a/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
                ("pids/e/a/pids.events", "max 7\n"),
            ],
        );
        let limits = Limits::below(mount.path(), "/e/a", &module());
        assert_eq!(limits.hits(), LimitHits { out_of_memory: 2, out_of_processes: 7 });
        let said = limits.said(LimitHits::default()).unwrap();
        assert_eq!(said.reason, Reason::ModuleOutOfMemory);
        assert!(said.rule.contains("2 times, at its limit of 32 MiB"), "{said}");
        let said = limits.said(LimitHits { out_of_memory: 2, out_of_processes: 0 }).unwrap();
        assert_eq!(said.reason, Reason::ModuleOutOfProcesses);
        assert!(said.rule.contains("7 more were refused"), "{said}");
        assert_eq!(limits.said(limits.hits()), None);
        let nothing = Limits::below(&mount.path().join("none"), "/e/a", &module());
        assert_eq!(nothing.hits(), LimitHits::default());
    }
}
