//! Looks for what keeps a gateway from working, and says how to mend it.
//!
//! * [`Check`], [`CHECKS`]: what is asked, by a stable code · [`Finding`], [`Outcome`]: the answer
//! * [`Facts`]: everything that is known · [`Sources`]: where it is read from · [`examine`]: every check on the facts
//! * [`table`]: the list of checks for docs/doctor.md
//!
//! Reading and judging are apart: `facts` does all I/O, bounded and with deadlines, and `checks` are pure functions, so
//! that each can be shown a gateway with exactly one fault. Nothing here changes anything: no setting is made, daemons are
//! only asked what they answer without a trace, and the one file that is written, to see whether the disk takes it, has no
//! name and is gone at once.
//!
//! Distrusts what it reads: a broken file or a daemon that hangs is a finding, never an error of its own.

mod check;
mod checks;
mod examine;
mod facts;

pub use check::{Check, Finding, Outcome};
pub use checks::CHECKS;
pub use examine::{Examined, areas, examine, table};
pub use facts::{
    Boot, Clock, ConfigState, Configuration, Daemon, Daemons, Disk, Facts, Fleet, Kernel, Kind, Listening,
    NAMESPACES, Network, Node, Peer, Programs, Read, Route, Sources, Systemd, Unit, Users, Volume, gather,
};
