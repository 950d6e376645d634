//! Sockets by which the kernel tells what changes in a network namespace, and what it holds there (netlink(7)).
//!
//! A socket belongs to the namespace of the thread that opened it, for good, whatever thread uses it later.
//!
//! Trusts the kernel. Distrusts every other sender: what is not from the kernel is dropped unread.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto,
    setsockopt, socket, sockopt,
};

/// More than the kernel puts into one datagram: 32 KiB for an answer, a page or two for what changed.
pub const DATAGRAM_BYTES_MAX: usize = 128 * 1024;
/// Bytes of news that wait unread before the kernel drops more. A change of ten thousand rules is a few megabytes.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// NLA_TYPE_MASK: without the bits for nesting and byte order.
const ATTRIBUTE_KIND: u16 = 0x3fff;

/// Netlink family of a socket (netlink(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes.
    Route,
    Netfilter,
}

/// Result of one read of a netlink socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received<'a> {
    /// A datagram.
    Datagram(&'a [u8]),
    /// The kernel dropped news because too much waited unread: anything may have changed.
    Lost,
    /// Nothing waits.
    Nothing,
}

/// Netlink socket of one family.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
}

impl Netlink {
    /// `groups`: bits of the multicast groups to hear. Raising the queue needs `CAP_NET_ADMIN`; without it it is shorter.
    pub fn open(family: Family, groups: u32) -> io::Result<Self> {
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        // A shorter queue loses news sooner, and says so.
        let _shorter = setsockopt(&fd, sockopt::RcvBufForce, &QUEUE_BYTES_MAX);
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { fd })
    }

    /// Never waits.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Received<'b>> {
        let length = loop {
            match recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), buffer) {
                Ok((_, from)) if from.is_none_or(|from| from.pid() != 0) => {}
                Ok((length, _)) => break length,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(Errno::ENOBUFS) => return Ok(Received::Lost),
                Err(error) => return Err(error.into()),
            }
        };
        Ok(match buffer.get(..length) {
            Some(datagram) if length < buffer.len() => Received::Datagram(datagram),
            // It may have been longer.
            _ => Received::Lost,
        })
    }

    /// Asks for all of a kind (`NLM_F_DUMP`); the answer waits in the socket when this returns.
    pub fn ask(&self, kind: u16, payload: &[u8]) -> io::Result<()> {
        const REQUEST_DUMP: u16 = 0x301;
        let length = HEADER_BYTES.saturating_add(payload.len());
        let mut message = Vec::with_capacity(length);
        message.extend(u32::try_from(length).map_err(io::Error::other)?.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(REQUEST_DUMP.to_ne_bytes());
        // Sequence and sender: one question at a time, from the address that the kernel gave.
        message.extend([0; 8]);
        message.extend(payload);
        sendto(self.fd.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// An attribute in front of `value`, padded as the kernel wants it.
///
/// # Panics
/// When `value` is longer than an attribute can be, 64 KiB with its header.
#[expect(clippy::expect_used, reason = "values are the names and numbers of our own rules, far below 64 KiB")]
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = ATTRIBUTE_HEADER_BYTES.saturating_add(value.len());
    let mut bytes = Vec::with_capacity(aligned(length));
    bytes.extend(u16::try_from(length).expect("an attribute of less than 64 KiB").to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(aligned(length), 0);
    bytes
}

/// The messages of a datagram: type and what follows the header. Ends at what is no message.
pub fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages { rest: datagram }
}

/// The messages of a datagram: type and payload. Ends at what is no message.
#[derive(Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32::from_ne_bytes(*self.rest.first_chunk()?);
        let length = usize::try_from(length).ok()?;
        let message = self.rest.get(..length)?;
        let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
        let payload = message.get(HEADER_BYTES..)?;
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, payload))
    }
}

/// The attributes in a piece of a message: kind and value. Ends at what is no attribute.
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { rest: bytes }
}

/// The attributes of a piece of a message: kind and value, see [`attributes`].
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(*self.rest.first_chunk()?));
        let whole = self.rest.get(..length)?;
        let kind = u16::from_ne_bytes(*whole.get(2..)?.first_chunk()?) & ATTRIBUTE_KIND;
        let value = whole.get(ATTRIBUTE_HEADER_BYTES..)?;
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The value of the first attribute of a kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A string, up to its zero byte; empty when it is not UTF-8.
pub fn text(value: &[u8]) -> &str {
    let text = value.iter().position(|byte| *byte == 0).map_or(value, |end| value.split_at(end).0);
    std::str::from_utf8(text).unwrap_or_default()
}

fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_ends_the_list() {
        let inner = attribute(2, &7_u64.to_be_bytes());
        let piece = [attribute(1, b"edgewarden\0"), attribute(3 | 0x8000, &inner)].concat();
        let found: Vec<_> = attributes(&piece).collect();
        assert_eq!(text(found[0].1), "edgewarden");
        assert_eq!((found[1].0, find(found[1].1, 2)), (3, Some(&7_u64.to_be_bytes()[..])));
        for cut in 0..piece.len() {
            assert!(attributes(&piece[..cut]).count() < 2 || cut >= piece.len() - 3, "{cut}");
        }
        // Lengths that lie: none, less than a header, more than there is.
        for length in [0_u16, 3, 400] {
            let mut wrong = attribute(1, b"x");
            wrong[..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(attributes(&wrong).count(), 0, "{length}");
        }
        let mut message = vec![0; 20];
        message[..4].copy_from_slice(&20_u32.to_ne_bytes());
        assert_eq!(messages(&message).count(), 1);
        for length in [0_u32, 15, 21, u32::MAX] {
            message[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(messages(&message).count(), 0, "{length}");
        }
    }

    #[test]
    fn the_kernel_answers_with_the_links_of_the_namespace() {
        const RTM_NEWLINK: u16 = 16;
        const RTM_GETLINK: u16 = 18;
        let socket = Netlink::open(Family::Route, 0).unwrap();
        socket.ask(RTM_GETLINK, &[0; 16]).unwrap();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let Received::Datagram(datagram) = socket.receive(&mut buffer).unwrap() else { panic!("no answer") };
        assert!(messages(datagram).any(|(kind, _)| kind == RTM_NEWLINK));
    }
}
