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

const LOAD_WORD: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
const MASK: u16 = code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K);
const COMPARE: u16 = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
const RETURN: u16 = code(libc::BPF_RET | libc::BPF_K);

/// The code of an instruction, which has 16 of the 32 bits that libc gives it.
const fn code(wide: u32) -> u16 {
    assert!(wide <= 0xffff, "no code of an instruction");
    let [low, high, ..] = wide.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Lets only packets from `network` with this mask reach the socket, and the sockets that it accepts. For a TCP socket
/// of IPv4, before it listens.
pub fn only_from(socket: &impl AsFd, network: Ipv4Addr, mask: u32) -> io::Result<()> {
    let step = |code: u16, jump_false: u8, k: u32| libc::sock_filter { code, jt: 0, jf: jump_false, k };
    let mut program = [
        step(LOAD_WORD, 0, SOURCE_ADDRESS),
        step(MASK, 0, mask),
        step(COMPARE, 1, network.to_bits() & mask),
        step(RETURN, 0, WHOLE_PACKET),
        step(RETURN, 0, 0),
    ];
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(io::Error::other)?;
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
