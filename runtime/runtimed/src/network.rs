//! A network namespace for each instance, joined to the gateway by a routed veth pair.
//!
//! The container's end, `eth0`, has one /32 address and a default route to a link-local address that is always answered
//! by the gateway's end, `ew<n>`. Neighbours are fixed on both sides and reverse-path filtering is on, so a module that
//! claims another address is heard by nobody, on top of what the nftables rules drop. There is no bridge: modules meet
//! in the forward chain only. IPv6 is off.
//!
//! Namespaces are entered on threads of their own, which end there. `ip` (iproute2) does the talking to the kernel.

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::RunError;

/// What every module sends its packets to.
const NEXT_HOP: &str = "169.254.1.1";
/// The gateway's end of every pair; each is a link of its own.
const GATEWAY_MAC: &str = "02:ee:ee:ee:ee:ee";

/// Puts the gateway's own address in place and lets packets be forwarded. Repeating it changes nothing.
pub fn prepare_gateway(own: Ipv4Addr) -> Result<(), RunError> {
    ip(&format!("link set lo up\naddress replace {own}/32 dev lo\n"))?;
    set("net/ipv4/ip_forward", "1")
}

/// Takes the gateway's own address away again.
pub fn forget_gateway(own: Ipv4Addr) -> Result<(), RunError> {
    ip(&format!("address del {own}/32 dev lo\n"))
}

fn set(key: &str, value: &str) -> Result<(), RunError> {
    let path = Path::new("/proc/sys").join(key);
    std::fs::write(&path, value).map_err(RunError::io(format!("set `{}`", path.display())))
}

/// Runs `ip` commands, in the namespace of the calling thread.
fn ip(batch: &str) -> Result<(), RunError> {
    let what = || RunError::io("run `ip`");
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(what())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(batch.as_bytes()).map_err(what())?;
    }
    let output = child.wait_with_output().map_err(what())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RunError::Network(format!("`ip` refused: {said}")))
}

/// Runs `work` on a thread whose namespace may change.
fn elsewhere<T: Send>(work: impl FnOnce() -> Result<T, RunError> + Send) -> Result<T, RunError> {
    std::thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|_| Err(RunError::Network("the thread ended early".into())))
    })
}

/// The number n of an interface `ew<n>`.
fn interface(number: u8) -> String {
    format!("ew{number}")
}

/// Makes the instance's namespace and joins it. What an earlier attempt left under this number is replaced. Blocks.
pub fn join(namespace: &Path, number: u8, address: Ipv4Addr) -> Result<(), RunError> {
    let device = interface(number);
    if exists(&device) {
        remove_interface(number)?;
    }
    make_namespace(namespace)?;
    let place = namespace.display();
    let mac = format!("02:77:00:00:00:{number:02x}");
    ip(&format!(
        "link add {device} address {GATEWAY_MAC} type veth peer name eth0 address {mac} netns {place}\n"
    ))?;
    for (key, value) in [("ipv4/conf", ("rp_filter", "1")), ("ipv6/conf", ("disable_ipv6", "1"))] {
        let path = format!("net/{key}/{device}/{}", value.0);
        if Path::new("/proc/sys").join(&path).exists() {
            set(&path, value.1)?;
        }
    }
    ip(&format!(
        "link set {device} up\nroute replace {address}/32 dev {device}\n\
         neighbour replace {address} lladdr {mac} dev {device} nud permanent\n"
    ))?;
    inside(namespace, || {
        if Path::new("/proc/sys/net/ipv6").exists() {
            set("net/ipv6/conf/all/disable_ipv6", "1")?;
        }
        ip(&format!(
            "link set lo up\naddress add {address}/32 dev eth0\nlink set eth0 up\n\
             neighbour add {NEXT_HOP} lladdr {GATEWAY_MAC} dev eth0 nud permanent\n\
             route add {NEXT_HOP} dev eth0 scope link\nroute add default via {NEXT_HOP} dev eth0\n"
        ))
    })
}

fn make_namespace(path: &Path) -> Result<(), RunError> {
    remove_namespace(path)?;
    File::create_new(path).map_err(RunError::io(format!("make `{}`", path.display())))?;
    elsewhere(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|error| RunError::io("make a network namespace")(error.into()))?;
        // Held by the mount, the namespace outlives this thread.
        mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|error| RunError::io(format!("mount `{}`", path.display()))(error.into()))
    })
}

/// Runs `work` in the namespace at `path`. Blocks.
pub fn inside<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, RunError> + Send,
) -> Result<T, RunError> {
    let what = || RunError::io(format!("enter `{}`", path.display()));
    let namespace = File::open(path).map_err(what())?;
    elsewhere(|| {
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|error| what()(error.into()))?;
        work()
    })
}

/// Lets a namespace go; with its last process its interfaces end, and with them their peers.
pub fn remove_namespace(path: &Path) -> Result<(), RunError> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    // More than one mount lies here when a crash came between two attempts.
    while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
    std::fs::remove_file(path).map_err(RunError::io(format!("remove `{}`", path.display())))
}

/// Removes the gateway's end of a pair, and so the other one.
pub fn remove_interface(number: u8) -> Result<(), RunError> {
    let device = interface(number);
    // It also goes by itself, at some moment after the namespace at its other end.
    match ip(&format!("link del {device}\n")) {
        Err(error) if exists(&device) => Err(error),
        _ => Ok(()),
    }
}

fn exists(device: &str) -> bool {
    nix::net::if_::if_nametoindex(device).is_ok()
}

/// The numbers of all module interfaces that exist.
pub fn interfaces() -> Result<Vec<u8>, RunError> {
    let all =
        nix::net::if_::if_nameindex().map_err(|error| RunError::io("list the interfaces")(error.into()))?;
    let number = |name: &str| name.strip_prefix("ew").and_then(|number| number.parse().ok());
    Ok(all.iter().filter_map(|interface| number(&interface.name().to_string_lossy())).collect())
}
