//! Edgewarden's calls of Linux. The one crate that may hold `unsafe`, as little of it as will do.
//!
//! * [`durable`]: files that are there whole or not at all, power cut or not · `crash_points`: its steps, for tests
//! * [`reserve`]: disk space set aside for what must still be written when there is none
//! * [`peer`], [`process`]: who is at the other end of a Unix socket, and is it still the same process
//! * [`seccomp`], [`landlock`], [`capabilities`], [`harden`]: what a daemon takes away from itself
//! * [`memory`], [`libraries`]: what of it stays in memory
//! * [`clock`]: the wall clock, and the one that nobody can set
//! * [`sources`]: a socket that answers one network only
//! * [`mounts`]: writing to what a container has mounted read-only · [`users`]: user names
//! * [`netlink`], [`readiness`]: hearing from the kernel what changes · [`programs`]: where the system's programs are
//! * [`accepting`]: patience with a listener that cannot accept ·
//!   [`socket_file`], [`kept_socket`]: whether a socket can still be found where it was bound, and one that always is
//! * [`operator_file`]: a file that an operator gave
//!
//! Trusts the kernel and `/proc`. Distrusts every peer, also one that dies and is replaced while it is looked at.

pub mod accepting;
pub mod capabilities;
pub mod clock;
#[cfg(debug_assertions)]
pub mod crash_points;
#[cfg(not(debug_assertions))]
mod crash_points;
pub mod durable;
pub mod harden;
pub mod kept_socket;
pub mod landlock;
pub mod libraries;
pub mod memory;
pub mod mounts;
pub mod netlink;
pub mod operator_file;
pub mod peer;
pub mod pipe;
pub mod process;
pub mod programs;
pub mod readiness;
pub mod reserve;
pub mod seccomp;
pub mod socket_file;
pub mod sources;
pub mod user_namespace;
pub mod users;
