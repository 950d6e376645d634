//! Addresses, routes and listening sockets, from /proc/net.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Read, Sources, text};

/// One line of the IPv4 routing table: `network`/`length` by `interface`.
#[derive(Debug, Clone)]
pub struct Route {
    pub interface: String,
    pub network: Ipv4Addr,
    pub length: u32,
}

/// Local addresses of listening TCP sockets, IPv4 first.
pub type Listening = Vec<SocketAddr>;

/// Facts about routes and ports of the machine's own network namespace.
#[derive(Debug, Clone)]
pub struct Network {
    pub routes: Read<Vec<Route>>,
    /// TCP sockets that listen.
    pub listening: Read<Listening>,
}

/// Reads /proc/net: `route`, `tcp` and `tcp6`.
pub fn gather(sources: &Sources) -> Network {
    let net = sources.proc.join("net");
    let routes = text(&net.join("route")).map(|table| table.lines().skip(1).filter_map(route).collect());
    let listening = text(&net.join("tcp")).map(|four| {
        // A kernel without IPv6 has no such file.
        let six = text(&net.join("tcp6")).unwrap_or_default();
        four.lines().chain(six.lines()).filter_map(listener).collect()
    });
    Network { routes, listening }
}

/// A line of `/proc/net/route`: addresses are hexadecimal, in the machine's byte order.
fn route(line: &str) -> Option<Route> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (interface, network, mask) = (words.first()?, words.get(1)?, words.get(7)?);
    let address = |text: &str| Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?.to_ne_bytes()));
    let length = address(mask)?.to_bits().leading_ones();
    Some(Route { interface: (*interface).to_owned(), network: address(network)?, length })
}

/// TCP_LISTEN (proc(5), net/tcp).
const LISTEN: &str = "0A";

/// A line of `/proc/net/tcp` or `tcp6`, if it is of a listening socket.
fn listener(line: &str) -> Option<SocketAddr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if *words.get(3)? != LISTEN {
        return None;
    }
    let (address, port) = words.get(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match bytes.as_slice() {
        [a, b, c, d] => IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)),
        long => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(long).ok()?)),
    };
    Some(SocketAddr::new(address, port))
}
