//! Parts of a module's container that its deployment declares: storage, files, devices, processor, end.
//!
//! Paths are of the container, absolute and plain: no `.`, `..`, empty part or control character.

use std::collections::BTreeMap;
use std::net::IpAddr;

use edgewarden_names::VolumeName;
use serde::{Deserialize, Serialize};

use crate::bounds::{TEXT_BYTES_MAX, at_most, unique};

pub const VOLUMES_MAX: usize = 16;
pub const TEMPORARY_MAX: usize = 16;
pub const FILES_MAX: usize = 32;
pub const DEVICES_MAX: usize = 16;
pub const EXTRA_HOSTS_MAX: usize = 32;
/// Longest text of one file, and of all files of a module.
pub const FILE_BYTES_MAX: usize = 64 * 1024;
pub const FILES_BYTES_MAX: usize = 256 * 1024;
/// Smallest and largest volume.
pub const VOLUME_BYTES_MIN: u64 = 4 * MEBIBYTE;
pub const VOLUME_BYTES_MAX: u64 = 1 << 40;
/// Largest folder in memory, which counts as memory of its module.
pub const TEMPORARY_BYTES_MAX: u64 = 1 << 34;
/// Longest time between the stop signal and SIGKILL.
pub const GRACE_SECONDS_MAX: u16 = 600;
const PATH_BYTES_MAX: usize = 256;
const MEBIBYTE: u64 = 1024 * 1024;
/// Most processors that a limit or a set speaks of.
const PROCESSORS_MAX: u32 = 1024;

/// Places of a container that are the gateway's.
const OURS: [&str; 7] =
    ["/dev", "/proc", "/sys", "/run/edgewarden", "/run/secrets", "/etc/hosts", "/etc/resolv.conf"];

/// A folder in memory that each container has, whose size a deployment may say.
const SHARED_MEMORY: &str = "/dev/shm";

/// A folder that outlives its module's instances. Empty at first, with what the image has at its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Unique in the module.
    pub name: VolumeName,
    pub path: String,
    /// Bytes that it may take from the gateway's disk. It can grow with a later deployment, and does not shrink.
    #[serde(default = "volume_bytes")]
    pub bytes_max: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
}

/// A folder in memory, empty at each start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemporaryFolder {
    pub path: String,
    #[serde(default = "temporary_bytes")]
    pub bytes_max: u64,
    /// True when programs may run from it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub exec: bool,
}

/// A file whose content is in the deployment. Read-only; for secrets there are secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    pub path: String,
    pub text: String,
    /// True for a program: mode 0555 instead of 0444.
    #[serde(default, skip_serializing_if = "is_false")]
    pub exec: bool,
}

/// A device node of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// On the gateway, such as `/dev/serial/by-id/usb-FTDI_FT232R-if00-port0`. Links are followed at each start.
    pub path: String,
    /// In the container; as on the gateway when absent.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    #[serde(default, skip_serializing_if = "DeviceAccess::is_both")]
    pub access: DeviceAccess,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DeviceAccess {
    #[serde(rename = "r")]
    Read,
    #[serde(rename = "w")]
    Write,
    #[default]
    #[serde(rename = "rw")]
    Both,
}

impl DeviceAccess {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_both(&self) -> bool {
        *self == Self::Both
    }

    /// As the OCI runtime-spec has it.
    pub fn letters(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::Write => "w",
            Self::Both => "rw",
        }
    }
}

impl Device {
    /// Path in the container.
    pub fn place(&self) -> &str {
        self.place.as_deref().unwrap_or(&self.path)
    }
}

/// Share of the processors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Thousandths of a processor at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub millis_max: Option<u32>,
    /// Part when processors are short, 1 to 10,000; a module without one has 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Processors that it runs on, such as `0-1,3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
}

impl Cpu {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a module is ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Such as `SIGINT`; the image's when absent, and SIGTERM when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<StopSignal>,
    /// Seconds until SIGKILL; 10 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u16>,
}

impl Stop {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A signal's number, 1 to 64, as a name (signal(7), with or without `SIG`, `RTMIN+n`) or a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StopSignal(u8);

const SIGNALS: [(&str, u8); 15] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("WINCH", 28),
    ("PWR", 30),
];
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

impl StopSignal {
    pub const TERM: Self = Self(15);

    /// The error is the rule that is broken.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix("SIG").unwrap_or(text);
        let offset = |rest: &str| rest.parse::<u8>().ok().filter(|n| *n <= RTMAX - RTMIN);
        let number = match bare {
            "RTMIN" => Some(RTMIN),
            "RTMAX" => Some(RTMAX),
            _ => None,
        };
        let number = number
            .or_else(|| bare.strip_prefix("RTMIN+").and_then(offset).map(|n| RTMIN.saturating_add(n)))
            .or_else(|| bare.strip_prefix("RTMAX-").and_then(offset).map(|n| RTMAX.saturating_sub(n)))
            .or_else(|| SIGNALS.iter().find(|(name, _)| *name == bare).map(|(_, number)| *number))
            .or_else(|| bare.parse().ok().filter(|number| (1..=RTMAX).contains(number)));
        number.map(Self).ok_or_else(|| format!("`{}` is no signal", text.escape_debug()))
    }

    pub fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<String> for StopSignal {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<StopSignal> for String {
    fn from(signal: StopSignal) -> Self {
        match SIGNALS.iter().find(|(_, number)| *number == signal.0) {
            Some((name, _)) => format!("SIG{name}"),
            None => signal.0.to_string(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

fn volume_bytes() -> u64 {
    1 << 30
}

fn temporary_bytes() -> u64 {
    16 * MEBIBYTE
}

/// A path of a container that something of the deployment may be put at.
fn place(path: &str) -> Result<(), String> {
    plain(path)?;
    let taken = OURS
        .iter()
        .any(|ours| path == *ours || path.strip_prefix(ours).is_some_and(|rest| rest.starts_with('/')));
    if taken || path == "/run" || path == "/etc" {
        return Err(format!("`{path}` is a place of the gateway's own"));
    }
    Ok(())
}

/// An absolute path that is written in the one shortest way.
fn plain(path: &str) -> Result<(), String> {
    let shown = || path.chars().take(PATH_BYTES_MAX).collect::<String>().escape_debug().to_string();
    let rest = path.strip_prefix('/').ok_or_else(|| format!("`{}` is not absolute", shown()))?;
    if path.len() > PATH_BYTES_MAX || path.chars().any(char::is_control) {
        return Err(format!("`{}` is too long or holds control characters", shown()));
    }
    if rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("`{}` has an empty part, `.` or `..`, or is the root", shown()));
    }
    Ok(())
}

fn size(what: &str, bytes: u64, least: u64, most: u64) -> Result<(), String> {
    if (least..=most).contains(&bytes) {
        return Ok(());
    }
    Err(format!("{what} is out of range: {} MiB to {} GiB", least.div_ceil(MEBIBYTE), most >> 30))
}

/// Checks what is mounted: each at a place of its own.
pub(crate) fn check_mounts(
    volumes: &[Volume],
    temporary: &[TemporaryFolder],
    files: &[ConfigFile],
) -> Result<(), String> {
    at_most("volumes", volumes.len(), VOLUMES_MAX)?;
    at_most("temporary folders", temporary.len(), TEMPORARY_MAX)?;
    at_most("files", files.len(), FILES_MAX)?;
    unique("volume", volumes.iter().map(|volume| volume.name.as_str()))?;
    let paths = || {
        let volumes = volumes.iter().map(|volume| volume.path.as_str());
        volumes.chain(files.iter().map(|file| file.path.as_str()))
    };
    for path in paths() {
        place(path)?;
    }
    for folder in temporary.iter().filter(|folder| folder.path != SHARED_MEMORY) {
        place(&folder.path)?;
    }
    unique("path", paths().chain(temporary.iter().map(|folder| folder.path.as_str())))?;
    for volume in volumes {
        size(
            &format!("`bytes_max` of volume `{}`", volume.name),
            volume.bytes_max,
            VOLUME_BYTES_MIN,
            VOLUME_BYTES_MAX,
        )?;
    }
    for folder in temporary {
        size(&format!("`bytes_max` of `{}`", folder.path), folder.bytes_max, 4096, TEMPORARY_BYTES_MAX)?;
    }
    for file in files {
        at_most(&format!("bytes of `{}`", file.path), file.text.len(), FILE_BYTES_MAX)?;
    }
    at_most("bytes of files", files.iter().map(|file| file.text.len()).sum(), FILES_BYTES_MAX)
}

pub(crate) fn check_devices(devices: &[Device]) -> Result<(), String> {
    at_most("devices", devices.len(), DEVICES_MAX)?;
    unique("device", devices.iter().map(Device::place))?;
    for device in devices {
        for path in [device.path.as_str(), device.place()] {
            plain(path)?;
            if !path.starts_with("/dev/") {
                return Err(format!("the device `{path}` does not lie in /dev"));
            }
        }
        let place = device.place();
        let usual = [
            "null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "fd", "stdin", "stdout",
            "stderr",
        ];
        let first = place.trim_start_matches("/dev/").split('/').next().unwrap_or_default();
        if usual.contains(&first) || ["pts", "shm", "mqueue"].contains(&first) {
            return Err(format!("`{place}` is there in each container"));
        }
    }
    Ok(())
}

pub(crate) fn check_cpu(cpu: &Cpu) -> Result<(), String> {
    if cpu.millis_max.is_some_and(|millis| !(10..=PROCESSORS_MAX * 1000).contains(&millis)) {
        return Err("`cpu.millis_max` is out of range: 10 to 1,024,000".into());
    }
    if cpu.weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
        return Err("`cpu.weight` is out of range: 1 to 10,000".into());
    }
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number < PROCESSORS_MAX);
        matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
    };
    match &cpu.set {
        Some(set) if set.len() > PATH_BYTES_MAX || !set.split(',').all(range) => {
            Err("`cpu.set` is no list of processors such as `0-1,3`".into())
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_extra_hosts(hosts: &BTreeMap<String, IpAddr>) -> Result<(), String> {
    at_most("extra hosts", hosts.len(), EXTRA_HOSTS_MAX)?;
    for name in hosts.keys() {
        let part = |part: &str| {
            let end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
            part.len() <= 63
                && end(part.bytes().next())
                && end(part.bytes().last())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() > 253 || !name.split('.').all(part) {
            return Err(format!("`{}` is no host name", name.escape_debug()));
        }
        if ["localhost", "gateway"].contains(&name.as_str()) {
            return Err(format!("the host name `{name}` is the gateway's own"));
        }
    }
    Ok(())
}

/// `name` or `number`, and the same for a group after a colon.
pub(crate) fn check_user(user: &str) -> Result<(), String> {
    let fine = |part: &str| {
        !part.is_empty()
            && part.len() <= 64
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let (user_part, group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    if fine(user_part) && group.is_none_or(fine) {
        return Ok(());
    }
    Err(format!(
        "`user` is written `name`, `number` or `user:group`, not `{}`",
        user.chars().take(TEXT_BYTES_MAX).collect::<String>().escape_debug()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_names_that_people_write() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("15", 15),
            ("SIGQUIT", 3),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGWINCH", 28),
        ] {
            assert_eq!(StopSignal::parse(text).unwrap().number(), number, "{text}");
            let again = String::from(StopSignal::parse(text).unwrap());
            assert_eq!(StopSignal::parse(&again).unwrap().number(), number, "{again}");
        }
        for bad in ["", "SIG", "0", "65", "SIGRTMIN+31", "sigterm", "-1", "RTMIN-1", "SIGTERM\n"] {
            assert!(StopSignal::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_place_is_plain_and_not_ours() {
        for good in
            ["/data", "/var/lib/postgresql/data", "/run/postgresql", "/etc/app/config.toml", "/devices"]
        {
            assert_eq!(place(good), Ok(()), "{good}");
        }
        let long = format!("/{}", "a".repeat(256));
        for bad in [
            "",
            "/",
            "data",
            "/a/../b",
            "/a//b",
            "/a/",
            "/./a",
            "/a\nb",
            "/dev",
            "/dev/shm",
            "/proc/self",
            "/sys",
            "/run",
            "/run/edgewarden/x",
            "/run/secrets",
            "/etc",
            "/etc/hosts",
            "/etc/resolv.conf",
            &long,
        ] {
            assert!(place(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_processor_user_or_host_is_said() {
        let cpu = |set: &str| check_cpu(&Cpu { set: Some(set.into()), ..Cpu::default() });
        for good in ["0", "0-3", "0-1,3", "1023"] {
            assert_eq!(cpu(good), Ok(()), "{good}");
        }
        for bad in ["", "-", "3-1", "1024", "0,", "a", "0-1-2"] {
            assert!(cpu(bad).is_err(), "{bad}");
        }
        for good in ["0", "root", "1000:1000", "www-data:adm", "app.user"] {
            assert_eq!(check_user(good), Ok(()), "{good}");
        }
        for bad in ["", ":", "a:", ":b", "a:b:c", "a b", "ä"] {
            assert!(check_user(bad).is_err(), "{bad}");
        }
        let host = |name: &str| check_extra_hosts(&[(name.to_owned(), IpAddr::from([10, 0, 0, 1]))].into());
        assert_eq!(host("plc-7.plant.example"), Ok(()));
        for bad in ["", ".", "a..b", "-a", "a b", "localhost", "gateway", "a\nb"] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }
}
