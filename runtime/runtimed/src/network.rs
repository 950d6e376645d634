//! A network namespace for each instance, joined to the gateway by a routed veth pair.
//!
//! The container's end, `eth0`, has one /32 address and a default route to a link-local address that is always answered
//! by the gateway's end, `ew<n>`. Neighbours are fixed on both sides and reverse-path filtering is on, so a module that
//! claims another address is heard by nobody, on top of what the nftables rules drop. There is no bridge: modules meet
//! in the forward chain only. IPv6 is off.
//!
//! Namespaces are entered on threads of their own, which end there. `ip` (iproute2) makes and mends; what is there is read
//! without a program ([`faults`], [`faults_inside`]).

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use edgewarden_platform::netlink::{DATAGRAM_BYTES_MAX, Family, Netlink, Received};
use edgewarden_platform::process::Process;
use edgewarden_platform::programs;
use nix::ifaddrs::getifaddrs;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, statfs};

use crate::error::RunError;

/// Default gateway of every module, a link-local address.
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
    let mut child = Command::new(programs::resolve("ip"))
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| RunError::program("ip", "iproute2", error))?;
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
    if exists(&interface(number)) {
        remove_interface(number)?;
    }
    make_namespace(namespace)?;
    mend(namespace, number, address)
}

/// Puts in place what is missing between the gateway and the namespace. Repeating it changes nothing. Blocks.
pub fn mend(namespace: &Path, number: u8, address: Ipv4Addr) -> Result<(), RunError> {
    let device = interface(number);
    let place = namespace.display();
    let mac = format!("02:77:00:00:00:{number:02x}");
    if !exists(&device) {
        ip(&format!(
            "link add {device} address {GATEWAY_MAC} type veth peer name eth0 address {mac} netns {place}\n"
        ))?;
    }
    for (key, value) in sysctls(&device) {
        if Path::new("/proc/sys").join(&key).exists() {
            set(&key, value)?;
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
        // A namespace of the module's own: low ports are its own too.
        set("net/ipv4/ip_unprivileged_port_start", "0")?;
        ip(&format!(
            "link set lo up\naddress replace {address}/32 dev eth0\nlink set eth0 up\n\
             neighbour replace {NEXT_HOP} lladdr {GATEWAY_MAC} dev eth0 nud permanent\n\
             route replace {NEXT_HOP} dev eth0 scope link\nroute replace default via {NEXT_HOP} dev eth0\n"
        ))
    })
}

fn sysctls(device: &str) -> [(String, &'static str); 2] {
    [
        (format!("net/ipv4/conf/{device}/rp_filter"), "1"),
        (format!("net/ipv6/conf/{device}/disable_ipv6"), "1"),
    ]
}

/// Differences from what [`prepare_gateway`] made, in plain words. Blocks.
pub fn gateway_faults(own: Ipv4Addr) -> Result<Vec<String>, RunError> {
    let mut faults = Vec::new();
    if !addresses()?.iter().any(|(_, address, _)| *address == Some(own)) {
        faults.push(format!("the gateway's address {own} was removed"));
    }
    if std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "0") {
        faults.push("forwarding was switched off".into());
    }
    Ok(faults)
}

/// Differences at the gateway's end from what [`mend`] would make, in plain words. Blocks.
pub fn faults(number: u8, address: Ipv4Addr) -> Result<Vec<String>, RunError> {
    let device = interface(number);
    let mut faults = Vec::new();
    match addresses()?.iter().find(|(name, ..)| *name == device) {
        None => faults.push(format!("the interface {device} was removed")),
        Some((.., false)) => faults.push(format!("the interface {device} was set down")),
        Some((.., true)) => {}
    }
    let found: Vec<String> =
        routes()?.into_iter().filter(|route| route.to == Some(address)).map(|route| route.device).collect();
    match found.as_slice() {
        [only] if *only == device => {}
        [] => faults.push(format!("the route to {address} was removed")),
        others => faults.push(format!("{address} was routed to {}", others.join(", "))),
    }
    Ok(faults)
}

/// The same for the settings of the interface. One that cannot be read is none of ours.
pub fn setting_faults(number: u8) -> Vec<String> {
    let changed = |(key, value): (String, &str)| {
        let found = std::fs::read_to_string(Path::new("/proc/sys").join(&key));
        found.is_ok_and(|text| text.trim() != value).then(|| format!("`{key}` was changed"))
    };
    sysctls(&interface(number)).into_iter().filter_map(changed).collect()
}

/// The same at the module's end, in its namespace. Blocks.
pub fn faults_inside(namespace: &Path, address: Ipv4Addr) -> Result<Vec<String>, RunError> {
    inside(namespace, || {
        let mut faults = Vec::new();
        let own: Vec<_> = addresses()?.into_iter().filter(|(name, ..)| name == "eth0").collect();
        if !own.iter().any(|(_, found, up)| *found == Some(address) && *up) {
            faults.push(format!("the module's interface lost {address} or was set down"));
        }
        if !routes()?.iter().any(|route| route.to.is_none() && route.device == "eth0") {
            faults.push("the module's default route was removed".to_owned());
        }
        Ok(faults)
    })
}

/// Every interface with its addresses, and whether it is up: one line for each address.
fn addresses() -> Result<Vec<(String, Option<Ipv4Addr>, bool)>, RunError> {
    let all = getifaddrs().map_err(|error| RunError::io("list the interfaces")(error.into()))?;
    let line = |found: nix::ifaddrs::InterfaceAddress| {
        let address = found.address.as_ref().and_then(|address| Some(address.as_sockaddr_in()?.ip()));
        (found.interface_name, address, found.flags.contains(InterfaceFlags::IFF_UP))
    };
    Ok(all.map(line).collect())
}

/// A route to one address, or with `None` to all.
struct HostRoute {
    device: String,
    to: Option<Ipv4Addr>,
}

/// The main table, by /proc/net/route: addresses are hexadecimal, in the machine's byte order.
fn routes() -> Result<Vec<HostRoute>, RunError> {
    let text =
        std::fs::read_to_string("/proc/thread-self/net/route").map_err(RunError::io("list the routes"))?;
    let address = |text: &str| Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?.to_ne_bytes()));
    let route = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let to = match (address(words.get(1)?)?, address(words.get(7)?)?) {
            (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED) => None,
            (to, Ipv4Addr::BROADCAST) => Some(to),
            _ => return None,
        };
        Some(HostRoute { device: (*words.first()?).to_owned(), to })
    };
    Ok(text.lines().skip(1).filter_map(route).collect())
}

/// Hears of changes of links, addresses, routes and their settings in the namespace of the calling thread.
#[derive(Debug)]
pub struct Changes {
    socket: Netlink,
    buffer: Vec<u8>,
}

impl Changes {
    /// Listens for changes of links, addresses and routes in the current network namespace.
    pub fn open() -> Result<Self, RunError> {
        /// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE; RTNLGRP_IPV4_NETCONF and IPV6_NETCONF as bits.
        const CHANGES: u32 = 0x1 | 0x10 | 0x40 | 1 << 23 | 1 << 24;
        let socket = Netlink::open(Family::Route, CHANGES);
        let socket = socket.map_err(RunError::io("open a netlink socket for routes"))?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    /// Becomes readable when there is news.
    pub fn socket(&self) -> &Netlink {
        &self.socket
    }

    /// Takes all news that wait: they say that it is time to look, and no more.
    pub fn take(&mut self) -> Result<(), RunError> {
        let failed = || RunError::io("hear of changes of the network");
        while self.socket.receive(&mut self.buffer).map_err(failed())? != Received::Nothing {}
        Ok(())
    }
}

/// Mounts the namespace of a process under its name again when somebody has unmounted it. True when that was so. Blocks.
pub fn hold_namespace(path: &Path, process: &Process) -> Result<bool, RunError> {
    /// linux/magic.h
    const NSFS_MAGIC: nix::libc::c_long = 0x6e73_6673;
    if statfs(path).is_ok_and(|found| found.filesystem_type() == FsType(NSFS_MAGIC as _)) {
        return Ok(false);
    }
    let what = || RunError::io(format!("mount `{}` again", path.display()));
    let namespace = File::open(format!("/proc/{}/ns/net", process.pid())).map_err(what())?;
    if !process.is_alive() {
        return Ok(false);
    }
    if path.symlink_metadata().is_err() {
        File::create_new(path).map_err(what())?;
    }
    let source = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&namespace));
    mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| what()(error.into()))?;
    Ok(true)
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
