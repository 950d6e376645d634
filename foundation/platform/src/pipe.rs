//! End of a command whose output nobody reads any more (SIGPIPE).

use nix::sys::signal::{SigHandler, Signal, signal};

/// Ends this process quietly when its output is closed, as in `edgewarden status | head -1`.
///
/// For commands, not for daemons: a daemon would end with any connection that breaks.
#[expect(unsafe_code, reason = "changing a signal's disposition is unsafe in general")]
pub fn end_when_output_closes() {
    // SAFETY: the default disposition runs no code of ours, so there is no handler that could be unsafe.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}
