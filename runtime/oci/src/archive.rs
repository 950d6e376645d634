//! Reads a tar archive (POSIX ustar and pax, GNU, V7), strictly: where two readers could see two archives, it is refused.
//!
//! What a signature was made for must be what is unpacked here, whatever else reads it. So the size of an extended header
//! is the entry's size, only files have contents, what describes an entry comes once, and a header that holds for all
//! entries decides nothing. Sparse files are read in all four forms that GNU tar writes. Names are bytes.
//!
//! Everything that an archive can make grow is bounded: headers, names, extended headers, the parts of a sparse file.

use std::io::{self, BufRead};

/// Headers of an archive, those that only say something about the next entry too.
pub const HEADERS_MAX: usize = 600_000;
/// Bytes of a name or of a link's target.
pub const PATH_BYTES_MAX: usize = 4096;
const PAX_BYTES_MAX: u64 = 1024 * 1024;
/// Parts of a sparse file that hold bytes.
const SPARSE_PARTS_MAX: usize = 65_536;

const BLOCK_BYTES: usize = 512;
const BLOCK_SIZE: u64 = 512;
type Block = [u8; BLOCK_BYTES];

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    Symlink,
    HardLink,
    /// A device node or a FIFO.
    Node,
    /// With the type that its header names.
    Unknown(u8),
}

/// One entry, without its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub kind: Kind,
    /// As it is written.
    pub name: Vec<u8>,
    /// The target of a link, as it is written.
    pub link: Option<Vec<u8>>,
    pub mode: u32,
    /// User and group id.
    pub owner: u64,
    pub group: u64,
    /// Bytes of the file, holes included; 0 for all else.
    pub size: u64,
    /// Rights that Linux would give to whoever executes the file (`security.capability`).
    pub capabilities: bool,
    /// Offset and length of what a sparse file holds, in order.
    parts: Option<Vec<(u64, u64)>>,
}

impl Member {
    pub fn is_sparse(&self) -> bool {
        self.parts.is_some()
    }
}

/// An archive that is read once, from its beginning to its end.
#[derive(Debug)]
pub struct Archive<R> {
    stream: R,
    headers: usize,
    ended: bool,
    /// Bytes of the entry's contents that were not read, and what fills up its last block.
    left: u64,
    padding: u64,
}

/// What comes before an entry and is about it.
#[derive(Default)]
struct Before {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    extended: Option<Extended>,
}

/// An extended header (POSIX, "pax Extended Header"; GNU tar, "Storing Sparse Files").
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    owner: Option<u64>,
    group: Option<u64>,
    capabilities: bool,
    sparse: Sparse,
}

#[derive(Debug, Default)]
struct Sparse {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    /// `GNU.sparse.size` or `GNU.sparse.realsize`
    real_size: Option<u64>,
    /// Form 0.1
    map: Option<Vec<(u64, u64)>>,
    /// Form 0.0
    pairs: Vec<(u64, u64)>,
    offset: Option<u64>,
    /// Any of its keys is there.
    named: bool,
}

pub(crate) fn invalid(rule: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, rule.into())
}

pub(crate) fn unsupported(rule: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, rule.into())
}

pub(crate) fn too_large(rule: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, rule.into())
}

impl<R: BufRead> Archive<R> {
    pub fn new(stream: R) -> Self {
        Self { stream, headers: 0, ended: false, left: 0, padding: 0 }
    }

    /// The next entry. What was not read of the last one's contents is passed over.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        self.pass_over()?;
        let mut before = Before::default();
        loop {
            let Some(header) = self.header()? else {
                let nothing = before.long_name.is_none() && before.long_link.is_none();
                return if nothing && before.extended.is_none() {
                    Ok(None)
                } else {
                    Err(invalid("the archive ends where an entry was announced"))
                };
            };
            match kind_byte(&header) {
                b'L' => once(&mut before.long_name, self.long_name(&header)?, "name")?,
                b'K' => once(&mut before.long_link, self.long_name(&header)?, "link target")?,
                b'x' => {
                    let extended = Extended::parse(&self.small(&header, PAX_BYTES_MAX)?)?;
                    once(&mut before.extended, extended, "extended header")?;
                }
                b'g' => check_global(&self.small(&header, PAX_BYTES_MAX)?)?,
                _ => return self.member(&header, before).map(Some),
            }
        }
    }

    /// The contents of the entry that was read last: `sink` gets what lies at an offset, in order, without the holes.
    pub fn contents(
        &mut self,
        member: &Member,
        mut sink: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let whole = [(0, member.size)];
        for (offset, length) in member.parts.as_deref().unwrap_or(&whole) {
            let (mut at, mut wanted) = (*offset, *length);
            while wanted > 0 {
                let bytes = self.stream.fill_buf()?;
                let count = bytes.len().min(usize::try_from(wanted.min(self.left)).unwrap_or(usize::MAX));
                if count == 0 {
                    return Err(invalid("the archive ends inside a file"));
                }
                sink(at, bytes.get(..count).unwrap_or_default())?;
                self.stream.consume(count);
                self.left = self.left.saturating_sub(count as u64);
                wanted = wanted.saturating_sub(count as u64);
                at = at.saturating_add(count as u64);
            }
        }
        Ok(())
    }

    fn pass_over(&mut self) -> io::Result<()> {
        let mut left = self.left.saturating_add(self.padding);
        while left > 0 {
            let bytes = self.stream.fill_buf()?;
            let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if count == 0 {
                return Err(invalid("the archive ends inside a file"));
            }
            self.stream.consume(count);
            left = left.saturating_sub(count as u64);
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// `None` at the end of the stream.
    fn block(&mut self) -> io::Result<Option<Block>> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..)
            && !rest.is_empty()
        {
            match self.stream.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(invalid("the archive ends inside a block")),
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(block))
    }

    /// The next header, or `None` where the archive ends: at two blocks of zeros, or with the stream.
    fn header(&mut self) -> io::Result<Option<Block>> {
        let zeros = |block: &Block| block.iter().all(|byte| *byte == 0);
        if self.ended {
            return Ok(None);
        }
        let header = match self.block()? {
            Some(header) if !zeros(&header) => header,
            None => {
                self.ended = true;
                return Ok(None);
            }
            Some(_) => {
                // Some readers would go on.
                if self.block()?.is_some_and(|second| !zeros(&second)) {
                    return Err(invalid("a block of zeros lies between two entries"));
                }
                self.ended = true;
                return Ok(None);
            }
        };
        self.headers = self.headers.saturating_add(1);
        if self.headers > HEADERS_MAX {
            return Err(too_large(format!("there are more than {HEADERS_MAX} headers")));
        }
        let sum = header.iter().enumerate().fold(0_u64, |sum, (at, byte)| {
            sum.saturating_add(if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
        });
        if number(&header, 148, 8)? != sum {
            return Err(invalid("the checksum of a header is wrong"));
        }
        Ok(Some(header))
    }

    /// Sets what is left to be read.
    fn open(&mut self, bytes: u64) {
        self.left = bytes;
        self.padding = bytes.next_multiple_of(BLOCK_SIZE).saturating_sub(bytes);
    }

    fn small(&mut self, header: &Block, bytes_max: u64) -> io::Result<Vec<u8>> {
        let size = number(header, 124, 12)?;
        if size > bytes_max {
            return Err(invalid("a name or an extended header is too long"));
        }
        self.open(size);
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| too_large("a header is too long"))?];
        self.stream.read_exact(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => invalid("the archive ends inside a header"),
            _ => error,
        })?;
        self.left = 0;
        self.pass_over()?;
        Ok(bytes)
    }

    fn long_name(&mut self, header: &Block) -> io::Result<Vec<u8>> {
        Ok(text(&self.small(header, PATH_BYTES_MAX as u64 + 1)?).to_vec())
    }

    fn member(&mut self, header: &Block, before: Before) -> io::Result<Member> {
        let extended = before.extended.unwrap_or_default();
        let mut name = chosen(extended.path, before.long_name, "name")?.unwrap_or_else(|| short_name(header));
        let link = chosen(extended.link, before.long_link, "link target")?.or_else(|| {
            let link = text(field(header, 157, 100));
            (!link.is_empty()).then(|| link.to_vec())
        });
        if let Some(real) = extended.sparse.name.clone() {
            name = real;
        }
        let named = |error: io::Error| about(&name, &error);
        let byte = kind_byte(header);
        let mut kind = match byte {
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' | b'6' => Kind::Node,
            b'5' => Kind::Folder,
            other => Kind::Unknown(other),
        };
        let stored = match extended.size {
            Some(size) => size,
            None => number(header, 124, 12).map_err(named)?,
        };
        if kind == Kind::File && name.ends_with(b"/") {
            // V7 writes folders so; who reads another kind of header may see a file.
            if byte != 0 || stored > 0 {
                return Err(named(invalid("it is a file with the name of a folder")));
            }
            kind = Kind::Folder;
        }
        if !matches!(kind, Kind::File | Kind::Unknown(_)) && stored > 0 {
            return Err(named(invalid("it has contents and is no file")));
        }
        if kind != Kind::File && extended.sparse.named {
            return Err(named(invalid("it is described as sparse and is no file")));
        }
        let mode = number(header, 100, 8).map_err(named)?;
        let owner = match extended.owner {
            Some(owner) => owner,
            None => number(header, 108, 8).map_err(named)?,
        };
        let group = match extended.group {
            Some(group) => group,
            None => number(header, 116, 8).map_err(named)?,
        };
        self.open(stored);
        let (size, parts) = if byte == b'S' {
            let map = if extended.sparse.named || extended.size.is_some() {
                Err(invalid("it is described as sparse in two ways"))
            } else {
                self.old_map(header)
            };
            map.map(|(size, parts)| (size, Some(parts))).map_err(named)?
        } else if extended.sparse.named {
            let (size, parts) = self.extended_map(extended.sparse).map_err(named)?;
            (size, Some(parts))
        } else {
            (stored, None)
        };
        if let Some(parts) = &parts {
            check_parts(parts, size, self.left).map_err(named)?;
        }
        Ok(Member {
            kind,
            link,
            // What is above is the kind of file, in some archives.
            mode: u32::try_from(mode & 0o7777).unwrap_or(0),
            owner,
            group,
            size: if kind == Kind::File { size } else { 0 },
            capabilities: extended.capabilities,
            parts,
            name,
        })
    }

    /// Form of old GNU tar: the first parts in the header, more in blocks behind it, which its size does not count.
    fn old_map(&mut self, header: &Block) -> io::Result<(u64, Vec<(u64, u64)>)> {
        if field(header, 257, 8) != b"ustar  \0" {
            return Err(invalid("it is sparse as only GNU writes it, in another header"));
        }
        let size = number(header, 483, 12)?;
        let mut parts = Vec::new();
        let mut more = take_parts(header, 386, 4, &mut parts)? && field(header, 482, 1) != [0];
        while more {
            let block = self.block()?.ok_or_else(|| invalid("the archive ends inside a map"))?;
            more = take_parts(&block, 0, 21, &mut parts)? && field(&block, 504, 1) != [0];
        }
        Ok((size, parts))
    }

    fn extended_map(&mut self, sparse: Sparse) -> io::Result<(u64, Vec<(u64, u64)>)> {
        let size = sparse.real_size.ok_or_else(|| invalid("it is sparse, of no size"))?;
        if sparse.offset.is_some() {
            return Err(invalid("a part of it has no length"));
        }
        let parts = match (sparse.major, sparse.minor, sparse.map, sparse.pairs) {
            (Some(1), Some(0), None, pairs) if pairs.is_empty() => self.leading_map()?,
            (None | Some(0), None | Some(0 | 1), Some(map), pairs) if pairs.is_empty() => map,
            (None | Some(0), None | Some(0), None, pairs) => pairs,
            (Some(1), Some(0), ..) | (None | Some(0), ..) => {
                return Err(invalid("it is described as sparse in two ways"));
            }
            _ => return Err(unsupported("it is sparse in a form that is not known")),
        };
        Ok((size, parts))
    }

    /// Form 1.0: decimal numbers in lines before the contents, in whole blocks.
    fn leading_map(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut numbers = Lines { archive: self, block: [0; BLOCK_BYTES], at: BLOCK_BYTES };
        let count = numbers.next_number()?;
        if count > SPARSE_PARTS_MAX as u64 {
            return Err(too_large(format!("it has more than {SPARSE_PARTS_MAX} parts")));
        }
        (0..count).map(|_| Ok((numbers.next_number()?, numbers.next_number()?))).collect()
    }
}

/// Numbers at the beginning of a sparse file.
struct Lines<'a, R> {
    archive: &'a mut Archive<R>,
    block: Block,
    at: usize,
}

impl<R: BufRead> Lines<'_, R> {
    fn next_number(&mut self) -> io::Result<u64> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK_BYTES {
                let left = self.archive.left.checked_sub(BLOCK_SIZE);
                self.archive.left = left.ok_or_else(|| invalid("its map is longer than it is"))?;
                let block = self.archive.block()?;
                self.block = block.ok_or_else(|| invalid("the archive ends inside a map"))?;
                self.at = 0;
            }
            let byte = self.block.get(self.at).copied().unwrap_or_default();
            self.at = self.at.saturating_add(1);
            if byte == b'\n' {
                return decimal(&digits);
            }
            digits.push(byte);
            if digits.len() > 20 {
                return Err(invalid("its map holds what is no number"));
            }
        }
    }
}

impl Extended {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut found = Self::default();
        records(bytes, |key, value| {
            // An empty value takes back what was said before.
            let number = || if value.is_empty() { Ok(None) } else { decimal(value).map(Some) };
            match key {
                b"path" => found.path = words(value)?,
                b"linkpath" => found.link = words(value)?,
                b"size" => found.size = number()?,
                b"uid" => found.owner = number()?,
                b"gid" => found.group = number()?,
                b"SCHILY.xattr.security.capability" | b"LIBARCHIVE.xattr.security.capability" => {
                    found.capabilities = true;
                }
                key => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        found.sparse.take(key, value)?;
                    }
                }
            }
            Ok(())
        })?;
        Ok(found)
    }
}

impl Sparse {
    fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.named = true;
        match key {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => self.name = words(value)?,
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            // What is said is counted.
            b"numblocks" => {}
            b"map" => {
                let mut numbers = value.split(|byte| *byte == b',').map(decimal);
                let mut map = Vec::new();
                while let Some(offset) = numbers.next() {
                    let length = numbers.next().ok_or_else(|| invalid("a part has no length"))?;
                    add_part(&mut map, (offset?, length?))?;
                }
                self.map = Some(map);
            }
            b"offset" => match self.offset.replace(decimal(value)?) {
                None => {}
                Some(_) => return Err(invalid("a part has no length")),
            },
            b"numbytes" => {
                let offset = self.offset.take().ok_or_else(|| invalid("a part has no offset"))?;
                add_part(&mut self.pairs, (offset, decimal(value)?))?;
            }
            _ => return Err(unsupported("a sparse file is described in a form that is not known")),
        }
        Ok(())
    }
}

/// Of headers for all entries, `git archive` writes a comment. What would decide something is obeyed by some readers only.
fn check_global(bytes: &[u8]) -> io::Result<()> {
    records(bytes, |key, _| {
        let decides = matches!(key, b"path" | b"linkpath" | b"size" | b"uid" | b"gid")
            || key.starts_with(b"GNU.sparse.")
            || key.ends_with(b".xattr.security.capability");
        if decides { Err(unsupported("an extended header would decide about all entries")) } else { Ok(()) }
    })
}

/// `length key=value\n`, where the length counts all of it, itself too. A value may hold anything.
fn records(bytes: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
    let malformed = || invalid("an extended header is malformed");
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = rest.iter().take(21).position(|byte| *byte == b' ').ok_or_else(malformed)?;
        let (digits, _) = rest.split_at_checked(space).ok_or_else(malformed)?;
        let length = usize::try_from(decimal(digits)?).map_err(|_| malformed())?;
        let (record, after) = rest.split_at_checked(length).ok_or_else(malformed)?;
        let body = record.get(space.saturating_add(1)..).and_then(|body| body.strip_suffix(b"\n"));
        let body = body.ok_or_else(malformed)?;
        let equals = body.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
        let (key, value) = body.split_at_checked(equals).ok_or_else(malformed)?;
        if key.is_empty() {
            return Err(malformed());
        }
        each(key, value.get(1..).unwrap_or_default())?;
        rest = after;
    }
    Ok(())
}

fn words(value: &[u8]) -> io::Result<Option<Vec<u8>>> {
    if value.contains(&0) || value.len() > PATH_BYTES_MAX {
        return Err(invalid("a name is too long or holds a NUL"));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn once<T>(place: &mut Option<T>, value: T, what: &str) -> io::Result<()> {
    if place.replace(value).is_some() {
        return Err(invalid(format!("an entry has a second {what}")));
    }
    Ok(())
}

/// Readers differ about which of the two counts.
fn chosen(extended: Option<Vec<u8>>, long: Option<Vec<u8>>, what: &str) -> io::Result<Option<Vec<u8>>> {
    match (extended, long) {
        (Some(extended), Some(long)) if extended != long => {
            Err(about(&extended, &invalid(format!("it has a second {what}"))))
        }
        (extended, long) => Ok(extended.or(long)),
    }
}

fn field(block: &Block, start: usize, length: usize) -> &[u8] {
    block.get(start..start.saturating_add(length)).unwrap_or_default()
}

fn kind_byte(header: &Block) -> u8 {
    field(header, 156, 1).first().copied().unwrap_or_default()
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// GNU has other things where POSIX has what comes before the name.
fn short_name(header: &Block) -> Vec<u8> {
    let name = text(field(header, 0, 100));
    let prefix = text(field(header, 345, 155));
    if field(header, 257, 6) == b"ustar\0" && !prefix.is_empty() {
        [prefix, b"/", name].concat()
    } else {
        name.to_vec()
    }
}

/// Octal digits, or binary with the highest bit set (GNU and star, for what does not fit).
fn number(block: &Block, start: usize, length: usize) -> io::Result<u64> {
    let malformed = || invalid("a number in a header is malformed");
    let field = field(block, start, length);
    let in_base = |digits: &[u8], base: u64| {
        digits
            .iter()
            .try_fold(0_u64, |number, digit| number.checked_mul(base)?.checked_add(u64::from(*digit)))
    };
    if let Some((0x80, digits)) = field.split_first() {
        return in_base(digits, 256).ok_or_else(malformed);
    }
    let digits = text(field.trim_ascii_start()).trim_ascii();
    let octal: Option<Vec<u8>> =
        digits.iter().map(|digit| digit.checked_sub(b'0').filter(|digit| *digit < 8)).collect();
    in_base(&octal.ok_or_else(malformed)?, 8).ok_or_else(malformed)
}

fn decimal(digits: &[u8]) -> io::Result<u64> {
    let digits = if digits.iter().all(u8::is_ascii_digit) { str::from_utf8(digits).ok() } else { None };
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| invalid("a number in an extended header is malformed"))
}

fn add_part(parts: &mut Vec<(u64, u64)>, part: (u64, u64)) -> io::Result<()> {
    if parts.len() >= SPARSE_PARTS_MAX {
        return Err(too_large(format!("it has more than {SPARSE_PARTS_MAX} parts")));
    }
    parts.push(part);
    Ok(())
}

/// Pairs of 12 digits. `false` when the map ends among them.
fn take_parts(block: &Block, start: usize, count: usize, parts: &mut Vec<(u64, u64)>) -> io::Result<bool> {
    for index in 0..count {
        let at = start.saturating_add(index.saturating_mul(24));
        let empty = |at| field(block, at, 1) == [0];
        match (empty(at), empty(at.saturating_add(12))) {
            (false, false) => {
                add_part(parts, (number(block, at, 12)?, number(block, at.saturating_add(12), 12)?))?;
            }
            (true, true) => return Ok(false),
            _ => return Err(invalid("a part has no offset or no length")),
        }
    }
    Ok(true)
}

/// In order, apart, within the file, and together as long as what is stored.
fn check_parts(parts: &[(u64, u64)], size: u64, stored: u64) -> io::Result<()> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for (offset, length) in parts {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
        end = next.ok_or_else(|| invalid("its parts overlap or lie outside of it"))?;
        sum = sum.saturating_add(*length);
    }
    if sum != stored {
        return Err(invalid("its parts are not as long as what is stored"));
    }
    Ok(())
}

/// The error of an entry, with its name. One that this machine's disk made stays what it is.
pub(crate) fn about(name: &[u8], error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) if crate::error::is_ours(number) => io::Error::from_raw_os_error(number),
        _ => io::Error::new(error.kind(), format!("`{}`: {error}", shown(name))),
    }
}

/// A name that is safe to show, short.
pub(crate) fn shown(name: &[u8]) -> String {
    const BYTES_MAX: usize = 256;
    let short = name.get(..BYTES_MAX).unwrap_or(name);
    let text = match str::from_utf8(short) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => short.escape_ascii().to_string(),
    };
    if short.len() < name.len() { text + "…" } else { text }
}
