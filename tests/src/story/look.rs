//! Step 10: the same state on the command line and on the fleet's page.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Shown;
use crate::process::run;
use crate::site::{Site, WEB};
use crate::{Failure, ensure};

pub fn look(site: &mut Site) -> Shown {
    let status = run(&mut site.edgewarden(&["status"]))?.ok()?;
    let devices = run(&mut site.operator(&["device", "list"]))?.ok()?;
    let url = run(&mut site.operator(&["web", "url"]))?.ok()?;
    let page = page(url.trim())?;
    for word in [site.gateway.as_str(), "fresh"] {
        ensure(page.contains(word), || format!("the page does not show `{word}`:\n{page}"))?;
    }
    let mut shown =
        vec!["`edgewarden status`, `edgewarden-fleet device list` and the fleet's page agree".to_owned()];
    shown.extend(status.lines().map(str::to_owned));
    shown.push(String::new());
    shown.extend(devices.lines().map(str::to_owned));
    shown.push(format!("page: {}", url.trim()));
    Ok(shown)
}

/// Fetches the page as a browser does: the token once, then the cookie.
fn page(url: &str) -> Result<String, Failure> {
    let path = url.split_once(WEB).map_or("/", |(_, path)| path);
    let first = get(path, "")?;
    let cookie = first
        .lines()
        .find_map(|line| {
            line.to_lowercase().starts_with("set-cookie:").then(|| line.split_once(':')).flatten()
        })
        .and_then(|(_, value)| value.split(';').next())
        .map(str::trim);
    match cookie {
        Some(cookie) => get("/", &format!("Cookie: {cookie}\r\n")),
        None => Ok(first),
    }
}

fn get(path: &str, header: &str) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(WEB)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {WEB}\r\n{header}Connection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
