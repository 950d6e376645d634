//! Root's powers, one by one (capabilities(7)).

use std::io;

use nix::errno::Errno;

/// One of root's powers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability(u32);

impl Capability {
    pub const CHOWN: Self = Self(0);
    pub const DAC_OVERRIDE: Self = Self(1);
    pub const FOWNER: Self = Self(3);
    pub const KILL: Self = Self(5);
    pub const SETGID: Self = Self(6);
    pub const SETUID: Self = Self(7);
    pub const SETPCAP: Self = Self(8);
    pub const NET_ADMIN: Self = Self(12);
    pub const SYS_CHROOT: Self = Self(18);
    pub const SYS_PTRACE: Self = Self(19);
    pub const SYS_ADMIN: Self = Self(21);
    pub const MKNOD: Self = Self(27);
}

/// linux/capability.h
const VERSION_3: u32 = 0x2008_0522;
/// More than any kernel knows: a set is 64 bits.
const NUMBERS: u32 = 64;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up all other capabilities, also for programs that this thread starts and threads that come from it, for good.
/// Call it while there is one thread.
pub fn keep_only(kept: &[Capability]) -> io::Result<()> {
    for number in (0..NUMBERS).filter(|number| !kept.contains(&Capability(*number))) {
        // SAFETY: prctl(2) with this option takes integers only.
        #[expect(unsafe_code, reason = "nix has no bounding set")]
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        match Errno::result(dropped) {
            // The kernel knows no capability of this number.
            Ok(_) | Err(Errno::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // SAFETY: prctl(2) with these options takes integers only.
    #[expect(unsafe_code, reason = "nix has no ambient set")]
    let cleared = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    Errno::result(cleared)?;
    let header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: version 3 takes one header and two sets, which live until the call returns.
    #[expect(unsafe_code, reason = "neither nix nor libc wraps capget(2)")]
    let read = unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) };
    Errno::result(read)?;
    for (half, set) in (0_u32..).zip(&mut sets) {
        let of_half = kept.iter().filter(|capability| capability.0 / u32::BITS == half);
        let mask = of_half.fold(0_u32, |mask, capability| mask | 1 << (capability.0 % u32::BITS));
        set.permitted &= mask;
        set.effective &= mask;
        set.inheritable = 0;
    }
    // SAFETY: as above; the kernel reads the sets.
    #[expect(unsafe_code, reason = "neither nix nor libc wraps capset(2)")]
    let written = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    Ok(Errno::result(written).map(drop)?)
}
