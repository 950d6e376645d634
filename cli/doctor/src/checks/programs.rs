//! The programs that the gateway runs.

use super::words::{no_config, pass_unless};
use crate::check::{Check, Finding};
use crate::facts::{Facts, Kind, VOLUMES};

/// Checks of the area `programs`: those that the gateway runs.
pub const CHECKS: &[Check] = &[
    Check {
        id: "programs.oci_runtime",
        title: "the configured OCI runtime is there and runs",
        remedy: "`apt install runc`, or set `runtime.oci_runtime` to where it is",
        run: oci_runtime,
    },
    Check {
        id: "programs.oci_runtime_version",
        title: "runc is of version 1.1 or later",
        remedy: "`apt install runc` from a distribution that still mends it",
        run: oci_runtime_version,
    },
    Check {
        id: "programs.nft",
        title: "`nft` is there",
        remedy: "`apt install nftables`",
        run: |facts| found("nft", facts.programs.nft.as_deref()),
    },
    Check {
        id: "programs.ip",
        title: "`ip` is there",
        remedy: "`apt install iproute2`",
        run: |facts| found("ip", facts.programs.ip.as_deref()),
    },
    Check {
        id: "programs.volumes",
        title: "volumes of modules can be made, checked and mounted",
        remedy: "`apt install e2fsprogs mount`; modules with volumes do not start otherwise",
        run: volumes,
    },
    Check {
        id: "programs.protected",
        title: "only root can change the programs that run as root",
        remedy: "`chown root: PROGRAM && chmod 0755 PROGRAM`; then find out who changed it",
        run: protected,
    },
];

fn oci_runtime(facts: &Facts) -> Finding {
    match (&facts.programs.oci_runtime, &facts.programs.oci_runtime_version) {
        (Some(_), Some(Ok(version))) => Finding::pass(version.clone()),
        (Some(_), Some(Err(why))) => Finding::fail(why.clone()),
        _ => no_config(),
    }
}

/// runc before it speaks cgroup v2, seccomp notify and rootless mounts as tested here is not what we were tested with.
const RUNC_MIN: (u32, u32) = (1, 1);

fn oci_runtime_version(facts: &Facts) -> Finding {
    let Some(Ok(said)) = &facts.programs.oci_runtime_version else {
        return Finding::skip("the runtime does not answer");
    };
    let Some(version) = said.strip_prefix("runc version ") else {
        return Finding::skip(format!("`{said}` is not runc: its versions are unknown here"));
    };
    let mut numbers = version.split(['.', '-', '+', '~']).map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < RUNC_MIN {
        return Finding::fail(format!("runc {version} is older than {}.{}", RUNC_MIN.0, RUNC_MIN.1));
    }
    Finding::pass(format!("runc {version}"))
}

fn found(name: &str, path: Option<&std::path::Path>) -> Finding {
    match path {
        Some(path) => Finding::pass(format!("`{}`", path.display())),
        None => Finding::fail(format!("`{name}` is in no folder of PATH and at none of its usual places")),
    }
}

fn volumes(facts: &Facts) -> Finding {
    let has = |name: &&str| facts.programs.volumes.iter().any(|path| path.ends_with(name));
    let missing: Vec<&str> = VOLUMES.into_iter().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        Finding::pass(VOLUMES.join(", "))
    } else {
        Finding::warn(format!("there is no {}", missing.join(", ")))
    }
}

fn protected(facts: &Facts) -> Finding {
    let mut wrong = Vec::new();
    let mut count = 0;
    for path in facts.programs.found() {
        let Some(node) = facts.node(path) else { continue };
        count += 1;
        if node.kind != Kind::File || node.uid != 0 || node.mode & 0o022 != 0 {
            let (uid, mode) = (node.uid, node.mode);
            wrong.push(format!("`{}` belongs to user {uid} with mode {mode:04o}", path.display()));
        }
    }
    pass_unless(&wrong, format!("{count} programs"))
}
