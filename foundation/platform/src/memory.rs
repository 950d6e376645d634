//! Memory of this process: what never goes to swap, and what it does not keep.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io::{self, Read};
#[cfg(target_env = "gnu")]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// CAP_IPC_LOCK in a capability set (capabilities(7)).
const CAP_IPC_LOCK: u32 = 14;
/// Set by the first [`lock`]; `UNLOCKED` is set while its pages are to be locked again.
static LOCKED: AtomicBool = AtomicBool::new(false);
static UNLOCKED: AtomicBool = AtomicBool::new(false);
/// Bytes that may lie free in the heap's pages, beyond what could not be given back the last time.
#[cfg(target_env = "gnu")]
const FREE_BYTES_MAX: u64 = 4 * 1024 * 1024;
#[cfg(target_env = "gnu")]
static FREE_BYTES_LEFT: AtomicU64 = AtomicU64::new(0);
/// `/proc/self/smaps` is about a kilobyte a mapping.
const SMAPS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Keeps all memory that this process has and will have from being swapped: keys, and every copy of them that a library
/// makes on its stack or heap. Pages are locked when they are touched, so untouched ones cost nothing. Pages of program
/// files are locked too, until [`release_program`] lets go of them.
///
/// `PermissionDenied` without RLIMIT_MEMLOCK `infinity` (or CAP_IPC_LOCK): under a limit the kernel would refuse memory
/// later, in the middle of the work.
pub fn lock() -> io::Result<()> {
    check_limit()?;
    lock_all()
}

fn lock_all() -> io::Result<()> {
    // SAFETY: mlockall(2) takes flags, and changes no contents.
    #[expect(unsafe_code, reason = "nix does not know MCL_ONFAULT")]
    let done = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    Errno::result(done)?;
    LOCKED.store(true, Ordering::Relaxed);
    UNLOCKED.store(false, Ordering::Relaxed);
    Ok(())
}

/// `Ok` when RLIMIT_MEMLOCK or CAP_IPC_LOCK lets all memory be locked; else `PermissionDenied`.
fn check_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if hard == RLIM_INFINITY && soft != hard {
        setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)?;
    }
    if hard == RLIM_INFINITY || may_lock() {
        return Ok(());
    }
    let limit = format!("RLIMIT_MEMLOCK is {hard} bytes; it must be infinity");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, limit))
}

fn may_lock() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set & (1 << CAP_IPC_LOCK) != 0)
}

/// Heaps that the threads of this process share.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: c_int = 2;

/// Lets all threads share few heaps. The C library makes eight for each core, and what is free in one is of no use to a
/// thread that has another: a daemon whose threads come and go grows by what lies free in all of them. To be called
/// before the first thread is started.
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two integers, and its own locks.
    #[expect(unsafe_code, reason = "a call of the C library's allocator")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
    }
}

/// Gives back the heap's free pages, if they are many: what a crowd of callers took does not stay with the process when
/// the crowd has gone. Whether it was done.
///
/// The kernel takes no page back that is locked, so the process's memory is not locked meanwhile: for milliseconds, or a
/// tenth of a second where a heap has hundreds of megabytes. No page can go to swap then where there is none; where there
/// is, nothing is given back.
#[cfg(target_env = "gnu")]
pub fn release_heap() -> io::Result<bool> {
    if UNLOCKED.load(Ordering::Relaxed) {
        // It could not be locked again the last time.
        lock_all()?;
    }
    let free = free_bytes()?;
    let left = FREE_BYTES_LEFT.fetch_min(free, Ordering::Relaxed).min(free);
    if free.saturating_sub(left) < FREE_BYTES_MAX {
        return Ok(false);
    }
    let locked = LOCKED.load(Ordering::Relaxed);
    if locked && has_swap()? {
        return Ok(false);
    }
    if locked {
        check_limit()?;
        UNLOCKED.store(true, Ordering::Relaxed);
    }
    if locked {
        // SAFETY: unlocking changes no contents.
        #[expect(unsafe_code, reason = "nix offers it with a feature that nothing else needs")]
        let unlocked = unsafe { libc::munlockall() };
        Errno::result(unlocked)?;
    }
    // SAFETY: malloc_trim(3) gives back free memory only, and takes its own locks.
    #[expect(unsafe_code, reason = "a call of the C library's allocator")]
    unsafe {
        libc::malloc_trim(0);
    }
    if locked {
        lock_all()?;
    }
    // Holes that are smaller than a page stay.
    FREE_BYTES_LEFT.store(free_bytes()?, Ordering::Relaxed);
    Ok(true)
}

/// Bytes of this process's own pages that are in no use.
#[cfg(target_env = "gnu")]
fn free_bytes() -> io::Result<u64> {
    // SAFETY: mallinfo2(3) only counts, under its own locks.
    #[expect(unsafe_code, reason = "a call of the C library's allocator")]
    let heap = unsafe { libc::mallinfo2() };
    let used = u64::try_from(heap.uordblks.saturating_add(heap.hblkhd)).map_err(io::Error::other)?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| field(line, "RssAnon:")).unwrap_or_default();
    Ok(resident.saturating_mul(1024).saturating_sub(used))
}

/// A kernel that can have none has no such file.
#[cfg(target_env = "gnu")]
fn has_swap() -> io::Result<bool> {
    match std::fs::read_to_string("/proc/swaps") {
        Ok(swaps) => Ok(names_swap(&swaps)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// `/proc/swaps` (proc(5)): a head line, then one for each.
#[cfg(target_env = "gnu")]
fn names_swap(swaps: &str) -> bool {
    swaps.lines().nth(1).is_some()
}

/// Other C libraries give free pages back themselves.
#[cfg(not(target_env = "gnu"))]
pub fn release_heap() -> io::Result<bool> {
    Ok(false)
}

/// Gives back every page of program files that can be read again from there: a daemon that has started does not keep in
/// memory what only its start needed. What is needed again comes from the page cache by a fault. Gives the number of bytes
/// that were let go of.
pub fn release_program() -> io::Result<u64> {
    let mut release = Release { clean: None, released: Ok(0) };
    // SAFETY: `release_object` has the type that the loader calls, and `release` outlives the call, during which nobody
    // else uses it.
    #[expect(unsafe_code, reason = "the loader lists its objects to a C function")]
    unsafe {
        libc::dl_iterate_phdr(Some(release_object), (&raw mut release).cast());
    }
    release.released
}

struct Release {
    /// Mappings that may be let go of; looked up at the first object, when the loader's lock is held.
    clean: Option<Vec<Mapping>>,
    released: io::Result<u64>,
}

/// The loader calls this for each object under its lock: no object comes or goes meanwhile.
#[expect(unsafe_code, reason = "called by the dynamic loader")]
unsafe extern "C" fn release_object(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
    // SAFETY: this is what `release_program` handed in; it is exclusively ours while the loader calls.
    let release = unsafe { &mut *data.cast::<Release>() };
    // SAFETY: the loader gives a valid structure that nobody changes during the call.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: the object's program headers are mapped with it, as many as the loader says.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let clean = match release.clean.take() {
        Some(clean) => clean,
        None => match read_smaps() {
            Ok(text) => program_mappings(&text),
            Err(error) => {
                release.released = Err(error);
                return 1;
            }
        },
    };
    for header in headers {
        let fixed = header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
        if let Some(segment) = fixed.then(|| pages(info.dlpi_addr, header)).flatten()
            && let Some(mapping) = clean.iter().find(|mapping| mapping.holds(&segment))
            && let_go(&segment)
            && let Ok(released) = &mut release.released
        {
            *released += mapping.resident_bytes;
        }
    }
    release.clean = Some(clean);
    0
}

fn read_smaps() -> io::Result<String> {
    let mut text = String::new();
    File::open("/proc/self/smaps")?.take(SMAPS_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The whole pages of a segment.
fn pages(base: u64, header: &libc::Elf64_Phdr) -> Option<Mapping> {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten()?;
    let page = u64::try_from(page).ok()?;
    let start = base.checked_add(header.p_vaddr)?;
    let end = start.checked_add(header.p_memsz)?.checked_next_multiple_of(page)?;
    let start = start.checked_sub(start.checked_rem(page)?)?;
    let bytes = usize::try_from(end.checked_sub(start)?).ok()?;
    Some(Mapping { start: usize::try_from(start).ok()?, bytes, resident_bytes: 0 })
}

/// `segment` is mapped by the loader, which holds its lock, and is neither writable nor has a page of our own.
fn let_go(segment: &Mapping) -> bool {
    let start = std::ptr::with_exposed_provenance_mut::<c_void>(segment.start);
    // SAFETY: unlocking changes no contents.
    #[expect(unsafe_code, reason = "advice about memory that no type stands for")]
    let unlocked = unsafe { libc::munlock(start, segment.bytes) };
    // SAFETY: a private mapping of a file, without a page of our own in it (none was written, and none can be): after the
    // kernel drops its pages a reader finds the same bytes, read from the file.
    #[expect(unsafe_code, reason = "advice about memory that no type stands for")]
    let dropped = || unsafe { libc::madvise(start, segment.bytes, libc::MADV_DONTNEED) };
    unlocked == 0 && dropped() == 0
}

#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    bytes: usize,
    resident_bytes: u64,
}

impl Mapping {
    fn holds(&self, other: &Self) -> bool {
        let end = |mapping: &Self| mapping.start.checked_add(mapping.bytes);
        other.start >= self.start && end(other).is_some() && end(other) <= end(self)
    }
}

/// Mappings of files, private and not writable, of which no page is a copy of our own (such as a relocated one).
fn program_mappings(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut candidate: Option<Mapping> = None;
    for line in smaps.lines() {
        match header(line) {
            Line::Mapping(mapping) => candidate = Some(mapping),
            Line::Other => candidate = None,
            Line::Field => {}
        }
        if let Some(kilobytes) = field(line, "Rss:") {
            if let Some(mapping) = &mut candidate {
                mapping.resident_bytes = kilobytes.saturating_mul(1024);
            }
        } else if field(line, "Anonymous:").is_some_and(|kilobytes| kilobytes > 0) {
            candidate = None;
        } else if let Some(kilobytes) = field(line, "Swap:")
            && let Some(mapping) = candidate.take()
            // A page of our own that went to swap before memory was locked is in no other count.
            && kilobytes == 0
        {
            found.push(mapping);
        }
    }
    found
}

/// Kind of a line of `/proc/self/smaps`.
enum Line {
    /// The head of a mapping of a program file.
    Mapping(Mapping),
    /// The head of a mapping that is not to be touched.
    Other,
    /// Something about the mapping before.
    Field,
}

/// `start-end perms offset dev inode path`, as in proc_pid_maps(5).
fn header(line: &str) -> Line {
    let mut words = line.split_ascii_whitespace();
    let address = |text| usize::from_str_radix(text, 16).ok();
    let range = words.next().and_then(|word| word.split_once('-'));
    let Some((Some(start), Some(end))) = range.map(|(start, end)| (address(start), address(end))) else {
        return Line::Field;
    };
    let permissions = words.next().unwrap_or_default();
    let file = words.nth(3).is_some_and(|path| path.starts_with('/'));
    let readable = matches!(permissions, "r--p" | "r-xp");
    match end.checked_sub(start) {
        Some(bytes) if file && readable => Line::Mapping(Mapping { start, bytes, resident_bytes: 0 }),
        _ => Line::Other,
    }
}

fn field(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_env = "gnu")]
    #[test]
    fn swap_is_seen() {
        let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!names_swap(head) && !names_swap(""));
        assert!(names_swap(&format!("{head}/dev/zram0  partition\t8388604\t\t0\t\t100\n")));
    }

    #[test]
    fn only_clean_read_only_mappings_of_files_are_let_go_of() {
        let mapping = |head: &str, anonymous: u64, swapped: u64| {
            format!(
                "{head}\nSize: 8 kB\nRss:  8 kB\nAnonymous: {anonymous} kB\nSwap: {swapped} kB\nSwapPss: 0 kB\nVmFlags: rd\n"
            )
        };
        for (head, anonymous, taken) in [
            ("1000-3000 r-xp 00000000 fe:00 42    /usr/bin/edgewarden", 0, true),
            ("1000-3000 r--p 00000000 fe:00 42    /usr/lib/a b.so", 0, true),
            // Relocated by the loader: the file holds other bytes.
            ("1000-3000 r-xp 00000000 fe:00 42    /usr/bin/edgewarden", 4, false),
            ("1000-3000 rw-p 00000000 fe:00 42    /usr/bin/edgewarden", 0, false),
            ("1000-3000 rwxp 00000000 fe:00 42    /usr/bin/edgewarden", 0, false),
            ("1000-3000 r--s 00000000 fe:00 42    /var/lib/shared", 0, false),
            ("1000-3000 ---p 00000000 fe:00 42    /usr/bin/edgewarden", 0, false),
            ("1000-3000 r--p 00000000 00:00 0 ", 0, false),
            ("1000-3000 r-xp 00000000 00:00 0    [vdso]", 0, false),
            ("3000-1000 r-xp 00000000 fe:00 42    /usr/bin/edgewarden", 0, false),
        ] {
            let expected = Mapping { start: 0x1000, bytes: 0x2000, resident_bytes: 8192 };
            let expected = if taken { vec![expected] } else { vec![] };
            assert_eq!(program_mappings(&mapping(head, anonymous, 0)), expected, "{head} {anonymous}");
            assert_eq!(program_mappings(&mapping(head, anonymous, 4)), [], "{head}, swapped");
        }
        assert_eq!(program_mappings("nonsense\n\nRss: x kB\nAnonymous: 0 kB\n"), []);
    }
}
