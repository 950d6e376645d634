//! The checks, one file an area. Pure: everything they know is in [`Facts`](crate::Facts).

mod attestation;
mod certificates;
mod clock;
mod config;
mod daemons;
mod disk;
mod est;
mod federation;
mod fleet;
mod kernel;
mod keystore;
mod messages;
mod modules;
mod network;
mod permissions;
mod policy;
mod programs;
mod registry;
mod systemd;
mod words;

use std::sync::LazyLock;

use crate::check::Check;

/// Every check. What others stand on comes first.
pub static CHECKS: LazyLock<Vec<Check>> = LazyLock::new(|| {
    [
        config::CHECKS,
        permissions::CHECKS,
        programs::CHECKS,
        kernel::CHECKS,
        disk::CHECKS,
        clock::CHECKS,
        systemd::CHECKS,
        daemons::CHECKS,
        keystore::CHECKS,
        attestation::CHECKS,
        certificates::CHECKS,
        policy::CHECKS,
        modules::CHECKS,
        messages::CHECKS,
        network::CHECKS,
        fleet::CHECKS,
        est::CHECKS,
        federation::CHECKS,
        registry::CHECKS,
    ]
    .concat()
});
