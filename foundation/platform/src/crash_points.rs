//! Points where a power cut can strike: each step that [`crate::durable`] takes on a disk, told to a test before it is
//! taken.
//!
//! A test installs a hook for its own thread; the hook counts the steps, and from the one it chooses on answers with an
//! error, so that the disk stays as a dead process leaves it. The hook exists in debug builds only: in a release build
//! there is nothing to install and nothing to call. Nothing but code can install it, no variable and no file.

use std::io;
use std::path::Path;

/// One step on the disk, about to be taken.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// A new, empty file.
    Create(&'a Path),
    /// These bytes at the end of the file.
    Write {
        path: &'a Path,
        bytes: &'a [u8],
    },
    /// The file's contents go to the disk (fsync(2)).
    Sync(&'a Path),
    /// The names in the folder go to the disk.
    SyncFolder(&'a Path),
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    Remove(&'a Path),
    Truncate {
        path: &'a Path,
        length: u64,
    },
}

#[cfg(not(debug_assertions))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as in a debug build")]
pub(crate) fn before(_: Step<'_>) -> io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
pub(crate) use hook::before;
#[cfg(debug_assertions)]
pub use hook::with_hook;

#[cfg(debug_assertions)]
mod hook {
    use super::{Step, io};
    use std::cell::RefCell;

    type Hook = Box<dyn FnMut(Step<'_>) -> io::Result<()>>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// Takes the hook away, also when the body panics.
    struct Installed;

    impl Drop for Installed {
        fn drop(&mut self) {
            HOOK.with_borrow_mut(|hook| *hook = None);
        }
    }

    /// Runs `body` with `hook` asked before each step that this thread takes. An error of the hook is the step's error.
    pub fn with_hook<T>(
        hook: impl FnMut(Step<'_>) -> io::Result<()> + 'static,
        body: impl FnOnce() -> T,
    ) -> T {
        HOOK.with_borrow_mut(|installed| *installed = Some(Box::new(hook)));
        let _installed = Installed;
        body()
    }

    pub(crate) fn before(step: Step<'_>) -> io::Result<()> {
        HOOK.with_borrow_mut(|hook| hook.as_mut().map_or(Ok(()), |hook| hook(step)))
    }
}
