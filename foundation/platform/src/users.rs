//! Users by name.

use std::io;

use nix::unistd;

/// A user and its primary group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// Asks the system's user database. `None` when there is no such user.
pub fn lookup(name: &str) -> io::Result<Option<User>> {
    let found = unistd::User::from_name(name)?;
    Ok(found.map(|user| User { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
}
