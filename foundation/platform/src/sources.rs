//! A socket that answers nobody but one IPv4 network: the kernel drops the rest before it is looked at, so that a port on
//! the address of one network is not there for the others.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// Source address in the IPv4 header, counted from the network header.
const SOURCE_ADDRESS: u32 = SKF_NET_OFF + 12;
/// linux/filter.h: `-0x100000`.
const SKF_NET_OFF: u32 = 0xfff0_0000;
const WHOLE_PACKET: u32 = u32::MAX;

/// Lets only packets from `network` with this mask reach the socket, and the sockets that it accepts. For a TCP socket
/// of IPv4, before it listens.
pub fn only_from(socket: &impl AsFd, network: Ipv4Addr, mask: u32) -> io::Result<()> {
    let step = |code: u32, jump_false: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt: 0,
        jf: jump_false,
        k,
    };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, SOURCE_ADDRESS),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, mask),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, network.to_bits() & mask),
        step(libc::BPF_RET | libc::BPF_K, 0, WHOLE_PACKET),
        step(libc::BPF_RET | libc::BPF_K, 0, 0),
    ];
    let length = u16::try_from(program.len()).unwrap_or_default();
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap_or_default();
    // SAFETY: `filter` and the program that it points to live through the call, which copies both.
    #[expect(unsafe_code, reason = "nix does not know SO_ATTACH_FILTER")]
    let attached = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(&filter).cast(),
            size,
        )
    };
    Errno::result(attached)?;
    Ok(())
}
