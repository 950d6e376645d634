//! The units, where systemd runs.

use edgewarden_protocol::layout::Layout;

/// Names of the daemons' units.
pub const UNITS: [&str; 3] =
    ["edgewarden-identityd.service", "edgewarden-runtimed.service", "edgewarden-gatewayd.service"];
const FOLDERS: [&str; 3] = ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];

/// One unit: there in a folder of units, and wanted by `multi-user.target`.
#[derive(Debug, Clone)]
pub struct Unit {
    pub name: &'static str,
    pub present: bool,
    pub enabled: bool,
}

/// Facts about systemd and the daemons' units.
#[derive(Debug, Clone)]
pub struct Systemd {
    pub runs: bool,
    pub units: Vec<Unit>,
}

/// Looks for the units' files beneath the layout's root, and for a running systemd as sd_booted(3) does.
pub fn gather(layout: &Layout) -> Systemd {
    let root = layout.root();
    let unit = |name: &'static str| Unit {
        name,
        present: FOLDERS.iter().any(|folder| root.join(folder).join(name).exists()),
        // The link's target is a path of the system, which need not be ours to follow.
        enabled: root
            .join("etc/systemd/system/multi-user.target.wants")
            .join(name)
            .symlink_metadata()
            .is_ok(),
    };
    // As sd_booted(3) has it.
    Systemd { runs: root.join("run/systemd/system").is_dir(), units: UNITS.into_iter().map(unit).collect() }
}
