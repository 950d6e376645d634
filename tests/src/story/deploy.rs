//! Step 5: a signed deployment goes to gateways by label, and its modules run.

use std::fs;
use std::process::Command;

use super::{Shown, sign};
use crate::process::{Finished, run};
use crate::site::{REGISTRY, Site, module};
use crate::{Failure, ensure};

pub fn deploy(site: &mut Site) -> Shown {
    site.start_gateway()?;
    send(site, 1, "operator.key", |text| text)?.ok()?;
    site.wait_for_modules(&sign::MODULES)?;
    let status = site.status()?;
    let mut shown = vec![
        "deployment version 1 verified, images judged and permitted, modules started with runc".to_owned(),
    ];
    for name in sign::MODULES {
        let module =
            module(&status, name).ok_or_else(|| Failure(format!("no module {name} in the status")))?;
        shown.push(format!("{name}: {} at {}", module["instance"], module["address"]).replace('"', ""));
        confined(module["pid"].as_i64().unwrap_or_default())?;
    }
    Ok(shown)
}

/// Sends the example's deployment at a version, changed as the caller likes, signed with a key of the site.
pub fn send(
    site: &Site,
    version: u64,
    key: &str,
    change: impl FnOnce(String) -> String,
) -> Result<Finished, Failure> {
    run(&mut sending(site, version, key, change)?)
}

/// The same by an operator who does not ask whether its images are good.
pub fn send_unjudged(
    site: &Site,
    version: u64,
    key: &str,
    change: impl FnOnce(String) -> String,
) -> Result<Finished, Failure> {
    run(sending(site, version, key, change)?.arg("--skip-images"))
}

fn sending(
    site: &Site,
    version: u64,
    key: &str,
    change: impl FnOnce(String) -> String,
) -> Result<Command, Failure> {
    let file = write(site, version, change)?;
    let mut command = site.operator(&["deploy"]);
    command.arg(file).arg("--key").arg(site.path(key)).args(["--plain-http", REGISTRY]);
    command.args(["--select", "site=clinic"]);
    Ok(command)
}

/// The example's deployment as a file of the site.
fn write(
    site: &Site,
    version: u64,
    change: impl FnOnce(String) -> String,
) -> Result<std::path::PathBuf, Failure> {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/glucose-monitor");
    let folder = site.path("deployment");
    fs::create_dir_all(&folder)?;
    fs::copy(format!("{example}/policy.cedar"), folder.join("policy.cedar"))?;
    fs::copy(site.path("image.key.pub"), folder.join("image.pub"))?;
    let text = fs::read_to_string(format!("{example}/deployment.toml"))?;
    let text = text
        .lines()
        .map(
            |line| {
                if line.starts_with("version =") { format!("version = {version}") } else { line.to_owned() }
            },
        )
        .collect::<Vec<_>>()
        .join("\n");
    let file = folder.join("deployment.toml");
    fs::write(&file, change(text))?;
    Ok(file)
}

/// Reads from the kernel what the module's first process may do.
fn confined(pid: i64) -> Result<(), Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    for wanted in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        ensure(status.contains(wanted), || format!("process {pid} has no `{wanted}`:\n{status}"))?;
    }
    for namespace in ["pid", "mnt", "ipc", "uts", "net"] {
        let ours = fs::read_link(format!("/proc/self/ns/{namespace}"))?;
        let theirs = fs::read_link(format!("/proc/{pid}/ns/{namespace}"))?;
        ensure(ours != theirs, || format!("process {pid} shares our {namespace} namespace"))?;
    }
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap_or_default();
    ensure(root.split(' ').nth(5).is_some_and(|options| options.split(',').any(|o| o == "ro")), || {
        format!("the root file system of process {pid} is not read-only: {root}")
    })
}

/// Signs a deployment without sending it.
pub fn write_envelope(site: &Site, version: u64, key: &str, into: &std::path::Path) -> Result<(), Failure> {
    let file = write(site, version, |text| text)?;
    let mut command = site.operator(&["deploy"]);
    command.arg(file).arg("--key").arg(site.path(key)).args(["--plain-http", REGISTRY]);
    run(command.args(["--select", "site=clinic", "--out"]).arg(into))?.ok()?;
    Ok(())
}
