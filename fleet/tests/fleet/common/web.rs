//! The dashboard, as a browser asks for it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::Fleet;

pub fn get(address: &str, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{header}Connection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

/// A page, for an operator who has come in by the address with the token. Of a fleet with `--web`.
pub fn page(fleet: &Fleet, path: &str) -> String {
    let url = fleet.cli(&["web", "url"]).ok();
    let rest = url.trim().strip_prefix("http://").unwrap();
    let (address, token) = rest.split_once("/?token=").unwrap();
    get(address, path, &format!("Cookie: edgewarden={token}\r\n"))
}
