//! The machine's time: the system clock, its keeper, and the latest time that `identityd` has seen.

use edgewarden_names::UnixTime;
use serde::Deserialize;

use super::{Read, Sources, text};

/// Programs that keep the clock, as `/proc/<pid>/comm` shows them (15 characters at most).
const KEEPERS: [&str; 6] = ["chronyd", "ntpd", "ntpsec", "systemd-timesyn", "ptp4l", "phc2sys"];
const PROCESSES_MAX: usize = 32 * 1024;

/// Facts about the machine's time.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Time that the system clock shows.
    pub wall: UnixTime,
    /// The latest time that `identityd` has seen. `None` before it has.
    pub floor: Read<Option<UnixTime>>,
    /// Name of the program that keeps the clock, such as `chronyd`; `None` when none is found.
    pub kept_by: Option<String>,
    /// A clock that runs while the machine is off.
    pub hardware_clock: bool,
    /// The kernel's, such as `tsc`.
    pub source: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    floor: UnixTime,
}

/// Reads the clock, its keeper in /proc, and the floor in the state of `identityd`.
pub fn gather(sources: &Sources) -> Clock {
    let path = sources.layout.identity_state().join("clock.json");
    let floor = if path.exists() {
        text(&path).and_then(|text| {
            serde_json::from_str::<Document>(&text)
                .map(|document| Some(document.content.floor))
                .map_err(|error| format!("`{}` is damaged: {error}", path.display()))
        })
    } else {
        Ok(None)
    };
    let source = text(&sources.sys.join("devices/system/clocksource/clocksource0/current_clocksource")).ok();
    Clock {
        wall: UnixTime::now(),
        floor,
        kept_by: keeper(sources),
        hardware_clock: sources.sys.join("class/rtc/rtc0").exists(),
        source: source.map(|name| name.trim().to_owned()),
    }
}

fn keeper(sources: &Sources) -> Option<String> {
    if sources.layout.root().join("run/systemd/timesync/synchronized").exists() {
        return Some("systemd-timesyncd".into());
    }
    let processes = std::fs::read_dir(&sources.proc).ok()?.flatten().take(PROCESSES_MAX);
    let numbered =
        processes.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
    let mut names = numbered.filter_map(|entry| text(&entry.path().join("comm")).ok());
    names.find_map(|name| KEEPERS.contains(&name.trim()).then(|| name.trim().to_owned()))
}
