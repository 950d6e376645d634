//! The kernel's clocks: wall time, time since boot, the hardware clock, and the state of a time service.
//!
//! Two clocks: the wall clock, which root, a time service and a broken battery can set to anything, and the time since
//! boot, which nobody can set. Their difference stands still as long as nobody sets the wall clock: slewing moves both.

use std::path::Path;

use nix::time::{ClockId, clock_gettime};

/// The machine's clock, which runs while the machine is off.
const HARDWARE_CLOCK: &str = "/sys/class/rtc/rtc0/since_epoch";
/// `STA_UNSYNC` of `linux/timex.h`: nobody vouches for the wall clock.
const UNSYNCHRONISED: i32 = 0x40;
/// `TIME_ERROR` of `linux/timex.h`.
const TIME_ERROR: i64 = 5;

#[expect(
    clippy::expect_used,
    reason = "clock_gettime(2) fails for clocks that the kernel has not: every Linux has both"
)]
fn millis(id: ClockId) -> i64 {
    let at = clock_gettime(id).expect("a clock of the kernel");
    at.tv_sec().saturating_mul(1000).saturating_add(at.tv_nsec() / 1_000_000)
}

/// Milliseconds since the machine was switched on, its sleep included. Nobody can set it.
pub fn boot_millis() -> i64 {
    millis(ClockId::CLOCK_BOOTTIME)
}

/// Milliseconds since 1970 by the wall clock.
pub fn wall_millis() -> i64 {
    millis(ClockId::CLOCK_REALTIME)
}

/// `true` when a time service has told the kernel that the wall clock is right (adjtimex(2)). Setting the clock by hand
/// ends it (`ntp_clear` in the kernel); a machine whose kernel does not say is not synchronised.
#[expect(unsafe_code, reason = "adjtimex(2) has no safe wrapper")]
pub fn is_synchronised() -> bool {
    // SAFETY: all zeros is a valid `timex`: numbers only.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` lives through the call, which writes no more than its size. `modes` is 0: nothing is set.
    let code = unsafe { libc::syscall(libc::SYS_adjtimex, &raw mut state) };
    (0..TIME_ERROR).contains(&code) && state.status & UNSYNCHRONISED == 0
}

/// Seconds since 1970 by the machine's own clock. `None` without one, or when it cannot be read.
pub fn hardware_seconds() -> Option<i64> {
    std::fs::read_to_string(Path::new(HARDWARE_CLOCK)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_of_this_machine_can_be_read() {
        let (boot, wall) = (boot_millis(), wall_millis());
        assert!(0 < boot && boot < wall, "{boot} {wall}");
        assert!(boot_millis() >= boot);
        // Whatever it says, it is an answer.
        let _ = (is_synchronised(), hardware_seconds());
    }
}
