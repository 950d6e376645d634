//! Programs that the kernel would execute when a container starts: the program itself, and the interpreters that it
//! names.
//!
//! A path that is the image's in the unpacked tree must not be another's in the container, where `/proc/self/exe` is the
//! OCI runtime's own program. So a program is looked for in the tree only, a name alone too, and a script's interpreter
//! and a dynamic program's loader as well: the kernel opens those before anything of the image runs.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::tree;

/// The kernel follows so many interpreters of interpreters (`BINPRM` loops, execve(2)).
const INTERPRETERS_MAX: usize = 5;
/// The kernel's limit of a `#!` line (`BINPRM_BUF_SIZE`).
const LINE_BYTES_MAX: u64 = 256;
const PATH_BYTES_MAX: u64 = 4096;
/// A program header of a wide ELF file.
const HEADER_BYTES_MAX: u64 = 56;
/// The kernel takes no more program headers than fit 64 KiB.
const HEADERS_MAX: u64 = 65_536 / 32;
const PT_INTERP: u32 = 3;

/// The path to hand to the runtime, for a program as an image or a deployment names it: itself when it is a path, the
/// first place in `search` when it is a name alone. The error says what is missing.
pub fn find(root: &Path, working_folder: &str, search: &str, program: &str) -> Result<String, String> {
    if program.contains('/') {
        if program.starts_with('/') {
            check(root, program, 0)?;
        } else {
            check(root, &format!("{}/{program}", working_folder.trim_end_matches('/')), 0)?;
        }
        return Ok(program.to_owned());
    }
    for folder in search.split(':').filter(|folder| folder.starts_with('/')) {
        let path = format!("{}/{program}", folder.trim_end_matches('/'));
        if tree::file(root, &path).is_some_and(|file| is_executable(&file)) {
            check(root, &path, 0)?;
            return Ok(path);
        }
    }
    Err(format!("no folder of PATH (`{}`) has a program `{}`", search.escape_debug(), program.escape_debug()))
}

fn is_executable(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0)
}

fn check(root: &Path, path: &str, interpreters: usize) -> Result<(), String> {
    let named = path.escape_debug();
    if interpreters > INTERPRETERS_MAX {
        return Err(format!("`{named}` is an interpreter of interpreters without end"));
    }
    let file = tree::file(root, path).ok_or_else(|| format!("the image has no program `{named}`"))?;
    if !is_executable(&file) {
        return Err(format!("`{named}` is not executable"));
    }
    match interpreter(&file).map_err(|error| format!("`{named}` cannot be read: {error}"))? {
        Some(next) if next.starts_with('/') => check(root, &next, interpreters.saturating_add(1))
            .map_err(|error| format!("`{named}` needs an interpreter: {error}")),
        Some(next) => {
            Err(format!("`{named}` names no absolute path of its interpreter: `{}`", next.escape_debug()))
        }
        None => Ok(()),
    }
}

/// The file that the kernel opens besides: the interpreter of a script, the loader of a dynamic program.
fn interpreter(file: &File) -> io::Result<Option<String>> {
    let head = read_at_most(file, LINE_BYTES_MAX, 0)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line: Vec<u8> = line.iter().copied().take_while(|byte| !matches!(byte, b'\n' | 0)).collect();
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        return Ok(Some(String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned()));
    }
    Elf::read(&head).map_or(Ok(None), |elf| elf.loader(file))
}

/// The bytes at `at`, `bytes_max` of them or up to the file's end.
fn read_at_most(mut file: &File, bytes_max: u64, at: u64) -> io::Result<Vec<u8>> {
    file.seek(io::SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Place and layout of an ELF file's program headers (elf(5)).
struct Elf {
    wide: bool,
    little: bool,
    headers: u64,
    header_bytes: u64,
    count: u64,
}

impl Elf {
    /// `None` for what is no ELF file, or none that the kernel reads.
    fn read(head: &[u8]) -> Option<Self> {
        let [0x7f, b'E', b'L', b'F', class @ (1 | 2), order @ (1 | 2), ..] = head else { return None };
        let mut elf = Self { wide: *class == 2, little: *order == 1, headers: 0, header_bytes: 0, count: 0 };
        (elf.headers, elf.header_bytes, elf.count) = if elf.wide {
            (elf.number(head, 32, 8)?, elf.number(head, 54, 2)?, elf.number(head, 56, 2)?)
        } else {
            (elf.number(head, 28, 4)?, elf.number(head, 42, 2)?, elf.number(head, 44, 2)?)
        };
        (elf.count <= HEADERS_MAX).then_some(elf)
    }

    fn number(&self, bytes: &[u8], at: usize, length: usize) -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(length)?)?;
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) })
    }

    /// The first PT_INTERP, which is the one that the kernel takes.
    fn loader(&self, file: &File) -> io::Result<Option<String>> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "its ELF headers are broken");
        for index in 0..self.count {
            let at = index.checked_mul(self.header_bytes).and_then(|at| at.checked_add(self.headers));
            let header = read_at_most(file, HEADER_BYTES_MAX, at.ok_or_else(broken)?)?;
            let field = |at, length| self.number(&header, at, length).ok_or_else(broken);
            if field(0, 4)? != u64::from(PT_INTERP) {
                continue;
            }
            let (offset, length) =
                if self.wide { (field(8, 8)?, field(32, 8)?) } else { (field(4, 4)?, field(16, 4)?) };
            if length > PATH_BYTES_MAX {
                return Err(broken());
            }
            let path = read_at_most(file, length, offset)?;
            let path: Vec<u8> = path.into_iter().take_while(|byte| *byte != 0).collect();
            return Ok(Some(String::from_utf8_lossy(&path).into_owned()));
        }
        Ok(None)
    }
}
