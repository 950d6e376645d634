//! Libraries that the process has loaded.

use std::ffi::{CStr, CString, c_int, c_void};

/// Keeps every library that is loaded now until the process ends, so that loading one again needs no new code in memory:
/// a process that may map no code any more (see [`crate::seccomp`]) can still close and reopen what it uses.
pub fn keep() {
    for name in loaded() {
        // SAFETY: the name is a string that ends with a zero byte. RTLD_NOLOAD runs no code: the library is there, or
        // nothing happens.
        #[expect(unsafe_code, reason = "only the dynamic loader can say that a library stays")]
        let handle =
            unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_NODELETE | libc::RTLD_LAZY) };
        if handle.is_null() {
            tracing::debug!(library = %name.to_string_lossy(), "a library is gone already");
        }
    }
}

/// Names as the dynamic loader knows them, without the program itself.
fn loaded() -> Vec<CString> {
    let mut names: Vec<CString> = Vec::new();
    // SAFETY: `note` has the type that the loader calls, and `names` outlives the call, during which nobody else uses it.
    #[expect(unsafe_code, reason = "the loader lists its libraries to a C function")]
    unsafe {
        libc::dl_iterate_phdr(Some(note), (&raw mut names).cast());
    }
    names
}

#[expect(unsafe_code, reason = "called by the dynamic loader")]
unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: usize, names: *mut c_void) -> c_int {
    // SAFETY: the loader gives a valid structure that nobody changes during the call.
    let info = unsafe { &*info };
    // SAFETY: this is what `loaded` handed in; it is exclusively ours while the loader calls.
    let names = unsafe { &mut *names.cast::<Vec<CString>>() };
    if !info.dlpi_name.is_null() {
        // SAFETY: the loader's names end with a zero byte and live as long as the library.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) };
        if !name.is_empty() {
            names.push(name.to_owned());
        }
    }
    0
}
